"""A lower confidence bound on the recall of a data set, from images in which people clicked every object it lacks.

Every part of an image (all of a small one) is a unit with a weight, and units are drawn one after the other without
replacement, each with a chance in proportion to its weight among those left. A draw then gives an unbiased estimate of
the number of true objects in the whole pool (Des Raj 1956): masks and clicks in the units drawn before, masks in all
others, and the clicks of this one divided by its chance. The bound on their mean is Gaffke's (2005; see Learned-Miller
and Thomas 2019): the quantile of a randomly weighted mean of the estimates and of one more at its highest possible
value. Where no draw shows anything missing it is the exact binomial bound. It was chosen over a bootstrap, whose
bounds fail where whole images are missing (as few as 20 % of promises true, at a nominal 95 %), and over betting, which
is looser for a sample of a size that is set beforehand.

A mask that is drawn hides its object, whether the mask is correct or not, so each counts as an object of its own in
the number of true objects, and only the correct ones count as found: recall ≥ P · D / (D + M) for D masks of precision
P at least and M missing objects at most.

The number of true objects does not depend on what is delivered, so the bound stays good when masks come and go after
people looked, and units that are asked later may show more masks than earlier ones did.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ml_backend.errors import InputError

CONFIDENCE = 0.95
LOOK_SHARE = 0.75  # of the error probability, to the first look; each later one takes half of what is left
_FINDER_SHARE = 0.2  # of a look's error probability, to the bound on the finders' sensitivity
_ALIKE = 0.1  # least correlation of two objects of one image in being found: who is tired misses several
ANY = -1  # the class of a click that names none: it counts in each
_DRAWS, _NUMBERS, _SEED = 20000, 4_000_000, 20


@dataclass(frozen=True)
class Draw:
    """One unit of the sample, in the order of the draws, as it was when it was put before people.

    `chance` is its chance among the units left then, `share` the part of all units' weight that is left with it, both
    in (0, 1]. `clicked` counts the missing objects that were clicked, by class; None where nobody could tell. `shown`
    are the masks drawn into it, `rest` those in all units left then, itself included. `most` is the most objects that
    may be missing in any unit, by class and, under None, of all classes together; `least` the weight of the lightest
    unit, as a share of all weight.
    """

    chance: float
    share: float
    clicked: Mapping[int, int] | None
    shown: Mapping[int, int]
    rest: Mapping[int, int]
    most: Mapping[int | None, float]
    least: float


@dataclass(frozen=True)
class GoldPage:
    """What people made of a held-out image: of `known` missing objects `found` were clicked, and `false` others."""

    known: int
    found: int
    false: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.found <= self.known or self.false < 0:
            raise InputError("gold page", "no more objects found than are missing", self)


@dataclass(frozen=True)
class Finder:
    """How many of the objects that are missing people click: the estimate, the bound used, and what it rests on."""

    sensitivity: float
    bound: float
    false_clicks: float  # per page
    pages: int
    known: int


@dataclass(frozen=True)
class RecallBound:
    """What is known of one class or of all: `estimate` and `bound` of recall, `masks` delivered, objects clicked.

    `objects` is the estimate of all true objects, `objects_most` the bound on their number.
    """

    estimate: float
    bound: float
    masks: int
    clicked: int
    objects: float
    objects_most: float


@dataclass(frozen=True)
class Recall:
    """Bounds on recall, overall and by class; each holds with `confidence` by itself, that of the precision included.

    `images` are the units that people looked at, `complete` of them lack nothing, in `unsure` nobody could tell.
    """

    confidence: float
    precision: float
    images: int
    complete: int
    unsure: int
    overall: RecallBound
    classes: dict[int, RecallBound]
    finder: Finder
    looks: int = 1
    notes: tuple[str, ...] = field(default=())

    def sentence(self) -> str:
        """The bound in a line."""
        least = math.floor(self.overall.bound * 1000) / 1000  # never rounded up
        return f"recall ≥ {least:.3f} at {100 * self.confidence:g}%, {self.images} images looked through"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; classes by their ids."""
        out = asdict(self)
        out["classes"] = {str(k): v for k, v in out["classes"].items()}
        return out | {"sentence": self.sentence()}


