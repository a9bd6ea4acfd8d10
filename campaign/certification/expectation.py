"""What is expected of the masks that would be delivered: precision and recall, each with a 90 % interval.

No promise: it rests on the verifier and on held-out images, and is what a campaign believes before it has proof. How
far chances can be trusted is seen on masks whose truth is known and that the verifier had not seen: held-out ones, and,
once an order is frozen, those drawn from it. They are put into classes of chance, and in each the share that is correct
is compared with what was expected. Every imagined draw gives the images of known masks other weights (Rubin 1981, "The
Bayesian bootstrap"), corrects the classes accordingly, and lets masks of an image turn out alike, as they do among the
known ones. What votes overlook is counted with the uncertainty of the eyes.

Recall divides by the objects that the pool holds: those of a held-out image, adjusted by how many correct predictions
there are on the pool's images beside the held-out ones (the regression estimator of Cochran, "Sampling Techniques",
ch. 7), under the same weights. Until masks are drawn, all of this takes the pool's images to be like the held-out ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from campaign.records.figure import Figure
from campaign.search.portions import portions

CLASSES = np.array([0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98])  # edges of the classes of chance
DRAWS = 200
INTERVAL = 0.9
LEAST_KNOWN = 30  # masks, without which nothing is expected
_NEVER = 1e-9


@dataclass(frozen=True)
class Known:
    """Masks whose truth is known, (k,) each: their chance by a verifier that had not seen them, and their image.

    Images are numbered from 0; the first `heldout_images` of them are the held-out ones, those without a mask too.
    """

    chance: np.ndarray
    correct: np.ndarray
    image: np.ndarray
    heldout_images: int

    def beside(self, chance: np.ndarray, correct: np.ndarray, image: np.ndarray) -> Known:
        """These masks and others, of images of the pool."""
        _, place = np.unique(image, return_inverse=True)
        first = max(self.heldout_images, int(self.image.max()) + 1 if len(self.image) else 0)
        return Known(
            np.concatenate([self.chance, chance]), np.concatenate([self.correct, correct]),
            np.concatenate([self.image, first + place]), self.heldout_images,
        )  # fmt: skip


@dataclass(frozen=True)
class Tally:
    """Masks nobody was asked about, by class of chance, (c,) each: how many, and the sum of their chances.

    `spread` is the variance of how many are correct, were each so by itself.
    """

    count: np.ndarray
    total: np.ndarray
    spread: float

    @classmethod
    def of(cls, chance: np.ndarray) -> Tally:
        """Of masks with these chances of a yes, (n,)."""
        count, total = np.zeros(len(CLASSES) + 1, np.int64), np.zeros(len(CLASSES) + 1)
        for part in portions(len(chance)):
            place = _class_of(chance[part])
            count += np.bincount(place, minlength=len(count))
            np.add.at(total, place, chance[part])
        spread = 1 - chance
        spread *= chance
        return cls(count, total, float(spread.sum()))

    def correct(self, shift: np.ndarray) -> np.ndarray:
        """How many are expected to be correct where chances are off by so much, (draws, classes): (draws,)."""
        return np.clip(self.total + self.count * shift, 0.0, self.count).sum(axis=1)


@dataclass(frozen=True)
class Chosen:
    """Masks that would be delivered: the `unasked` ones, and how many were `voted` yes.

    `overlooked` (s,) draws how many wrong masks among them all votes would pass, less the correct ones they would miss.
    """

    unasked: Tally
    voted: int
    overlooked: np.ndarray

    @property
    def masks(self) -> int:
        """How many there are."""
        return int(self.unasked.count.sum()) + self.voted


@dataclass(frozen=True)
class World:
    """What tells of how many objects the pool holds; nothing of it changes by answers.

    Of each held-out image (i,): true `objects`. Of the `images` of the pool: all `predictions` by their chance before
    any answer, and of the same kind the held-out ones, `known`. Where predictions of known objects were left out, the
    pool's say nothing: `comparable` is False, and the held-out mean stands.
    """

    objects: np.ndarray
    images: int
    predictions: Tally
    known: Known
    comparable: bool = True


@dataclass(frozen=True)
class Expected:
    """What is expected of a set of masks; None where too little is known."""

    precision: Figure | None
    recall: Figure | None


def expected(chosen: Chosen, known: Known, world: World | None, seed: int) -> Expected:
    """Precision and recall of the masks that would be delivered. The same input gives the same figures."""
    if not chosen.masks or len(known.chance) < LEAST_KNOWN:
        return Expected(None, None)
    weight = _image_weights(known, seed)
    rng = np.random.default_rng((seed, 86))
    shift = _shifts(known, weight, rng)
    noise = rng.standard_normal(DRAWS) * np.sqrt(_alike(known) * chosen.unasked.spread)
    right = chosen.voted + chosen.unasked.correct(shift) + noise - np.resize(chosen.overlooked, DRAWS)
    right = np.clip(right, 0.0, chosen.masks)
    recall = None
    if world is not None and world.images and len(world.objects):
        objects = _objects(world, weight[:, : len(world.objects)], seed)
        if objects.mean() >= 1:
            recall = _figure(np.minimum(right / np.maximum(objects, 1.0), 1.0))
    return Expected(_figure(right / chosen.masks), recall)


def like_pool(crossed: np.ndarray, correct: np.ndarray, calibration: tuple[float, float]) -> np.ndarray:
    """Chances of held-out masks, (h,), drawn out as the pool's were by answers: by the same stretch, a shift their own.

    `crossed` (h,) is the word of trees that saw nothing of their images. Without answers it is left as it is.
    """
    if calibration == (0.0, 1.0) or not len(crossed):
        return crossed
    from campaign.search.verifier import logit

    value, shift = calibration[1] * logit(crossed), 0.0
    for _ in range(10):
        mean = 1 / (1 + np.exp(-(value + shift)))
        shift += float(np.clip((correct - mean).sum() / (1 + (mean * (1 - mean)).sum()), -1.0, 1.0))
    return 1 / (1 + np.exp(-(value + shift)))


def _figure(values: np.ndarray) -> Figure:
    low, high = np.quantile(values, [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
    return Figure(float(values.mean()), float(low), float(high))


def _image_weights(known: Known, seed: int) -> np.ndarray:
    """(draws, images) of mean 1. Those of held-out images are the same whatever else is known."""
    others = max(0, int(known.image.max()) + 1 - known.heldout_images)
    counts = known.heldout_images, others
    parts = (np.random.default_rng((seed, 84 + n)).exponential(size=(DRAWS, count)) for n, count in enumerate(counts))
    return np.concatenate(list(parts), axis=1)


def _class_of(chance: np.ndarray) -> np.ndarray:
    return np.searchsorted(CLASSES, chance, side="right")


def _shifts(known: Known, weight: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By how much the chances of each class are wrong, (draws, classes).

    One imagined mask more in each class, right by its chance: without known ones, nothing is certain.
    """
    classes, images = len(CLASSES) + 1, weight.shape[1]
    place = known.image * classes + _class_of(known.chance)
    off = np.bincount(place, known.correct - known.chance, minlength=images * classes).reshape(images, classes)
    count = np.bincount(place, minlength=images * classes).reshape(images, classes)
    edges = np.concatenate([[0.0], CLASSES, [1.0]])
    middle = (edges[1:] + edges[:-1]) / 2
    more = rng.exponential(size=(DRAWS, classes))
    imagined = more * ((rng.random((DRAWS, classes)) < middle) - middle)
    return (weight @ off + imagined) / (weight @ count + more)


