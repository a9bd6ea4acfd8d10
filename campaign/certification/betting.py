"""How many wrong masks a set holds at most: betting against "too many", valid whenever one stops.

A set of masks holds an unknown number W of wrong ones. Masks are drawn from it one after another without replacement,
each with a probability in proportion to its weight among those that are left. Whoever doubts that W is w or more bets
on every draw: the wealth

    M = product over draws of 1 + s (w − F − X)

where F counts the wrong masks drawn before, X is an unbiased estimate of how many are left, and the stake s was fixed
before the draw, is a supermartingale as long as W is at least w (Waudby-Smith and Ramdas, "Estimating means of bounded
random variables by betting", section 5; for weights and control variates Shekhar, Xu, Lipton, Liang and Ramdas,
"Risk-limiting financial audits via weighted sampling without replacement"). By Ville's inequality it reaches 1 / alpha
with a probability of at most alpha, however often one looks and whatever makes one stop. X takes what a model expected
of each mask as a control variate: a good model makes it less spread, and one that is wrong, even on purpose, costs
questions and never the promise.

Stakes do not depend on w, so the wealth against w rises with w: a w that moves with what was found may be tested.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_STAKES = np.array([0.4, 0.8, 1.6])  # times the stake that would be best if the model were right
_SHARES = np.array([0.3, 0.3, 0.3, 0.1])  # of the first wealth: to those stakes, and to the ones without an aim
_REACH = 4.0  # log wealth that stakes without an aim are set for
_MOST = 0.9  # of the stake at which a single draw could lose everything
_PRIOR = 30.0  # draws that the model's own variance is worth


@dataclass(frozen=True)
class Draws:
    """The answered draws of one set, in the order in which they were drawn.

    `weight` (t,) above 0; `expected` (t,) the chance of being wrong that a model gave each, fixed beforehand; `wrong`
    (t,) whether it turned out so. Of the whole set, before the first draw: the sums `total_weight` and
    `total_expected`, `spread` the mean of (wrong − expected)² / weight² over draws if the model is right, and `most`
    the greatest (1 − expected) / weight, which bounds what a draw can say.
    """

    weight: np.ndarray
    expected: np.ndarray
    wrong: np.ndarray
    total_weight: float
    total_expected: float
    spread: float
    most: float

    def __len__(self) -> int:
        return len(self.weight)


def log_wealth(draws: Draws, at_least: int, aim: float) -> np.ndarray:
    """The log wealth after each draw, (t,), of betting against "at least `at_least` of the set are wrong".

    Where its greatest value is above log(1 / alpha) the doubt is refuted at error probability alpha. `aim` is the
    number of wrong masks that stakes are set against: any number fixed before the first draw is valid, and the nearer
    to what is tested in the end the better. The wealth is −inf where that many were drawn already.
    """
    wrong = np.asarray(draws.wrong, np.float64)
    if at_least <= wrong.sum():
        return np.full(max(1, len(draws)), -np.inf)
    if not len(draws):
        return np.zeros(1)
    before = np.cumsum(wrong) - wrong
    weight_left = draws.total_weight - (np.cumsum(draws.weight) - draws.weight)
    expected_left = draws.total_expected - (np.cumsum(draws.expected) - draws.expected)
    residual = (wrong - draws.expected) / draws.weight
    stakes = _stakes(draws, residual, aim - before, weight_left, expected_left)
    wealth = np.cumsum(np.log1p(stakes * (at_least - before - expected_left - residual * weight_left)), axis=1)
    top = wealth.max(axis=0)
    return top + np.log(_SHARES @ np.exp(wealth - top))


def _stakes(
    draws: Draws, residual: np.ndarray, feared: np.ndarray, weight_left: np.ndarray, expected_left: np.ndarray
) -> np.ndarray:
    """The stakes on every draw, (len(_SHARES), t), each by what was known before it.

    The best stake is about gap / (gap² + variance): the gap between the wrong masks that are feared and those that
    model and draws let expect, and the variance that they let expect. Where more are expected than feared nothing would
    be staked and so nothing learned: a tenth is staked as for a confidence sequence, which has no aim (Waudby-Smith and
    Ramdas, equation 26).
    """
    known = np.arange(len(draws)) + _PRIOR
    variance = (np.cumsum(residual**2) - residual**2 + _PRIOR * draws.spread) / known * weight_left**2
    drift = (np.cumsum(residual) - residual) / known
    gap = np.maximum(feared - expected_left - drift * weight_left, 0.0)
    limit = _MOST / (draws.most * weight_left + expected_left)
    aimed = np.outer(_STAKES, gap / (gap**2 + variance + 1e-12))
    aimless = np.sqrt(2 * _REACH / ((variance + 1e-12) * known * np.log1p(known)))
    return np.minimum(np.vstack([aimed, aimless]), limit)
