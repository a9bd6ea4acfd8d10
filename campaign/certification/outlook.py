"""What the policy with a target is expected to bring, before the first question, from held-out masks alone.

The campaign is imagined some times, and its own course run on every imagined truth. What is unknown, and how it enters:

* how far the held-out images are like the pool's: every time the held-out images get other weights (Rubin 1981, "The
  Bayesian bootstrap"; scaled for few images), and the chances of the forest are shifted, by class, and stretched to fit
  the truth of the images so weighted.
* that masks of an image tend to be right or wrong together: an effect on the logit, drawn for every image.
* how many objects there are: those of a held-out image, adjusted by how many correct masks the pool's images promise
  beside the held-out ones (the regression estimator of Cochran, "Sampling Techniques", ch. 7).

Annotators are imagined careful. Of large pools a sample of the images is imagined, and all is scaled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from campaign.certification.course import Course, FirstJudge, Gold, Masks, Terms
from campaign.records.figure import Figure
from campaign.records.verdict import Verdict
from campaign.search.sampling import draw_keys
from campaign.search.selection import NONE
from campaign.search.verifier import logit

COURSES = 12
MOST_MASKS = 50_000  # imagined; of more, those of some images
LEAST_HELDOUT = 30  # masks, without which nothing is forecast
INTERVAL = 0.9
USERS = 3  # imagined annotators
_EFFECT = 1.0  # variance of an image's effect on the logit, as the verifier's
_UNDONE = float(np.sqrt(1 + 0.346 * _EFFECT))  # logistic, drawn to the middle by a normal effect
_SHIFT = 0.5  # variance of a class's own shift
_NEVER = 1e-9


@dataclass(frozen=True)
class Outlook:
    """What is expected, of one class or of all.

    `masks` delivered, `correct` ones among them, `questions` that people see for it, gold and promise included, true
    `objects` there are, and `recall`: None where none is expected.
    """

    masks: Figure
    correct: Figure
    questions: Figure
    objects: Figure
    recall: Figure | None

    def as_dict(self, seconds_per_answer: float, wage_per_hour: float | None) -> dict[str, Any]:
        """For JSON, with `hours` and, where there is a wage, `cost`."""
        table: dict[str, Any] = asdict(self)
        hours = {k: v * seconds_per_answer / 3600 for k, v in table["questions"].items()}
        table["hours"] = hours
        table["cost"] = None if wage_per_hour is None else {k: v * wage_per_hour for k, v in hours.items()}
        return {name: None if f is None else {k: round(v, 4) for k, v in f.items()} for name, f in table.items()}


def hopeless(
    figures: Mapping[str, Any], least_recall: float, seconds_per_drawn: float, seconds_per_answer: float
) -> str | None:
    """Why a class with such an outlook, as `Outlook.as_dict` has it, is not worth asking about; None where it is."""
    recall, correct = figures["recall"], figures["correct"]["value"]
    if recall is not None and recall["value"] < least_recall:
        return f"{recall['value']:.1%} of the objects can be obtained, less than {least_recall:.0%}"
    work = figures["questions"]["value"] * seconds_per_answer
    if work > seconds_per_drawn * correct:
        price = f"{work / correct:.0f} s of work for each correct mask" if correct >= 1 else "work for no correct mask"
        return f"{price}, where drawing one takes {seconds_per_drawn:.0f} s"
    return None


@dataclass(frozen=True)
class Known:
    """What is known before the first question.

    `masks` of the round and held-out; `heldout_images` and `pool_images`, how many, those without any mask too;
    `objects` (o, 2) are the held-out image and the class of every true object.
    """

    masks: Masks
    heldout_images: int
    pool_images: int
    objects: np.ndarray


def outlook(known: Known, terms: Terms, courses: int = COURSES) -> tuple[Outlook, dict[int, Outlook]] | None:
    """(of all, by class) what to expect; None where too little is held out. The same input gives the same forecast.

    Where a detector predicts next to nothing on held-out images that hold objects, no course is run: all that it finds
    is asked about.
    """
    masks = known.masks
    classes = np.unique(np.concatenate([masks.rows.class_id, masks.heldout.class_id, known.objects[:, 1]])).tolist()
    if len(masks.heldout) < LEAST_HELDOUT or not len(masks):
        if len(known.objects) < LEAST_HELDOUT or not known.heldout_images:
            return None
        return _in_proportion(known, terms, None), {c: _in_proportion(known, terms, c) for c in classes}
    masks, share = _sampled(masks, terms.seed)
    part = _Part(masks, share, FirstJudge(masks, terms.k_iou, terms.seed), _Places.of(known), classes)
    drawn = np.stack([_imagined(known, part, terms, number) for number in range(courses)])
    return _outlook(drawn.sum(axis=1)), {c: _outlook(drawn[:, i]) for i, c in enumerate(classes)}


def _in_proportion(known: Known, terms: Terms, class_id: int | None) -> Outlook:
    """What some held-out masks say of the pool, image by image, of one class or of all."""
    masks, scale = known.masks, known.pool_images / known.heldout_images
    right = masks.heldout_iou >= terms.k_iou
    columns = masks.heldout.class_id, known.objects[:, 1], masks.rows.class_id
    own = [np.ones(len(c), bool) if class_id is None else c == class_id for c in columns]
    correct, objects = (_counted(int(n.sum()), scale) for n in (own[0] & right, own[1]))
    most = float(own[2].sum())
    found = Figure(*(min(v, most) for v in (correct.value, correct.low, correct.high)))
    asked, recall = Figure(most, most, most), None
    if objects.value >= 1:
        recall = Figure(*(min(1.0, v / objects.value) for v in (found.value, found.low, found.high)))
    return Outlook(found, found, asked, objects, recall)


def _counted(count: int, scale: float) -> Figure:
    """So many, scaled, with the interval of a Poisson mean."""
    from scipy.special import gammaincinv

    low = float(gammaincinv(count, (1 - INTERVAL) / 2)) if count else 0.0
    return Figure(count * scale, low * scale, float(gammaincinv(count + 1, (1 + INTERVAL) / 2)) * scale)


# (courses, classes, what): masks, correct, questions, objects
_MASKS, _CORRECT, _QUESTIONS, _OBJECTS = range(4)


def _outlook(drawn: np.ndarray) -> Outlook:
    """From (courses, what)."""
    masks, correct, questions, objects = (_figure(drawn[:, i]) for i in range(4))
    recall = None
    if objects.value >= 1:
        recall = _figure(np.clip(drawn[:, _CORRECT] / np.maximum(drawn[:, _OBJECTS], 1.0), 0.0, 1.0), most=1.0)
    return Outlook(masks, correct, questions, objects, recall)


def _figure(values: np.ndarray, most: float = np.inf) -> Figure:
    """The mean, and where the next value of a normal distribution would lie."""
    from scipy.special import stdtrit

    n, middle = len(values), float(values.mean())
    reach = 0.0
    if n > 1:
        reach = float(stdtrit(n - 1, (1 + INTERVAL) / 2) * values.std(ddof=1) * np.sqrt(1 + 1 / n))
    return Figure(middle, max(0.0, middle - reach), min(most, middle + reach))


def _sampled(masks: Masks, seed: int) -> tuple[Masks, float]:
    """(the masks to imagine, which share of all they are): all of them, or those of some images."""
    if len(masks) <= MOST_MASKS:
        return masks, 1.0
    image = masks.rows.image
    own = np.where(image < 0, np.iinfo(np.int64).min + np.arange(len(image)), image)
    images, place = np.unique(own, return_inverse=True)
    order = np.argsort(draw_keys(seed, 81, images), kind="stable")
    enough = int(np.searchsorted(np.cumsum(np.bincount(place)[order]), MOST_MASKS))
    chosen = np.zeros(len(images), bool)
    chosen[order[: max(1, enough)]] = True
    rows = np.flatnonzero(chosen[place])
    new = np.full(len(masks), -1)
    new[rows] = np.arange(len(rows))
    a, b = (new[side] for side in masks.pairs)
    both = (a >= 0) & (b >= 0)
    part = Masks(masks.rows.select(rows), (a[both], b[both]), masks.heldout, masks.heldout_iou)
    return part, len(rows) / len(masks)


@dataclass(frozen=True)
class _Places:
    """Numbers of the held-out images: of their masks (h,) and objects (o,), and how many there are."""

    masks: np.ndarray
    objects: np.ndarray
    images: int

    @classmethod
    def of(cls, known: Known) -> _Places:
        """Images without masks or objects come last; masks of unknown image are images of their own."""
        image = known.masks.heldout.image
        own = np.where(image < 0, np.iinfo(np.int64).min + np.arange(len(image)), image)
        names, place = np.unique(np.concatenate([own, known.objects[:, 0]]), return_inverse=True)
        return cls(place[: len(image)], place[len(image) :], max(known.heldout_images, len(names)))


@dataclass(frozen=True)
class _Part:
    """The masks that are imagined, which `share` of all they are, what the verifier thinks of them, and the classes."""

    masks: Masks
    share: float
    judge: FirstJudge
    places: _Places
    classes: list[int]


def _imagined(known: Known, part: _Part, terms: Terms, number: int) -> np.ndarray:
    """One imagined campaign: (classes, what)."""
    rng = np.random.default_rng((terms.seed, 83, number))
    masks, judge, classes = part.masks, part.judge, part.classes
    weight = _image_weights(part.places.images, rng)
    of_heldout, of_pool = masks.heldout.class_id, masks.rows.class_id
    line = _Line.fitted(judge.of_heldout, of_heldout, judge.truth, weight[part.places.masks], classes)
    expected = line.logits(judge.of_forest, of_pool)
    # An effect on top draws mean chances to the middle; the stretch makes up for that.
    effect = _image_effects(masks.rows.image, rng)
    truth = rng.random(len(masks)) < _chance(np.where(masks.rows.image < 0, 1.0, _UNDONE) * expected + effect)
    course = _run(part, truth, terms, number)
    end, found = course.certify(), np.zeros((len(classes), 4))
    for what, chosen in ((_MASKS, end.inside), (_CORRECT, end.inside & truth), (_QUESTIONS, course.verdict != NONE)):
        found[:, what] = _per_class(of_pool[chosen], classes)
    found[:, _QUESTIONS] += _per_class(of_heldout[np.array(course.gold.rows if course.gold else [], np.int64)], classes)
    found /= part.share
    held = _chance(line.logits(judge.of_heldout, of_heldout))
    pooled = _per_class(of_pool, classes, _chance(expected)) / (part.share * max(1, known.pool_images))
    found[:, _OBJECTS] = _objects(known, part, weight, (held, pooled), rng)
    return found


def _run(part: _Part, truth: np.ndarray, terms: Terms, number: int) -> Course:
    """A course up to its promise, whose annotators know the truth."""
    held = part.judge.truth
    user = draw_keys(terms.seed, 91, np.arange(len(held))) % np.uint64(USERS)
    said, gold_said = (np.where(t, Verdict.YES, Verdict.NO).astype(np.int8) for t in (truth, held))
    gold = Gold(part.masks, gold_said, user, terms.k_iou, terms.seed + number)
    course = Course(part.masks, said, terms, gold, part.judge)
    course.learn()
    return course


def _per_class(class_id: np.ndarray, classes: list[int], weight: np.ndarray | None = None) -> np.ndarray:
    place = np.searchsorted(classes, class_id)
    return np.bincount(place, weight, minlength=len(classes)).astype(np.float64)


def _image_weights(images: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of the held-out images, (images,), of mean 1: the Bayesian bootstrap, wider where there are few.

    Spread by Student's t rather than the normal: with few images, the variance between them is not known either.
    """
    weight = rng.exponential(size=images)
    weight = weight / weight.mean() - 1
    wider = np.sqrt((images + 1) / max(1.0, rng.chisquare(max(1, images - 1))))
    return np.maximum(1 + wider * weight, 0.0)


