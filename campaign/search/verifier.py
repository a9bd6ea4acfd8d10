"""The verifier: how likely each predicted mask is correct, learned from held-out truth and from answers.

It orders questions and masks; it never answers, and no promise rests on it being right. Three things make it up:

* boosted trees over what is known of a mask before anybody is asked (`mask_inputs`): scores, shape, what competes for
  the same object, and the leading components of the feature by which masks are clustered. One model for each class
  that has masks enough, one for all the others.
* a calibration of their output on answers: logits are shifted and stretched so that the answers given become likely.
* an effect of each image: masks of an image tend to be right or wrong together, more than the inputs say, so every
  answer tells of the other masks of its image. A normal effect on the logit, as in a mixed model, by penalised
  likelihood. It is worth as much as twice the answers.

Calibration and effects are learned from predictions that were made without the answers of the same image (cross-fitted
by image), or the trees would be taken at their word about what they were told.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from campaign.search.portions import portions
from campaign.search.rivals import BESIDE, Overlaps
from ml_backend.masks.rle import areas
from ml_backend.predictions import Predictions

COMPONENTS = 32  # leading components of the feature
FOLDS = 3
_OWN_MODEL = 400  # known masks of a class, with `_OWN_KIND` of either kind, from which on it has trees of its own
_OWN_KIND = 40
_LEAST = 30  # known masks without which no trees are grown
_EFFECT = 1.0  # variance of an image's effect on the logit
_CLIP = 0.002
_FIRST = 150  # answers of the first two fits
_GROWTH = 1.25  # from one fit to the next


@dataclass(frozen=True)
class Rows:
    """n masks as the verifier sees them.

    `inputs` (n, k) float32, NaN where something is not known; the class and the image of each, (n,) int64. An image
    below 0 is unknown, and has no effect.
    """

    inputs: np.ndarray
    class_id: np.ndarray
    image: np.ndarray

    def __len__(self) -> int:
        return len(self.class_id)

    def select(self, index: np.ndarray) -> Rows:
        """The rows that a NumPy index picks."""
        return Rows(self.inputs[index], self.class_id[index], self.image[index])


def mask_inputs(masks: Predictions, overlaps: Overlaps, components: np.ndarray | None = None) -> Rows:
    """What the verifier knows of predictions; `components` (n, c) of their features come last."""
    box, area = masks.box.astype(np.float64), areas(masks.rles()).astype(np.float64)
    height, width = masks.size[:, 0], masks.size[:, 1]
    right, bottom = width - box[:, 0] - box[:, 2], height - box[:, 1] - box[:, 3]
    columns = [
        logit(masks.confidence), logit(masks.predicted_iou), logit(masks.score),
        np.log(area + 1), np.log((box[:, 2] + 1) / (box[:, 3] + 1)), area / np.maximum(box[:, 2] * box[:, 3], 1),
        np.clip(np.minimum.reduce([box[:, 0], box[:, 1], right, bottom]), 0, 20),
        *_competition(masks.score, overlaps),
    ]  # fmt: skip
    if components is not None:
        columns += list(components.T)
    return Rows(
        np.column_stack(columns).astype(np.float32), masks.class_id.astype(np.int64), masks.image_id.astype(np.int64)
    )


def _competition(score: np.ndarray, overlaps: Overlaps) -> list[np.ndarray]:
    """Greatest IoU with another mask, share inside one, share of one inside, best competing score, and lead on it."""
    iou, inside, around, best = (np.zeros(len(score)) for _ in range(4))
    o = overlaps
    for own, other, part, counterpart in (
        (o.first, o.second, o.share_of_first, o.share_of_second),
        (o.second, o.first, o.share_of_second, o.share_of_first),
    ):
        np.maximum.at(iou, own, o.iou)
        np.maximum.at(inside, own, part)
        np.maximum.at(around, own, counterpart)
        np.maximum.at(best, own, np.where(o.iou > BESIDE, score[other], 0))
    return [iou, inside, around, best, score - best]


@dataclass(frozen=True)
class Projection:
    """The leading components of features: `mean` (d,), `axes` (c, d) scaled to unit variance."""

    mean: np.ndarray
    axes: np.ndarray

    @classmethod
    def learn(cls, features: np.ndarray, seed: int, components: int = COMPONENTS, most: int = 5000) -> Projection:
        """From (n, d) features, at most `most` of them, drawn by the seed."""
        from scipy.linalg import eigh

        rows = np.sort(np.random.default_rng((seed, 31)).permutation(len(features))[:most])
        sample = np.asarray(features[rows], np.float64)
        mean = sample.mean(axis=0)
        spread = (sample - mean).T @ (sample - mean) / max(1, len(sample) - 1)
        count = min(components, spread.shape[0], max(1, len(sample) - 1))
        variance, axes = eigh(spread, subset_by_index=(spread.shape[0] - count, spread.shape[0] - 1))
        axes = axes[:, ::-1] / np.sqrt(np.maximum(variance[::-1], 1e-12))
        axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), np.arange(count)] < 0, -1, 1)  # one sign everywhere
        return cls(mean.astype(np.float32), axes.T.astype(np.float32))

    def apply(self, features: np.ndarray, block: int = 20_000) -> np.ndarray:
        """(n, c) float32, in blocks, so that memory-mapped features stay on disk."""
        out = np.empty((len(features), len(self.axes)), np.float32)
        for start in range(0, len(features), block):
            part = np.asarray(features[start : start + block], np.float32) - self.mean
            out[start : start + block] = part @ self.axes.T
        return out


@dataclass(frozen=True)
class Forest:
    """Boosted trees by class (None for all others), grown on held-out masks and on some answers.

    `folds` are grown without one part of the images each, to say of known masks what was thought of them unseen;
    `base` is the share of correct masks where there are no trees.
    """

    trees: dict[int | None, object]
    base: float
    folds: tuple[tuple[dict[int | None, object], float], ...]
    seed: int

    def chances(self, rows: Rows) -> np.ndarray:
        """P(correct) of masks of which nothing is known, (n,)."""
        return _predict(self.trees, self.base, rows)

    def crossed(self, rows: Rows, of_answers: np.ndarray) -> np.ndarray:
        """P(correct) of known masks by trees that saw nothing of their images, (n,)."""
        fold, chance = _folds(rows, of_answers, self.seed), np.empty(len(rows))
        for number, (trees, base) in enumerate(self.folds):
            out = fold == number
            if out.any():
                chance[out] = _predict(trees, base, rows.select(out))
        return chance


@dataclass(frozen=True)
class Verifier:
    """A forest, its calibration (shift, stretch), and the effects of images, {image: effect}.

    `heldout_chance` (h,) are the chances of the held-out masks by trees that saw nothing of their images.
    """

    forest: Forest
    calibration: tuple[float, float]
    effects: dict[int, float]
    heldout_chance: np.ndarray

    def chances(self, rows: Rows, of_forest: np.ndarray | None = None) -> np.ndarray:
        """P(correct) of each mask, (n,) float64; `of_forest` (n,) is the forest's word where it is known already."""
        shift, stretch = self.calibration
        chance = self.forest.chances(rows) if of_forest is None else of_forest
        known = np.fromiter(self.effects, np.int64, len(self.effects))
        effect = np.fromiter(self.effects.values(), np.float64, len(known))
        found = np.empty(len(rows))
        for part in portions(len(rows)):
            value = shift + stretch * logit(chance[part])
            if len(known):
                image = rows.image[part]
                place = np.minimum(np.searchsorted(known, image), len(known) - 1)
                value = value + np.where(known[place] == image, effect[place], 0.0)
            found[part] = 1 / (1 + np.exp(-value))
        return found


