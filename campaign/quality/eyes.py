"""An annotator's yes as a function of a mask's true IoU: psychometric curves, estimated from gold.

The curve is a logistic with lapses at both ends (Wichmann and Hill 2001, "The psychometric function: I. Fitting,
sampling, and goodness of fit"). An eye need not cut at `k_iou`: it may take masks of IoU 0.72 for correct where 0.75
was asked for, and gold that leaves out the masks near the threshold would never show it.

The posterior is worked out on a grid of the four parameters, refined where its mass lies: exact but for the grid, the
same on every machine, and in whatever order the answers come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import lgamma

import numpy as np

from ml_backend.errors import InputError

# Before any answer: the cut is spread about `k_iou` as Student's t of four degrees of freedom, whose tails are there
# for eyes that are quite different; of widths the density of the logarithm grows with the root; lapses are few, Beta
# of mean 3 %, or, in one case of a hundred, anything. That is wider than most people are: with 60 answers intervals
# still cover eyes in the corners of what is plausible.
CUT_SCALE, CUT_FREEDOM = 0.04, 4
CUT_BELOW, CUT_ABOVE = 0.25, 0.2
WIDTHS, WIDTH_POWER = (0.003, 0.05), 0.5
LAPSE_A, LAPSE_B, LAPSE_ANY = 0.5, 16.0, 0.01
LAPSE_MOST = 0.95
LENT = 20  # answers that all others' are worth in the prior of one user
INTERVAL = 0.9

_COARSE, _FINE = (41, 5, 12, 12), (21, 7, 9, 9)
# So many answers at most count while the grid closes in: a sharp likelihood would fall between coarse points.
_CLOSING_IN = (200.0, 2000.0)
_SMALL = 1e-4  # of the mass may lie outside of the refined grid, at each side of each axis
_BAND, _NARROW, _BROAD = 0.2, 0.0025, 0.02  # bins of IoU: narrow ones this near to `k_iou`


@dataclass(frozen=True)
class Eye:
    """One psychometric curve.

    `cut` is the IoU at which it is half way, `width` that of the logistic, in IoU (0: a step), `pass_rate` the share
    of yes far below the cut (lapses on wrong masks), `miss_rate` the share of no far above it (on correct ones).
    """

    cut: float
    width: float
    pass_rate: float
    miss_rate: float

    def chance(self, iou: np.ndarray | float) -> np.ndarray:
        """P(yes | IoU), of the shape of `iou`."""
        return _chance(np.asarray(iou, np.float64), self.cut, self.width, self.pass_rate, self.miss_rate)


@dataclass(frozen=True)
class Eyes:
    """The eyes of a campaign's annotators.

    `crowd` is the posterior mean of the crowd's curve: that of an answer drawn at random, so users weigh as they
    answered. `draws` (D, 4) are draws of it from its posterior: cut, width, pass rate, miss rate. `users` has each
    user's own curve, drawn towards the others', and `cuts` the 90 % intervals of their cuts. `answers` is how many
    answers it rests on; without any, everything is the prior.
    """

    crowd: Eye
    draws: np.ndarray
    users: dict[str, Eye]
    answers: int
    cuts: dict[str, tuple[float, float]] = field(default_factory=dict)

    def chances(self, iou: np.ndarray | Sequence[float]) -> np.ndarray:
        """(D, n): P(yes | IoU) of n masks under every draw."""
        cut, width, passes, misses = (column[:, None] for column in self.draws.T)
        return _chance(np.asarray(iou, np.float64)[None], cut, width, passes, misses)

    @property
    def cut_interval(self) -> tuple[float, float]:
        """The 90 % interval of the crowd's cut."""
        low, high = np.quantile(self.draws[:, 0], [(1 - INTERVAL) / 2, (1 + INTERVAL) / 2])
        return float(low), float(high)


