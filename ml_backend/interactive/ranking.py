"""`M_r`: how good a corrected mask is, of how it came about. It orders, weights, and says what is accepted unseen.

A random forest on the five published features, and on what the segmenter itself says of the mask. A ranker is the
table that it was fitted to: it is stored as that, and fitted anew when it is loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml_backend.errors import InputError
from ml_backend.files import write_whole
from ml_backend.interactive.segmenter import Click, Proposal
from ml_backend.interactive.windows import extent_of

PUBLISHED = ("clicks", "round", "change", "farthest_click", "mean_click")
NAMES = (*PUBLISHED, "predicted_iou", "stability")
# Fewer masks than this say nothing of others.
LEAST_MASKS = 20
# What stands for the stability of masks of which nobody stored it: the forest learns nothing from a constant.
UNKNOWN_STABILITY = 1.0


def features(before: np.ndarray | None, proposal: Proposal, clicks: Sequence[Click], round_number: int) -> np.ndarray:
    """What `M_r` goes by, (7,) float32 in the order of `NAMES`.

    Clicks in the last round; the round's number, from 0 for the first mask; IoU of the mask with the one before; the
    farthest and the mean distance of those clicks from the outline of the mask before, in sides of the mask (the root
    of its area); predicted IoU and stability.

    Args:
        before: the mask before the last round, (height, width) bool; None for the first one.
        proposal: the mask and what is thought of it.
        clicks: of the last round.
        round_number: how many rounds of clicks there were.
    """
    change, farthest, mean = 1.0, 0.0, 0.0
    if before is not None:
        either = int((before | proposal.mask).sum())
        change = int((before & proposal.mask).sum()) / either if either else 1.0
        if clicks:
            distances = _distances(before, clicks) / max(float(np.sqrt(proposal.mask.sum())), 1.0)
            farthest, mean = float(distances.max()), float(distances.mean())
    values = (len(clicks), round_number, change, farthest, mean, proposal.predicted_iou, proposal.stability)
    return np.array(values, np.float32)


def visit_features(
    before: np.ndarray, after: np.ndarray, clicks: Sequence[Click], visit: int, predicted_iou: float
) -> np.ndarray:
    """What `M_r` goes by after a visit in a campaign, (7,) float32: of what is stored of clicks there.

    Args:
        before: the mask that the visit began from, (height, width) bool.
        after: the mask that it left.
        clicks: of the visit.
        visit: its number, from 1.
        predicted_iou: with the last click.
    """
    return features(before, Proposal(after, predicted_iou, UNKNOWN_STABILITY), clicks, visit)


def _distances(mask: np.ndarray, clicks: Sequence[Click]) -> np.ndarray:
    """How far clicks are from the outline of a mask, (n,) pixels; from an empty one 0."""
    import cv2

    extent = extent_of(mask)
    if extent is None:
        return np.zeros(len(clicks))
    places = np.array([(c.x, c.y) for c in clicks])
    low = np.floor(np.minimum(places.min(0), extent[:2])).astype(int) - 1
    high = np.ceil(np.maximum(places.max(0), extent[2:])).astype(int) + 1
    low = np.maximum(low, 0)
    part = np.pad(mask[low[1] : high[1], low[0] : high[0]], 1).astype(np.uint8)
    inside, outside = (cv2.distanceTransform(m, cv2.DIST_L2, 5) for m in (part, 1 - part))
    rows, columns = (
        np.clip(np.floor(places[:, axis] - low[axis]).astype(int) + 1, 0, part.shape[1 - axis] - 1) for axis in (1, 0)
    )
    return (inside + outside)[rows, columns]


@dataclass(frozen=True)
class Judgement:
    """Of n masks: the IoU that is expected (n,), and how likely it is at least `k_iou` (n,)."""

    expected_iou: np.ndarray
    correct: np.ndarray


class Ranker:
    """`M_r`, fitted to masks whose truth is known.

    Args:
        table: features of masks, (n, 7).
        iou: theirs with the truth, (n,).
        k_iou: from which a mask is correct.
        seed: of the forest.

    Raises InputError where there are too few.
    """

    def __init__(self, table: np.ndarray, iou: np.ndarray, k_iou: float = 0.75, seed: int = 0):
        from sklearn.ensemble import RandomForestRegressor

        if len(iou) < LEAST_MASKS:
            raise InputError("masks to rank by", f"at least {LEAST_MASKS} whose truth is known", len(iou))
        self.table, self.iou = np.asarray(table, np.float32), np.asarray(iou, np.float32)
        self.k_iou, self.seed = k_iou, seed
        self._forest = RandomForestRegressor(
            n_estimators=200, min_samples_leaf=max(len(iou) // 100, 3), oob_score=True, random_state=seed
        ).fit(self.table, self.iou)
        # What the forest says of masks that a tree has not seen is what it is worth on others.
        self._curve = _isotonic(self._forest.oob_prediction_, self.iou >= k_iou)

    def judge(self, table: np.ndarray) -> Judgement:
        """What is thought of masks by their features (n, 7)."""
        if not len(table):
            return Judgement(np.zeros(0), np.zeros(0))
        expected = self._forest.predict(np.asarray(table, np.float32))
        return Judgement(expected, np.interp(expected, *self._curve))

    def accepted_unseen(self, table: np.ndarray, precision: float) -> np.ndarray:
        """Which masks may be accepted without another look, (n,) bool.

        Those that are most likely correct, as many as together keep `precision` in expectation.
        """
        return most_likely(self.judge(table).correct, precision)

    def save(self, path: str | Path) -> None:
        """Writes the ranker, whole or not at all."""
        write_whole(
            Path(path),
            lambda partial: np.savez(partial, table=self.table, iou=self.iou, k_iou=self.k_iou, seed=self.seed),
        )

    @classmethod
    def load(cls, path: str | Path) -> Ranker:
        """The ranker stored at `path`. Raises InputError where that is missing or none."""
        try:
            with np.load(path, allow_pickle=False) as stored:
                return cls(stored["table"], stored["iou"], float(stored["k_iou"]), int(stored["seed"]))
        except FileNotFoundError:
            raise InputError(path, "a ranker", "no such file") from None
        except (KeyError, OSError, ValueError) as error:
            raise InputError(path, "a ranker", error) from None


def most_likely(chance: np.ndarray, precision: float) -> np.ndarray:
    """Which masks, by their chances to be correct (n,), together keep `precision` in expectation, (n,) bool.

    Those with the highest chances, as many as do.
    """
    order = np.argsort(-chance, kind="stable")
    mean = np.cumsum(chance[order]) / np.arange(1, len(order) + 1)
    kept = np.flatnonzero(mean >= precision)
    accepted = np.zeros(len(order), bool)
    accepted[order[: int(kept[-1]) + 1 if len(kept) else 0]] = True
    return accepted


def _isotonic(said: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Knots of a rising map from what is said of masks to the share of them that is correct."""
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=0.0, y_max=1.0).fit(said, correct.astype(float))
    return fitted.X_thresholds_, fitted.y_thresholds_