def grow(heldout: Rows, correct: np.ndarray, answered: Rows, yes: np.ndarray, seed: int) -> Forest:
    """Trees by held-out masks whose truth is known, `correct` (h,) bool, and answered ones, `yes` (a,) bool.

    The same rows in another order grow the same trees.
    """
    rows, target, of_answers = known_masks(heldout, correct, answered, yes)
    order = np.lexsort((*rows.inputs.T[::-1], rows.image, rows.class_id, of_answers))
    rows, target, of_answers = rows.select(order), target[order], of_answers[order]
    fold, parts = _folds(rows, of_answers, seed), []
    for number in range(FOLDS):
        kept = fold != number
        parts.append((_grown(rows.select(kept), target[kept], seed), _share(target[kept])))
    return Forest(_grown(rows, target, seed), _share(target), tuple(parts), seed)


def calibrate(forest: Forest, heldout: Rows, correct: np.ndarray, answered: Rows, yes: np.ndarray) -> Verifier:
    """The verifier of a forest by all that is known, more than the forest has seen or not."""
    rows, target, of_answers = known_masks(heldout, correct, answered, yes)
    return calibrate_on(forest, forest.crossed(rows, of_answers), rows.image, of_answers, target)


def calibrate_on(
    forest: Forest, crossed: np.ndarray, image: np.ndarray, of_answers: np.ndarray, target: np.ndarray
) -> Verifier:
    """The verifier where the forest's `crossed` chances of the known masks, (k,), are worked out already.

    Held-out masks come first; `of_answers` (k,) bool says which are answered ones, `target` (k,) bool what is known.
    """
    of_heldout = crossed[: int((~of_answers).sum())]
    if not of_answers.any():
        return Verifier(forest, (0.0, 1.0), {}, of_heldout)
    order = np.lexsort((target, crossed, image, of_answers))  # sums do not depend on the order of facts
    calibration, effects = _calibrated(crossed[order], image[order], of_answers[order], target[order])
    return Verifier(forest, calibration, effects, of_heldout)