def recall_bound(
    draws: Sequence[Draw],
    delivered: Mapping[int, int],
    precision: float,
    gold: Sequence[GoldPage],
    *,
    looks: Sequence[int] | None = None,
    confidence: float = CONFIDENCE,
    precision_error: float = 0.0,
    estimated_precision: float | None = None,
) -> Recall:
    """Lower bounds on the recall of a delivered data set, overall and for each class of it.

    Args:
        draws: the units people looked at, in the order of the draws.
        delivered: {class: masks} of the data set now.
        precision: lower bound on the share of correct masks, of all classes together.
        gold: pages with known missing objects.
        looks: numbers of draws after which a bound was or could have been read; by default once, after all. The error
            probability is shared among them, so that whoever asks for more images until the bound is pleasing still
            gets a true one, and the best of the looks counts.
        confidence: of each bound.
        precision_error: the error probability that the precision's bound has used up.
        estimated_precision: for the estimates; by default the bound.

    Raises InputError for values outside their ranges, without a draw and without a delivered mask.
    """
    _check(draws, delivered, precision, confidence, precision_error)
    alpha, looks = 1 - confidence - precision_error, list(looks or [len(draws)])
    shares = look_shares(len(looks))
    # Each look with the share of the error that is its own, for both bounds that it rests on.
    finders = [finder_of(gold, _FINDER_SHARE * alpha * share) for share in shares]
    finder = finders[0]
    guess = precision if estimated_precision is None else estimated_precision
    bounds: dict[int | None, RecallBound] = {}
    for class_id in (None, *sorted(delivered)):
        masks = _of(delivered, class_id)
        # All looks speak of the same number of objects, so the smallest bound on it holds.
        most = min(
            _objects_most(draws[:end], class_id, each.bound, (1 - _FINDER_SHARE) * alpha * share)
            for end, share, each in zip(looks, shares, finders, strict=True)
        )
        objects = max(_objects(draws, class_id, finder), 1e-9)
        clicked = sum(_of(d.clicked, class_id) for d in draws if d.clicked is not None)
        estimate, least = min(guess * masks / objects, 1.0), min(precision * masks / max(most, 1e-9), 1.0)
        bounds[class_id] = RecallBound(estimate, min(least, estimate), masks, clicked, objects, most)
    known = [d.clicked for d in draws if d.clicked is not None]
    return Recall(
        confidence, precision, len(draws), sum(not any(c.values()) for c in known), len(draws) - len(known),
        bounds[None], {c: b for c, b in bounds.items() if c is not None}, finder, len(looks), _notes(draws, finder),
    )  # fmt: skip


def look_shares(count: int) -> list[float]:
    """How the error probability is shared among looks, the first first; the sum stays below 1 for any number."""
    return [LOOK_SHARE if n == 0 else (1 - LOOK_SHARE) / 2**n for n in range(count)]


def finder_of(gold: Sequence[GoldPage], alpha: float) -> Finder:
    """The finders' sensitivity with its lower bound at error probability `alpha`; without gold the bound is 0.

    Objects of one page are found or missed together, so they count as fewer than they are: by the spread between
    pages that is seen (Rao and Scott 1992), and by no less than a correlation of 0.1.
    """
    from scipy.special import betaincinv

    pages = [page for page in gold if page.known]
    known, found = sum(p.known for p in pages), sum(p.found for p in pages)
    false = sum(p.false for p in gold) / len(gold) if gold else 0.0
    if not known:
        return Finder(1.0, 0.0, false, len(gold), 0)
    share, n = found / known, len(pages)
    size = sum(p.known**2 for p in pages) / known  # mean over objects
    effect = 1 + _ALIKE * (size - 1)
    if 0 < share < 1 and n > 1:
        spread = sum((p.found - share * p.known) ** 2 for p in pages) * n / (n - 1) / known**2
        effect = max(effect, spread / (share * (1 - share) / known))
    each = min(1.0, 1 / effect)
    hits, misses = found * each, (known - found) * each
    bound = float(betaincinv(hits, misses + 1, alpha)) if hits > 0 else 0.0
    return Finder(share, min(bound, share), false, len(gold), known)


