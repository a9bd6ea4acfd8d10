"""Where simulated masks come from: class-wise Gaussian mixtures over (feature, score, IoU).

The large-scale study of "Scaling up instance annotation via label propagation" samples its masks from mixtures fitted
to the detections of each class. Scores and IoUs are taken to the whole line by the logit, so a normal fits them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ml_backend.errors import InputError

_EDGE = 0.005  # scores and IoUs are clipped to this and its complement before the logit


@dataclass(frozen=True)
class Triplets:
    """n masks as the simulator knows them: `features` (n, d) float32, `score` (n,) and `iou` (n,) float32, 0 to 1."""

    features: np.ndarray
    score: np.ndarray
    iou: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.features)
        if self.features.ndim != 2 or self.score.shape != (n,) or self.iou.shape != (n,):
            raise InputError(
                "features, score and iou",
                "shapes (n, d), (n,) and (n,)",
                f"{self.features.shape}, {self.score.shape} and {self.iou.shape}",
            )

    def __len__(self) -> int:
        return len(self.features)

    def select(self, index: np.ndarray) -> Triplets:
        """The masks that a NumPy index picks."""
        return Triplets(self.features[index], self.score[index], self.iou[index])


@dataclass(frozen=True)
class Mixture:
    """A Gaussian mixture of G components over d features, logit score and logit IoU.

    `weight` (G,) sums to one; `mean` (G, d+2); `factor` (G, d+2, d+2) Cholesky factors of the covariances.
    """

    weight: np.ndarray
    mean: np.ndarray
    factor: np.ndarray

    @property
    def dim(self) -> int:
        """Number of features d."""
        return self.mean.shape[1] - 2

    def sample(self, n: int, rng: np.random.Generator) -> Triplets:
        """Masks drawn from the mixture, n of them."""
        component = rng.choice(len(self.weight), size=n, p=self.weight)
        values = np.empty((n, self.dim + 2), np.float32)
        for g in range(len(self.weight)):
            chosen = component == g
            noise = rng.standard_normal((int(chosen.sum()), self.dim + 2))
            values[chosen] = self.mean[g] + noise @ self.factor[g].T
        score, iou = (1 / (1 + np.exp(-values[:, -2:]))).T
        return Triplets(values[:, :-2].copy(), score.astype(np.float32), iou.astype(np.float32))

    def save(self, path: Path | str) -> None:
        """Writes the mixture as JSON."""
        columns = {name: np.round(getattr(self, name), 6).tolist() for name in ("weight", "mean", "factor")}
        Path(path).write_text(json.dumps(columns) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Mixture:
        """Reads what `save` wrote. Raises InputError for anything else."""
        try:
            columns = json.loads(Path(path).read_text())
            weight, mean, factor = (np.array(columns[name], np.float64) for name in ("weight", "mean", "factor"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(path, "a mixture in JSON", error) from None
        g, width = mean.shape if mean.ndim == 2 else (0, 0)
        if weight.shape != (g,) or factor.shape != (g, width, width) or width < 3:
            raise InputError(path, "weight (G,), mean (G, d+2) and factor (G, d+2, d+2)", (weight.shape, mean.shape))
        finite = all(np.isfinite(part).all() for part in (weight, mean, factor))
        if not finite or (weight < 0).any() or weight.sum() <= 0:
            raise InputError(path, "finite numbers and weights of no less than 0, not all 0", f"weights {weight}")
        return cls(weight / weight.sum(), mean, factor)


def fit_mixture(triplets: Triplets, components: int = 12, dim: int = 16, seed: int = 0) -> Mixture:
    """The mixture of one class's masks, its features first reduced to their `dim` leading principal components.

    The components' number is lowered where there are too few masks: each gets at least ten on average.
    """
    from sklearn.mixture import GaussianMixture

    if len(triplets) < 10:
        raise InputError("masks to fit a mixture to", "at least 10", len(triplets))
    features = np.asarray(triplets.features, np.float64)
    centred = features - features.mean(0)
    _, _, axes = np.linalg.svd(centred[:5000], full_matrices=False)
    reduced = centred @ axes[:dim].T
    reduced /= reduced.std() or 1.0
    values = np.column_stack([reduced, logit(triplets.score), logit(triplets.iou)])
    components = max(1, min(components, len(values) // 10))
    model = GaussianMixture(components, covariance_type="full", reg_covar=1e-3, random_state=seed, n_init=1)
    model.fit(values)
    return Mixture(model.weights_, model.means_, np.linalg.cholesky(model.covariances_))


def default_mixture(seed: int, components: int = 40, dim: int = 16) -> Mixture:
    """A made-up class: well-segmented, badly segmented and false modes, told apart only in part by their scores.

    Some two fifths of the masks are correct at IoU 0.75, and the score of a mode is biased by a random amount, so
    a good mode may score low and a false one high.
    """
    rng = np.random.default_rng((seed, 77))
    weight = rng.gamma(0.7, size=components)
    weight /= weight.sum()
    kind = rng.choice(3, size=components, p=[0.42, 0.28, 0.30])
    iou = np.choose(kind, [rng.normal(m, s, components) for m, s in ((2.3, 0.4), (0.6, 0.6), (-2.2, 1.0))])
    spread = np.choose(kind, [rng.uniform(a, b, components) for a, b in ((0.4, 0.8), (0.6, 1.1), (0.8, 1.5))])
    score = 0.55 * iou + rng.normal(0.35, 0.7, components)
    mean = np.column_stack([rng.normal(0, 1.0, (components, dim)), score, iou])
    factor = np.zeros((components, dim + 2, dim + 2))
    for g in range(components):
        scale = np.concatenate([rng.uniform(0.25, 0.5, dim), [0.55, spread[g]]])
        correlation = np.eye(dim + 2)
        correlation[-1, -2] = correlation[-2, -1] = 0.45
        tied = rng.choice(dim, size=4, replace=False)
        correlation[-1, tied] = correlation[tied, -1] = rng.uniform(-0.3, 0.3, 4)
        factor[g] = np.linalg.cholesky(correlation * np.outer(scale, scale))
    return Mixture(weight, mean, factor)


def logit(x: np.ndarray) -> np.ndarray:
    """log(x / (1 − x)), with x clipped away from 0 and 1."""
    x = np.clip(np.asarray(x, np.float64), _EDGE, 1 - _EDGE)
    return np.log(x / (1 - x))