def _image_effects(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The effect of each mask's image, (n,); none where the image is not known."""
    _, place = np.unique(image, return_inverse=True)
    effect = rng.normal(0.0, np.sqrt(_EFFECT), int(place.max()) + 1)[place] if len(place) else np.zeros(0)
    return np.where(image < 0, 0.0, effect)


@dataclass(frozen=True)
class _Line:
    """How chances are to be moved: a `stretch` of the logit, and a shift for each of `classes`."""

    stretch: float
    shifts: np.ndarray
    classes: list[int]

    @classmethod
    def fitted(
        cls, chance: np.ndarray, class_id: np.ndarray, correct: np.ndarray, weight: np.ndarray, classes: list[int]
    ) -> _Line:
        """By penalised likelihood, Newton steps."""
        x, place = logit(chance), np.searchsorted(classes, class_id)
        design = np.column_stack([x, np.ones(len(x)), place[:, None] == np.arange(len(classes))]).astype(np.float64)
        beta = np.concatenate([[1.0], np.zeros(1 + len(classes))])
        prior, pull = beta.copy(), np.diag([1.0, 0.05, *[1 / _SHIFT] * len(classes)])
        for _ in range(15):
            mean = _chance(design @ beta)
            curve = (design * (weight * mean * (1 - mean))[:, None]).T @ design + pull
            step = np.linalg.solve(curve, design.T @ (weight * (correct - mean)) - pull @ (beta - prior))
            beta = beta + np.clip(step, -1.0, 1.0)
        return cls(float(max(beta[0], 0.05)), beta[1] + beta[2:], classes)

    def logits(self, chance: np.ndarray, class_id: np.ndarray) -> np.ndarray:
        """Of these chances, (n,)."""
        return self.stretch * logit(chance) + self.shifts[np.searchsorted(self.classes, class_id)]


def _chance(value: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-value))