def _objects_most(draws: Sequence[Draw], class_id: int | None, sensitivity: float, alpha: float) -> float:
    """The most true objects in the pool, at error probability `alpha`; infinite without a bound on the sensitivity."""
    if not draws or sensitivity <= 0:
        return math.inf
    found = [_missing(d, class_id, sensitivity) for d in draws]
    values, seen = [], 0.0
    for draw, missing in zip(draws, found, strict=True):
        values.append(seen + _of(draw.rest, class_id) + missing / draw.chance)
        seen += _of(draw.shown, class_id) + missing
    last = draws[-1]
    left = last.share * (1 - last.chance)  # of the weight, after the last draw
    rest = max(_of(last.rest, class_id) - _of(last.shown, class_id), 0)
    # What would be missing in the pool, were every unit as bad for its weight as the lightest can be.
    worst = max(d.most.get(class_id, 0.0) / d.least for d in draws)
    drawn = 1 - left
    # Without replacement the unseen part shrinks: as in the exact bound where nothing was found.
    shrink = 1.0 if drawn < 1e-9 else drawn / -math.log(left) if left > 1e-12 else 0.0
    highest = max(max(values), seen + rest + worst * shrink)
    return min(_gaffke(np.array(values), highest, alpha), seen + rest + worst * left)


def _gaffke(values: np.ndarray, highest: float, alpha: float) -> float:
    """Gaffke's upper bound on the mean of numbers that are at most `highest`, at error probability `alpha`.

    The weights are those of n + 1 spacings of uniform numbers, drawn with a seed of their own.
    """
    ordered = np.append(np.sort(values), highest)
    draws = max(min(_DRAWS, _NUMBERS // len(ordered)), 1000)
    weights = np.random.default_rng((_SEED, len(ordered))).standard_exponential((draws, len(ordered)))
    means = weights @ ordered / weights.sum(1)
    return float(np.quantile(means, 1 - alpha, method="higher"))


def _objects(draws: Sequence[Draw], class_id: int | None, finder: Finder) -> float:
    """An estimate of the true objects in the pool. Where nobody could tell nothing is taken to be missing."""
    total, masks, found = 0.0, 0, 0.0
    for draw in draws:
        clicked = 0 if draw.clicked is None else _of(draw.clicked, class_id)
        everything = 0 if draw.clicked is None else sum(draw.clicked.values())
        true = max(clicked - finder.false_clicks * (clicked / everything), 0.0) if everything else 0.0
        missing = true / max(finder.sensitivity, 1e-3)
        total += found + missing / draw.chance
        masks += _of(draw.shown, class_id)
        found += missing
    last = draws[-1]
    rest = _of(last.rest, class_id) - _of(last.shown, class_id)
    # What was seen is known; of what was not, its share of the estimate for all.
    return masks + rest + found + last.share * (1 - last.chance) * total / len(draws)


def _missing(draw: Draw, class_id: int | None, sensitivity: float) -> float:
    """The objects missing in a unit, as many as there may be where nobody could tell."""
    most = draw.most.get(class_id, 0.0)
    return most if draw.clicked is None else min(_of(draw.clicked, class_id) / sensitivity, most)


def _of(counts: Mapping[int, float] | None, class_id: int | None) -> Any:
    counts = counts or {}
    return sum(counts.values()) if class_id is None else counts.get(class_id, 0) + counts.get(ANY, 0)


def _notes(draws: Sequence[Draw], finder: Finder) -> tuple[str, ...]:
    notes = []
    if not finder.known:
        notes.append("no gold was answered: how many missing objects people click is not known, so nothing is promised")
    if any(d.clicked is None for d in draws):
        notes.append("an image of which nobody could tell counts with the most that may be missing in it")
    if any(_of(d.clicked, None) > d.most.get(None, 0.0) for d in draws):
        notes.append("more was missing in an image than held-out images lead to expect: the bound may be too high")
    return tuple(notes)


def _check(
    draws: Sequence[Draw], delivered: Mapping[int, int], precision: float, confidence: float, precision_error: float
) -> None:
    if not draws:
        raise InputError("recall", "at least one image that people looked through", "none")
    if not sum(delivered.values()):
        raise InputError("recall", "a data set with at least one mask", "none")
    if not 0 <= precision <= 1:
        raise InputError("precision", "a number from 0 to 1", precision)
    if not 0.5 < confidence < 1 or not 0 <= precision_error < 1 - confidence:
        raise InputError(
            "confidence", "above 0.5, and an error left beside the precision's", (confidence, precision_error)
        )
    for draw in draws:
        if not all(0 < value <= 1 for value in (draw.chance, draw.share, draw.least)):
            got = (draw.chance, draw.share, draw.least)
            raise InputError("draw", "a chance and shares above 0 and at most 1", got)
