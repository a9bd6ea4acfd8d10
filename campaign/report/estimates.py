"""How many masks of the dataset are correct, estimated from the answers that accepted it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaincinv

_PRIOR = 0.5  # Jeffreys: half a yes and half a no, so that 15 of 15 is not taken for certainty


@dataclass(frozen=True)
class Estimate:
    """A fraction with its 95 % interval."""

    value: float
    low: float
    high: float


def expected_correct(masks: np.ndarray, yes: np.ndarray, answered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of how many of the unasked masks of some clusters are correct.

    A cluster's quality is given a Beta posterior from its own sample, and the count of its correct masks is then
    beta-binomial. Clusters are taken as independent and answers as right.

    Args:
        masks: (c,) unasked masks of each cluster.
        yes: (c,) how many of the cluster's sample were voted yes.
        answered: (c,) how many of it were voted yes or no.

    Returns:
        mean (c,) and variance (c,), float64.
    """
    masks, yes, answered = (np.asarray(a, np.float64) for a in (masks, yes, answered))
    a, b = yes + _PRIOR, answered - yes + _PRIOR
    rate = a / (a + b)
    return masks * rate, masks * rate * (1 - rate) * (a + b + masks) / (a + b + 1)


def interval(mean: np.ndarray, variance: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The fraction that is correct of some numbers of masks, with a 95 % interval: value, low, high, (n,) each.

    The interval is that of the Beta distribution with the same mean and variance, which stays within 0 and 1.

    Args:
        mean: (n,) of the number of correct masks.
        variance: (n,) of the same number.
        masks: (n,) at least 1.
    """
    masks = np.asarray(masks, np.float64)
    value = np.clip(np.asarray(mean, np.float64) / masks, 0, 1)
    # No fraction varies more than one that is 0 or 1, which a single mask is and which no Beta distribution reaches.
    spread = np.minimum(np.asarray(variance, np.float64) / masks**2, 0.999 * value * (1 - value))
    uncertain = spread > 1e-12
    weight = np.where(uncertain, value * (1 - value) / np.where(uncertain, spread, 1) - 1, 1.0)
    a, b = np.where(uncertain, value * weight, 1.0), np.where(uncertain, (1 - value) * weight, 1.0)
    low, high = (np.where(uncertain, betaincinv(a, b, q), value) for q in (0.025, 0.975))
    return value, np.minimum(low, value), np.maximum(high, value)


def estimate(mean: float, variance: float, masks: int) -> Estimate | None:
    """The fraction of `masks` that is correct, given the mean and variance of their number; None of no masks."""
    if masks <= 0:
        return None
    value, low, high = interval(*np.array([[mean], [variance], [masks]]))
    return Estimate(float(value[0]), float(low[0]), float(high[0]))