def fit_verifier(heldout: Rows, correct: np.ndarray, answered: Rows, yes: np.ndarray, seed: int) -> Verifier:
    """Forest and calibration on the same answers."""
    return calibrate(grow(heldout, correct, answered, yes, seed), heldout, correct, answered, yes)


def milestone(answers: int) -> int:
    """How many answers the verifier is to rest on where so many are known: it is fitted anew when they have grown.

    >>> [milestone(n) for n in (0, 149, 150, 299, 300, 374, 375, 468, 5000)]
    [0, 0, 150, 150, 300, 300, 375, 468, 4347]
    """
    return max(known for known in _milestones(answers) if known <= answers)


def growth_milestone(answers: int) -> int:
    """How many answers the trees are to be grown on, of so many: they gain little, so each time four times as many.

    >>> [growth_milestone(n) for n in (0, 299, 300, 1199, 1200, 5000)]
    [0, 0, 300, 300, 1200, 4800]
    """
    known = 2 * _FIRST
    if answers < known:
        return 0
    while known * 4 <= answers:
        known *= 4
    return known


def next_milestone(answers: int) -> int:
    """The smallest number of answers above `answers` at which the verifier is fitted anew."""
    return next(known for known in _milestones(answers) if known > answers)


def milestones_until(answers: int) -> list[int]:
    """The numbers of answers at which the verifier is fitted, up to a fit on all of these."""
    return [*(known for known in _milestones(answers) if known < answers), answers]


def stands_alone(correct: np.ndarray) -> bool:
    """Whether a class has known masks enough, of either kind, for trees of its own; whether each is `correct`, (n,)."""
    return len(correct) >= _OWN_MODEL and min(correct.sum(), (~correct).sum()) >= _OWN_KIND


def _milestones(beyond: int) -> list[int]:
    """All of them up to the first one beyond a number of answers."""
    known = [0, _FIRST, 2 * _FIRST]
    while known[-1] <= beyond:
        known.append(int(known[-1] * _GROWTH))
    return known


def logit(chance: np.ndarray) -> np.ndarray:
    """log(p / (1 − p)), with p clipped away from 0 and 1."""
    p = np.clip(np.asarray(chance, np.float64), _CLIP, 1 - _CLIP)
    return np.log(p / (1 - p))