def _alike(known: Known) -> float:
    """How many times more than chance alone the sums of images vary, 1 or more: masks of an image turn out alike."""
    off = np.bincount(known.image, known.correct - known.chance)
    return max(1.0, float((off**2).sum()) / max(float((known.chance * (1 - known.chance)).sum()), _NEVER))


def _objects(world: World, weight: np.ndarray, seed: int) -> np.ndarray:
    """How many objects the pool holds in each draw, (draws,); the same whatever was answered."""
    rng = np.random.default_rng((seed, 87))
    shift = _shifts(world.known, weight, rng)
    weight = weight / np.maximum(weight.sum(axis=1, keepdims=True), _NEVER)
    x = np.bincount(world.known.image, world.known.correct, minlength=len(world.objects))
    y = world.objects.astype(np.float64)
    mean_x, mean_y = weight @ x, weight @ y
    per_image: np.ndarray = mean_y
    slope: np.ndarray = np.zeros(len(weight))
    if world.comparable:
        spread = weight @ x**2 - mean_x**2
        slope = np.where(spread > _NEVER, (weight @ (x * y) - mean_x * mean_y) / np.maximum(spread, _NEVER), 0.0)
        slope = np.maximum(slope, 0.0)
        per_image = mean_y + slope * (world.predictions.correct(shift) / world.images - mean_x)
    rest = np.maximum(weight @ y**2 - mean_y**2 - slope**2 * (weight @ x**2 - mean_x**2), 0.0)
    per_image = per_image + rng.standard_normal(len(weight)) * np.sqrt(rest / world.images)
    return np.maximum(per_image, 0.0) * world.images