def _objects(
    known: Known, part: _Part, weight: np.ndarray, correct: tuple[np.ndarray, np.ndarray], rng: np.random.Generator
) -> np.ndarray:
    """How many true objects of each class the pool may hold, (classes,), by held-out images so weighted.

    `correct` has the chance of each held-out mask (h,), and the correct masks expected of a pool image (classes,).
    """
    places, classes = part.places, part.classes
    found = np.zeros(len(classes))
    weight = weight / max(weight.sum(), _NEVER)
    own = np.searchsorted(classes, known.masks.heldout.class_id)
    of_objects = np.searchsorted(classes, known.objects[:, 1])
    for i in range(len(classes)):
        here, masks = of_objects == i, own == i
        objects = np.bincount(places.objects[here], minlength=places.images)
        x = np.bincount(places.masks[masks], correct[0][masks], minlength=places.images)
        mean_x, mean = weight @ x, weight @ objects
        spread = weight @ (x - mean_x) ** 2
        slope = (weight @ ((x - mean_x) * (objects - mean))) / spread if spread > _NEVER else 0.0
        slope = max(slope, 0.0)
        rest = weight @ (objects - mean - slope * (x - mean_x)) ** 2
        per_image = mean + slope * (correct[1][i] - mean_x)
        per_image += rng.normal() * np.sqrt(rest / max(1, known.pool_images))
        found[i] = max(per_image, 0.0) * known.pool_images
    return found