def known_masks(
    heldout: Rows, correct: np.ndarray, answered: Rows, yes: np.ndarray
) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Held-out masks and answered ones in one table: rows, whether correct, and which are answers."""
    a, b = heldout, answered
    rows = Rows(*(np.concatenate(p) for p in ((a.inputs, b.inputs), (a.class_id, b.class_id), (a.image, b.image))))
    target = np.concatenate([np.asarray(correct, bool), np.asarray(yes, bool)])
    return rows, target, np.arange(len(rows)) >= len(heldout)


def _share(target: np.ndarray) -> float:
    return float((target.sum() + 1) / (len(target) + 2))


def _folds(rows: Rows, of_answers: np.ndarray, seed: int) -> np.ndarray:
    """The part of the images that each row belongs to, (n,) int; masks of unknown image are parted by their inputs."""
    from campaign.search.sampling import draw_keys

    # held-out images and those of the pool may share numbers
    own = np.where(rows.image < 0, -1, 2 * rows.image + of_answers)
    nowhere = np.flatnonzero(rows.image < 0)
    if len(nowhere):
        bits = np.ascontiguousarray(rows.inputs[nowhere, :4], np.float32).view(np.uint32).astype(np.int64)
        own[nowhere] = (bits * np.array([3, 5, 7, 11])[: bits.shape[1]]).sum(axis=1)
    return (draw_keys(seed, 41, own) % np.uint64(FOLDS)).astype(np.int64)


def _grown(rows: Rows, target: np.ndarray, seed: int) -> dict[int | None, object]:
    """Boosted trees for each class with masks enough, under None those for all masks together."""
    trees: dict[int | None, object] = {}
    classes = np.unique(rows.class_id)
    for class_id in classes.tolist():
        own = rows.class_id == class_id
        if len(classes) > 1 and stands_alone(target[own]):
            trees[class_id] = _boosted(rows.inputs[own], target[own], seed)
    if len(target) >= _LEAST and 0 < target.sum() < len(target) and len(trees) < len(classes):
        table = np.column_stack([rows.inputs, rows.class_id]).astype(np.float32)
        trees[None] = _boosted(table, target, seed)
    return trees


def _boosted(inputs: np.ndarray, target: np.ndarray, seed: int) -> object:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingClassifier(
        max_iter=80, learning_rate=0.08, max_leaf_nodes=12, min_samples_leaf=20, l2_regularization=5.0,
        early_stopping=False, random_state=seed & 0x7FFFFFFF,
    )  # fmt: skip
    with threadpool_limits(1, user_api="openmp"):  # tables are small, and other work shares the machine
        return model.fit(inputs, target)


def _predict(trees: dict[int | None, object], base: float, rows: Rows) -> np.ndarray:
    chance = np.full(len(rows), base)
    for class_id in np.unique(rows.class_id).tolist():
        own = rows.class_id == class_id
        inputs, model = rows.inputs[own], trees.get(class_id)
        if model is None:
            model, inputs = trees.get(None), np.column_stack([inputs, rows.class_id[own]]).astype(np.float32)
        if model is not None:
            chance[own] = model.predict_proba(inputs)[:, 1]  # type: ignore[attr-defined]
    return chance


def _calibrated(
    chance: np.ndarray, image: np.ndarray, of_answers: np.ndarray, target: np.ndarray, variance: float = _EFFECT
) -> tuple[tuple[float, float], dict[int, float]]:
    """((shift, stretch), {image: effect}) of the penalised likelihood, by Newton steps.

    Held-out masks have a shift of their own and share the stretch: they are of all kinds, while answers are of masks
    that were asked about because of what was thought of them, so that a stretch by these alone is drawn towards 0.
    """
    x = logit(chance)
    own = np.where(image < 0, -1, 2 * image + of_answers)  # held-out images and those of the pool may share numbers
    images, place = np.unique(own, return_inverse=True)
    known = images >= 0
    effect: np.ndarray = np.zeros(len(images))
    design = np.column_stack([~of_answers, of_answers, x]).astype(np.float64)
    beta, prior, pull = np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0]), np.diag([1.0, 1.0, 5.0])
    for _ in range(12):
        mean = 1 / (1 + np.exp(-(design @ beta + effect[place])))
        slope, weight = np.bincount(place, target - mean), np.bincount(place, mean * (1 - mean))
        effect = np.where(known, effect + (slope - effect / variance) / (weight + 1 / variance), 0.0)
        mean = 1 / (1 + np.exp(-(design @ beta + effect[place])))
        # the prior of no shift and no stretch is worth a few answers
        curve = (design * (mean * (1 - mean))[:, None]).T @ design + pull
        beta = beta + np.linalg.solve(curve, design.T @ (target - mean) - pull @ (beta - prior))
    of_pool = known & (images % 2 == 1)
    effects = dict(zip((images[of_pool] // 2).tolist(), effect[of_pool].tolist(), strict=True))
    return (float(beta[1]), float(max(beta[2], 0.05))), effects
