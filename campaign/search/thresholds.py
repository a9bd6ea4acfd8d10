"""`K_pr` and `K_pa`, learned from held-out masks, and the curves they are read from (section 3.2 of the paper).

P_h(S) is the probability that a cluster of mean score S is of high quality (Q ≥ K_a), P_l(S) that it is of low
quality (Q ≤ 1 − K_a). Below `K_pr` a cluster is rejected unseen, below `K_pa` it is split unseen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from campaign.search.policies.prior import Prior, fit_prior
from campaign.search.truth import cluster_quality
from ml_backend.errors import InputError

if TYPE_CHECKING:
    from campaign.clustering import Tree

DEFAULT_K_PR = 0.0
DEFAULT_K_PA = 0.7
_SLACK = 1e-9


@dataclass(frozen=True)
class Curves:
    """P_h and P_l against the mean score: B bins for a plot, and the monotone fits the thresholds are read from.

    `edges` (B+1,); `count` (B,) clusters in each bin; `high`, `low` (B,) the fractions of high and low quality, NaN
    in an empty bin; `high_fit`, `low_fit` (B,) the monotone fits at the bins' centres.
    """

    edges: tuple[float, ...]
    count: tuple[int, ...]
    high: tuple[float, ...]
    low: tuple[float, ...]
    high_fit: tuple[float, ...]
    low_fit: tuple[float, ...]


@dataclass(frozen=True)
class Thresholds:
    """Mean scores at and below which a cluster is rejected (`k_pr`) or split (`k_pa`) without a question.

    `note` says how they came about, when that was not by learning alone. `prior` is what the adaptive policy believes
    of a cluster before anyone is asked; None for its default.
    """

    k_pr: float = DEFAULT_K_PR
    k_pa: float = DEFAULT_K_PA
    curves: Curves | None = field(default=None, compare=False)
    note: str = ""
    prior: Prior | None = None

    def __post_init__(self) -> None:
        if not self.k_pr <= self.k_pa:
            raise InputError("k_pr", f"no more than k_pa, {self.k_pa}", self.k_pr)


def learn_thresholds(  # noqa: PLR0913 - options by name, each with the default that was measured
    tree: Tree,
    scores: np.ndarray,
    correct: np.ndarray,
    k_a: float = 0.85,
    *,
    min_size: int = 5,
    min_clusters: int = 30,
    confidence: float = 0.95,
    max_loss: float = 0.02,
    bins: int = 20,
    fallback: Thresholds | None = None,
) -> Thresholds:
    """Thresholds of one class from its held-out masks.

    Takes the class's held-out tree over n masks, their scores (n,) and correctness (n,) bool. `min_size`: clusters of
    fewer masks are left out of the curves, for their quality says little. `confidence`: `k_pa` is the greatest
    mean score up to which P_h stays at or below 1 − `confidence`, `k_pr` the greatest up to which P_l stays at or
    above it, and up to which rejection loses at most `max_loss` of the correct masks. `fallback` is returned, with a
    note, where fewer than `min_clusters` clusters are left or none of them is of high quality.

    Raises InputError when `scores` or `correct` do not fit the tree.
    """
    scores, correct = np.asarray(scores, np.float64), np.asarray(correct, bool)
    for name, column in (("scores", scores), ("correct", correct)):
        if column.shape != (tree.n,):
            raise InputError(name, f"shape ({tree.n},), one value for each held-out mask", column.shape)
    fallback = fallback or Thresholds()
    size, mean = np.asarray(tree.size), np.asarray(tree.mean_score, np.float64)
    quality = cluster_quality(tree, correct) if tree.n else np.zeros(0)
    chosen = size >= min_size
    mean_chosen, q = mean[chosen], quality[chosen]
    high, low = q >= k_a - _SLACK, q <= 1 - k_a + _SLACK
    curves = _curves(mean_chosen, high, low, bins) if len(q) else None
    prior = fit_prior(tree, correct) if tree.n else None
    if len(q) < min_clusters or not high.any():
        why = f"{len(q)} held-out clusters" if len(q) < min_clusters else "no held-out cluster of high quality"
        note = f"not learned: {why}; {fallback.note or 'defaults'}"
        return Thresholds(fallback.k_pr, fallback.k_pa, curves, note, fallback.prior or prior)
    notes = []
    k_pa = _greatest_below(mean_chosen, _monotone(mean_chosen, high), 1 - confidence, min_clusters)
    k_pr = _greatest_below(mean_chosen, _monotone(mean_chosen, ~low), 1 - confidence, min_clusters)
    affordable = _greatest_harmless(tree, mean, correct, max_loss)
    if affordable < k_pr:
        k_pr = affordable
        notes.append(f"k_pr lowered to keep {1 - max_loss:.0%} of the correct held-out masks")
    return Thresholds(min(k_pr, k_pa), k_pa, curves, "; ".join(notes), prior)


def _monotone(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Non-decreasing least-squares fit of y on x, in the order of x."""
    from scipy.optimize import isotonic_regression

    order = np.argsort(x, kind="stable")
    fit = np.empty(len(x))
    fit[order] = isotonic_regression(y[order].astype(np.float64)).x
    return fit


def _greatest_below(x: np.ndarray, fit: np.ndarray, level: float, evidence: int) -> float:
    """The greatest x up to which the fit stays at or below `level`; 0 where fewer than `evidence` values say so."""
    order = np.argsort(x, kind="stable")
    count = int(np.searchsorted(fit[order], level, side="right"))
    return float(x[order][count - 1]) if count >= evidence else 0.0


def _greatest_harmless(tree: Tree, mean: np.ndarray, correct: np.ndarray, max_loss: float) -> float:
    """The greatest `K_pr` with which at most `max_loss` of the correct masks lie in a rejected cluster."""
    least = mean.copy()  # the least mean score on the way from the root: a mask is lost at K_pr at or above it
    children = np.asarray(tree.children)
    for cluster in range(2 * tree.n - 2, tree.n - 1, -1):
        left, right = children[cluster]
        least[left] = min(least[left], least[cluster])
        least[right] = min(least[right], least[cluster])
    lost = np.sort(least[: tree.n][correct])
    allowed = int(np.floor(max_loss * len(lost)))
    return max(0.0, float(np.nextafter(lost[allowed], -np.inf))) if allowed < len(lost) else 1.0


def _curves(mean: np.ndarray, high: np.ndarray, low: np.ndarray, bins: int) -> Curves:
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip((mean * bins).astype(int), 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    with np.errstate(invalid="ignore"):
        rate_high = np.bincount(index, weights=high, minlength=bins) / np.where(count, count, np.nan)
        rate_low = np.bincount(index, weights=low, minlength=bins) / np.where(count, count, np.nan)
    order = np.argsort(mean, kind="stable")
    centres = (edges[1:] + edges[:-1]) / 2
    fit_high = np.interp(centres, mean[order], _monotone(mean, high)[order])
    fit_low = np.interp(centres, mean[order], 1 - _monotone(mean, ~low)[order])
    return Curves(
        *(tuple(column.tolist()) for column in (edges, count, rate_high, rate_low, fit_high, fit_low)),
    )
