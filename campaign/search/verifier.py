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

from dataclasses import dataclass, replace

import numpy as np

from campaign.search.rivals import BESIDE, Overlaps, mask_areas
from ml_backend.predictions import Predictions

COMPONENTS = 32  # leading components of the feature
FOLDS = 3
_OWN_MODEL = 400  # known masks of a class, with `_OWN_KIND` of either kind, from which on it has trees of its own
_OWN_KIND = 40
_LEAST = 30  # known masks without which no trees are grown
_EFFECT = 1.0  # variance of an image's effect on the logit
_CLIP = 0.002


@dataclass(frozen=True)
class Rows:
    """n masks as the verifier sees them: `inputs` (n, k) float32, NaN where something is not known; the class and the
    image of each, (n,) int64. An image below 0 is unknown, and has no effect."""

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
    box, area = masks.box.astype(np.float64), mask_areas(masks).astype(np.float64)
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
class Verifier:
    """Fitted models by class (None for all others), the calibration (shift, stretch), and the effects of images.

    `heldout_chance` (h,) are the cross-fitted chances of the held-out masks it was fitted on.
    """

    trees: dict[int | None, object]
    base: float
    calibration: tuple[float, float]
    effects: dict[int, float]
    heldout_chance: np.ndarray

    def chances(self, rows: Rows) -> np.ndarray:
        """P(correct) of each mask, (n,) float64."""
        value = self._logits(rows)
        known = np.fromiter(self.effects, np.int64, len(self.effects))
        effect = np.fromiter(self.effects.values(), np.float64, len(known))
        if len(known):
            place = np.minimum(np.searchsorted(known, rows.image), len(known) - 1)
            value = value + np.where(known[place] == rows.image, effect[place], 0.0)
        return 1 / (1 + np.exp(-value))

    def _logits(self, rows: Rows) -> np.ndarray:
        shift, stretch = self.calibration
        return shift + stretch * logit(_predict(self.trees, self.base, rows))


def fit_verifier(  # noqa: PLR0913 - two tables of known masks
    heldout: Rows, correct: np.ndarray, answered: Rows, yes: np.ndarray, seed: int, effect: float = _EFFECT
) -> Verifier:
    """The verifier by held-out masks whose truth is known, `correct` (h,) bool, and answered ones, `yes` (a,) bool.

    The same rows in another order give the same verifier. `effect` is the variance of images' effects on the logit.
    """
    order = np.lexsort((*heldout.inputs.T[::-1], heldout.image, heldout.class_id)) if len(heldout) else np.zeros(0, int)
    back = np.argsort(order, kind="stable")
    heldout, correct = heldout.select(order), np.asarray(correct, bool)[order]
    placed = np.lexsort((*answered.inputs.T[::-1], answered.image, answered.class_id)) if len(answered) else []
    placed = np.asarray(placed, np.int64)
    answered, yes = answered.select(placed), np.asarray(yes, bool)[placed]
    rows = _joined(heldout, answered)
    target = np.concatenate([correct, yes])
    of_answers = np.arange(len(rows)) >= len(heldout)
    trees = _grow(rows, target, seed)
    base = (target.sum() + 1) / (len(target) + 2)
    crossed = _cross_fitted(rows, target, of_answers, seed)
    model = Verifier(trees, base, (0.0, 1.0), {}, crossed[~of_answers][back])
    if not len(answered):
        return model
    calibration, effects = _effects(crossed[of_answers], answered.image, yes, effect)
    return replace(model, calibration=calibration, effects=effects)


def logit(chance: np.ndarray) -> np.ndarray:
    """log(p / (1 − p)), with p clipped away from 0 and 1."""
    p = np.clip(np.asarray(chance, np.float64), _CLIP, 1 - _CLIP)
    return np.log(p / (1 - p))


def _joined(a: Rows, b: Rows) -> Rows:
    pairs = ((a.inputs, b.inputs), (a.class_id, b.class_id), (a.image, b.image))
    return Rows(*(np.concatenate(pair) for pair in pairs))


def _grow(rows: Rows, target: np.ndarray, seed: int) -> dict[int | None, object]:
    """Boosted trees for each class with masks enough, under None those for all masks together."""
    trees: dict[int | None, object] = {}
    classes, counts = np.unique(rows.class_id, return_counts=True)
    for class_id, count in zip(classes.tolist(), counts.tolist(), strict=True):
        own = rows.class_id == class_id
        if len(classes) > 1 and count >= _OWN_MODEL and min(target[own].sum(), (~target[own]).sum()) >= _OWN_KIND:
            trees[class_id] = _boosted(rows.inputs[own], target[own], seed)
    if len(target) >= _LEAST and 0 < target.sum() < len(target) and len(trees) < len(classes):
        table = np.column_stack([rows.inputs, rows.class_id]).astype(np.float32)
        trees[None] = _boosted(table, target, seed)
    return trees


def _boosted(inputs: np.ndarray, target: np.ndarray, seed: int) -> object:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    model = HistGradientBoostingClassifier(
        max_iter=120, learning_rate=0.06, max_leaf_nodes=12, min_samples_leaf=20, l2_regularization=5.0,
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


def _cross_fitted(rows: Rows, target: np.ndarray, of_answers: np.ndarray, seed: int) -> np.ndarray:
    """The chance of each known mask by trees that saw nothing of its image, (n,)."""
    from campaign.search.sampling import draw_keys

    keyed = np.where(rows.image < 0, -1 - np.arange(len(rows)), rows.image)
    # an image of the pool and a held-out one may have the same number where they come from different files
    fold = (draw_keys(seed, 41, keyed * 2 + of_answers) % np.uint64(FOLDS)).astype(np.int64)
    chance = np.full(len(rows), (target.sum() + 1) / (len(target) + 2))
    for number in range(FOLDS):
        out = fold == number
        if out.any() and (~out).sum() >= _LEAST:
            kept = target[~out]
            base = (kept.sum() + 1) / (len(kept) + 2)
            chance[out] = _predict(_grow(rows.select(~out), kept, seed), base, rows.select(out))
    return chance


def _effects(
    chance: np.ndarray, image: np.ndarray, yes: np.ndarray, variance: float
) -> tuple[tuple[float, float], dict[int, float]]:
    """((shift, stretch), {image: effect}) of the penalised likelihood of the answers, by Newton steps."""
    x = logit(chance)
    images, place = np.unique(image, return_inverse=True)
    known = images >= 0
    effect: np.ndarray = np.zeros(len(images))
    shift, stretch = 0.0, 1.0
    for _ in range(10):
        mean = 1 / (1 + np.exp(-(shift + stretch * x + effect[place])))
        slope, weight = np.bincount(place, yes - mean), np.bincount(place, mean * (1 - mean))
        effect = np.where(known, effect + (slope - effect / variance) / (weight + 1 / variance), 0.0)
        mean = 1 / (1 + np.exp(-(shift + stretch * x + effect[place])))
        w, r = mean * (1 - mean), yes - mean
        # the prior of no shift and no stretch is worth a few answers
        curve = np.array([[w.sum() + 1, (w * x).sum()], [(w * x).sum(), (w * x * x).sum() + 5]])
        step = np.linalg.solve(curve, [r.sum() - shift, (r * x).sum() - 5 * (stretch - 1)])
        shift, stretch = shift + step[0], stretch + step[1]
    stretch = max(stretch, 0.05)
    return (float(shift), float(stretch)), dict(zip(images[known].tolist(), effect[known].tolist(), strict=True))
