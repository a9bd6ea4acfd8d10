"""What is believed of a cluster's quality before anyone is asked: learned held-out, passed down the pool's tree.

The logit of a cluster's quality Q is taken to be normal: its mean follows the cluster's mean score and height, and its
spread the height, for a tight cluster is nearly all correct or all wrong and a wide one a mixture. A child's logit
strays from its parent's by what the spreads leave between them, so answers about a cluster say something about its
children, and the prior is an opinion about the class that answers quickly overrule. Densities live on a grid of logits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from campaign.clustering import Tree

LOGITS = np.linspace(-6, 6, 61)
QUALITIES = 1 / (1 + np.exp(-LOGITS))
_STEP = LOGITS[1] - LOGITS[0]
_EDGES = np.concatenate([[-np.inf], (LOGITS[1:] + LOGITS[:-1]) / 2, [np.inf]])
_SPREAD = (0.3, 4.0)  # however many held-out clusters agree
_ROUGH = 0.1  # transitions are kept for shifts and spreads rounded to this


@dataclass(frozen=True)
class Prior:
    """The normal prior of a class's cluster qualities, on the logit.

    Mean: `level` + `slope` · logit S + `tilt` · height. Spread: exp(`width` + `narrowing` · height). `doubt` is the
    share of a flat density mixed in. `clusters` says from how many held-out clusters it was learned; none means the
    default, a mild opinion that a score is worth about what it says.
    """

    level: float = 0.0
    slope: float = 1.4
    tilt: float = 0.0
    width: float = 0.4
    narrowing: float = 0.0
    doubt: float = 0.05
    clusters: int = 0

    def moments(self, mean_score: float, height: float) -> tuple[float, float]:
        """Mean and spread of the logit of a cluster's quality."""
        score = min(max(mean_score, 0.005), 0.995)
        mean = self.level + self.slope * math.log(score / (1 - score)) + self.tilt * height
        return mean, min(max(math.exp(self.width + self.narrowing * height), _SPREAD[0]), _SPREAD[1])

    def density(self, moments: tuple[float, float]) -> np.ndarray:
        """Probabilities of `LOGITS`, (G,), under a cluster's own moments."""
        mean, spread = (round(m / _ROUGH) for m in moments)
        return self._doubted(_steps(np.zeros(1), mean, spread)[0])

    def descend(
        self, density: np.ndarray, parent: Sequence[float], child: Sequence[float], out: np.ndarray | None = None
    ) -> np.ndarray:
        """Probabilities for a child, (G,), from those of its parent and the moments of both.

        Written to `out` where it is given.
        """
        stray = math.sqrt(max(child[1] ** 2 - parent[1] ** 2, 0.01))
        kernel = _transition(round((child[0] - parent[0]) / _ROUGH), max(1, round(stray / _ROUGH)))
        return self._doubted(np.matmul(density, kernel, out=out))

    def _doubted(self, density: np.ndarray) -> np.ndarray:
        """The density normed, with the flat one mixed in, in place."""
        total = np.add.reduce(density)
        density *= 1 - self.doubt
        density /= total
        density += self.doubt / len(density)
        return density


def _steps(start: np.ndarray, shift: int, spread: int) -> np.ndarray:
    """(len(start), G) chances to come from a logit to another by a normal step, see `_transition`."""
    from scipy.special import ndtr

    cumulative = ndtr((_EDGES - (start[:, None] + shift * _ROUGH)) / (spread * _ROUGH))
    return np.diff(cumulative, axis=1)


@lru_cache(maxsize=4096)
def _transition(shift: int, spread: int) -> np.ndarray:
    """(G, G) chances to come from one logit to another by a normal step, its mean and spread in units of `_ROUGH`."""
    return _steps(LOGITS, shift, spread)


def fit_prior(tree: Tree, correct: np.ndarray, *, min_size: int = 3, most: int = 800, doubt: float = 0.05) -> Prior:
    """The prior of a class from its held-out tree and the correctness of its leaves, (n,) bool.

    A maximum-likelihood fit on clusters of at least `min_size` masks, each octave of size counting alike, drawn towards
    the default by a mild penalty that only matters where clusters are few. At most `most` clusters are looked at.
    """
    from scipy.optimize import minimize
    from scipy.special import ndtr

    from campaign.search.truth import cluster_quality

    size = np.asarray(tree.size)
    chosen = np.flatnonzero(size >= min_size)
    if len(chosen) < 10:
        return Prior(doubt=doubt)
    chosen = chosen[np.linspace(0, len(chosen) - 1, min(most, len(chosen))).astype(int)]
    masks = size[chosen].astype(np.float64)
    right = np.rint(cluster_quality(tree, correct)[chosen] * masks)
    score = np.clip(np.asarray(tree.mean_score)[chosen], 0.005, 0.995)
    score, height = np.log(score / (1 - score)), np.asarray(tree.height)[chosen]
    octave = np.floor(np.log2(masks)).astype(int)
    weight = 1 / np.bincount(octave)[octave]
    weight *= min(len(chosen), 200) / weight.sum()
    evidence = right[:, None] * np.log(QUALITIES) + (masks - right)[:, None] * np.log1p(-QUALITIES)
    likelihood = np.exp(evidence - evidence.max(1, keepdims=True))
    default = Prior()
    start = np.array([default.level, default.slope, default.tilt, default.width, default.narrowing])
    scale = np.array([1.0, 0.7, 0.3, 1.0, 0.3])

    def loss(p: np.ndarray) -> float:
        mean = p[0] + p[1] * score + p[2] * height
        spread = np.clip(np.exp(np.clip(p[3] + p[4] * height, -9, 9)), *_SPREAD)
        density = np.diff(ndtr((_EDGES - mean[:, None]) / spread[:, None]), axis=1)
        fit = np.log((density * likelihood).sum(1) + 1e-12)
        wrong_way = max(0.0, -p[1]) + max(0.0, p[4])  # a score speaks for a mask, and wide clusters are mixed
        return float(-(weight * fit).sum() + 0.5 * (((p - start) / scale) ** 2).sum() + 1e3 * wrong_way)

    fitted = minimize(loss, start, method="Nelder-Mead", options={"maxiter": 400, "xatol": 0.01, "fatol": 0.02}).x
    level, slope, tilt, width, narrowing = (float(v) for v in fitted)
    return Prior(level, max(slope, 0.0), tilt, width, min(narrowing, 0.0), doubt, len(chosen))