def fit_eyes(
    iou: np.ndarray,
    yes: np.ndarray,
    user: np.ndarray,
    k_iou: float,
    weight: np.ndarray | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> Eyes:
    """The posterior of the curves, from n answers on masks whose true IoU is known.

    `iou` (n,), `yes` (n,) bool, an unsure answer being none, `user` (n,) names. `weight` (n,) says how much of the
    crowd each answer stands for; together they count as many answers as are left after uneven weights (Kish's
    effective size). `draws` are how many to return; the same answers and seed give the same ones, in whatever order
    the answers come. Raises InputError where the columns are not of one length or an IoU is none.
    """
    iou, yes, user = np.asarray(iou, np.float64), np.asarray(yes, bool), np.asarray(user, np.str_)
    weight = np.ones(len(iou)) if weight is None else np.asarray(weight, np.float64)
    if not iou.shape == yes.shape == user.shape == weight.shape or iou.ndim != 1:
        raise InputError("gold answers", "columns of one length", (iou.shape, yes.shape, user.shape, weight.shape))
    if len(iou) and not (iou.min() >= 0 and iou.max() <= 1 and weight.min() >= 0):  # false for NaN, too
        raise InputError("gold answers", "IoUs from 0 to 1, weights from 0", (iou.min(), iou.max(), weight.min()))
    order = np.lexsort((weight, yes, user, iou))
    iou, yes, user, weight = iou[order], yes[order], user[order], weight[order]
    names, number = np.unique(user, return_inverse=True)
    counts = _Counts.of(iou, yes, weight, number, len(names), k_iou)
    grid = coarse = _Grid.whole(k_iou)
    likelihood = everyone = coarse.likelihoods(counts)
    for most in _CLOSING_IN:
        grid = grid.refined(_normalised(grid.prior() + likelihood[:, 0] * _tempered(counts.answers[0], most)))
        likelihood = grid.likelihoods(counts.crowd())
    mass = _normalised(grid.prior() + likelihood[:, 0])
    users, cuts = _users(coarse, everyone, counts, names.tolist())
    crowd = Eye(*(float(v) for v in mass @ grid.points()))
    return Eyes(crowd, grid.draw(mass, draws, seed), users, int((weight > 0).sum()), cuts)


def _users(
    grid: _Grid, likelihood: np.ndarray, counts: _Counts, names: list[str]
) -> tuple[dict[str, Eye], dict[str, tuple[float, float]]]:
    """Each user's curve and the interval of their cut; the rest of the crowd is the prior, as if a few answers."""
    eyes: dict[str, Eye] = {}
    cuts: dict[str, tuple[float, float]] = {}
    if not names:
        return eyes, cuts
    points, prior, answers = grid.points(), grid.prior(), counts.answers
    for n, name in enumerate(names):
        own, shared = 1 + n, 1 + len(names) + n
        lent = (likelihood[:, 0] - likelihood[:, shared]) * _tempered(answers[0] - answers[shared], LENT)
        mass = _normalised(prior + likelihood[:, own] * _tempered(answers[own], _CLOSING_IN[0]) + lent)
        eyes[name] = Eye(*(float(v) for v in mass @ points))
        cuts[name] = grid.cut_interval(mass)
    return eyes, cuts


@dataclass(frozen=True)
class _Counts:
    """Answers by bin of IoU: `at` (B,) the mean IoU of each, `yes` and `no` (B, 1 + 2 users).

    The columns are the crowd, each user, and each user's part in the crowd.
    """

    at: np.ndarray
    yes: np.ndarray
    no: np.ndarray

    @classmethod
    def of(
        cls, iou: np.ndarray, yes: np.ndarray, weight: np.ndarray, user: np.ndarray, users: int, k_iou: float
    ) -> _Counts:
        """From the answers in their order; the crowd's by their weights."""
        low, high = max(0.0, k_iou - _BAND), min(1.0, k_iou + _BAND)
        edges = np.unique(
            np.concatenate([np.arange(0, low, _BROAD), np.arange(low, high, _NARROW), np.arange(high, 1, _BROAD)])
        )
        _, place = np.unique(np.searchsorted(edges, iou, side="right"), return_inverse=True)
        bins = int(place.max()) + 1 if len(iou) else 0
        at = np.bincount(place, iou, bins) / np.maximum(np.bincount(place, minlength=bins), 1)
        total = weight.sum()
        if total > 0:
            weight = weight * (total / np.square(weight).sum())  # adds up to the effective number of answers
        tables = []
        for said in (yes, ~yes):
            table = np.zeros((bins, 1 + 2 * users))
            np.add.at(table, (place[said], 1 + user[said]), 1.0)
            np.add.at(table, (place[said], 1 + users + user[said]), weight[said])
            table[:, 0] = table[:, 1 + users :].sum(1)
            tables.append(table)
        return cls(at, *tables)

    def crowd(self) -> _Counts:
        """Those of the crowd alone."""
        return _Counts(self.at, self.yes[:, :1], self.no[:, :1])

    @property
    def answers(self) -> np.ndarray:
        """(1 + 2 users,): how many answers are in each column."""
        return self.yes.sum(0) + self.no.sum(0)


@dataclass(frozen=True)
class _Grid:
    """Cells of the four parameters, by their edges: IoU of the cut, log of the width, roots of the lapse rates.

    In the root of a rate a Beta of shape 0.5 is smooth. A cell stands for its middle; cells are in the order of their
    axes, the last varying fastest.
    """

    k_iou: float
    edges: tuple[np.ndarray, ...]

    @classmethod
    def whole(cls, k_iou: float) -> _Grid:
        """The grid that everything lies in."""
        ends = (
            (max(0.01, k_iou - CUT_BELOW), min(0.99, k_iou + CUT_ABOVE)),
            (np.log(WIDTHS[0]), np.log(WIDTHS[1])),
            (0.0, LAPSE_MOST**0.5),
            (0.0, LAPSE_MOST**0.5),
        )
        return cls(k_iou, tuple(np.linspace(*e, n + 1) for e, n in zip(ends, _COARSE, strict=True)))

    @property
    def shape(self) -> tuple[int, ...]:
        """Cells along each axis."""
        return tuple(len(e) - 1 for e in self.edges)

    def points(self) -> np.ndarray:
        """(G, 4): the parameters at the middles of the cells."""
        middles = np.meshgrid(*((e[1:] + e[:-1]) / 2 for e in self.edges), indexing="ij")
        return _parameters(np.stack([m.ravel() for m in middles], axis=1))

    def prior(self) -> np.ndarray:
        """(G,): log of the prior mass of each cell, up to a constant."""
        cut, width, passes, misses = ((e[1:] + e[:-1]) / 2 for e in self.edges)
        t = (cut - self.k_iou) / CUT_SCALE
        of_cut = -(CUT_FREEDOM + 1) / 2 * np.log1p(t * t / CUT_FREEDOM)
        of_pass, of_miss = (_lapse_prior(x) for x in (passes, misses))
        total = (of_cut[:, None] + WIDTH_POWER * width)[:, :, None, None] + of_pass[:, None] + of_miss
        possible = passes[:, None] ** 2 + misses**2 < 1
        return np.where(possible, total, -np.inf).ravel()

    def likelihoods(self, counts: _Counts) -> np.ndarray:
        """(G, columns): the log likelihood of the answers of each column."""
        cut, width, passes, misses = ((e[1:] + e[:-1]) / 2 for e in self.edges)
        scaled = (counts.at - cut[:, None, None]) / np.exp(width)[:, None]
        scaled = scaled.reshape(len(cut) * len(width), len(counts.at))
        above, below = _logistic(scaled), _logistic(-scaled)  # one less the other, each exact where it is small
        out = np.empty((len(above), len(passes), len(misses), counts.yes.shape[1]))
        for i, low in enumerate(passes**2):
            for j, high in enumerate(misses**2):
                reach = max(0.0, 1 - low - high)
                out[:, i, j] = np.log(low + reach * above) @ counts.yes + np.log(high + reach * below) @ counts.no
        return out.reshape(-1, counts.yes.shape[1])

    def refined(self, mass: np.ndarray) -> _Grid:
        """A finer grid over the cells that hold all but a little of the mass, and their neighbours."""
        table, edges = mass.reshape(self.shape), []
        for axis, (old, count) in enumerate(zip(self.edges, _FINE, strict=True)):
            below = np.cumsum(table.sum(tuple(a for a in range(4) if a != axis)))
            first = max(0, int(np.searchsorted(below, _SMALL)) - 1)
            last = min(len(old) - 1, int(np.searchsorted(below, 1 - _SMALL)) + 2)
            edges.append(np.linspace(old[first], old[last], count + 1))
        return _Grid(self.k_iou, tuple(edges))

    def draw(self, mass: np.ndarray, count: int, seed: int) -> np.ndarray:
        """(count, 4): parameters drawn by the mass, evenly spread over it, anywhere inside of their cells."""
        rng = np.random.default_rng((seed, 31))
        places = (np.arange(count) + rng.random(count)) / count
        cells = np.minimum(np.searchsorted(np.cumsum(mass), places * mass.sum(), side="right"), len(mass) - 1)
        inside = rng.random((count, 4))
        corner = np.unravel_index(cells, self.shape)
        x = np.stack(
            [e[c] + u * (e[c + 1] - e[c]) for e, c, u in zip(self.edges, corner, inside.T, strict=True)], axis=1
        )
        drawn = _parameters(x)
        drawn[:, 3] = np.minimum(drawn[:, 3], 1 - drawn[:, 2])
        return drawn[rng.permutation(count)]

    def cut_interval(self, mass: np.ndarray) -> tuple[float, float]:
        """The interval that holds `INTERVAL` of the mass of the cut, as much on either side of it."""
        below = np.concatenate([[0.0], np.cumsum(mass.reshape(self.shape).sum((1, 2, 3)))])
        low, high = np.interp([(1 - INTERVAL) / 2, (1 + INTERVAL) / 2], below, self.edges[0])
        return float(low), float(high)


def _lapse_prior(root: np.ndarray) -> np.ndarray:
    """Log density of the root of a lapse rate."""
    beta = lgamma(LAPSE_A + LAPSE_B) - lgamma(LAPSE_A) - lgamma(LAPSE_B)
    beta = beta + 2 * (LAPSE_A - 1) * np.log(root) + (LAPSE_B - 1) * np.log1p(-root * root)
    return np.log(2 * root) + np.logaddexp(np.log1p(-LAPSE_ANY) + beta, np.log(LAPSE_ANY))


def _parameters(x: np.ndarray) -> np.ndarray:
    """From the coordinates of a grid, (n, 4), to cut, width, pass and miss rate."""
    return np.stack([x[:, 0], np.exp(x[:, 1]), x[:, 2] ** 2, x[:, 3] ** 2], axis=1)


def _normalised(log_mass: np.ndarray) -> np.ndarray:
    mass = np.exp(log_mass - log_mass.max())
    return mass / mass.sum()


def _tempered(answers: float, most: float) -> float:
    """The power at which so many answers count as no more than `most`."""
    return min(1.0, most / max(answers, 1.0))


def _chance(iou: np.ndarray, cut, width, passes, misses) -> np.ndarray:  # type: ignore[no-untyped-def]
    scaled = (iou - cut) / np.maximum(width, 1e-12)
    return passes + (1 - passes - misses) * _logistic(scaled)


def _logistic(x: np.ndarray) -> np.ndarray:
    """Without overflow at either end; small values are exact."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1 + small)
