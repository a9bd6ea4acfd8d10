"""A certificate for a data set: a lower confidence bound on its precision, from a fresh audit of its masks.

The audit is a stratified random sample of the exported masks, put to annotators as ordinary questions. Its bounds are
exact binomial ones and hold for any arrangement of correct and wrong masks, in every class and over all of them:

* Inside a class the masks are laid out cluster by cluster and cut into as many zones of equal length as masks are
  drawn, one from each. A sum of independent draws of unequal chances is less spread than the binomial of their mean
  (Hoeffding 1956, "On the distribution of the number of successes in independent trials"), so the Clopper-Pearson
  bound holds, and stratification makes it conservative rather than wrong.
* Over classes that were sampled at unequal rates, each wrong mask is kept with a chance in proportion to what it
  stands for, which makes the draws of equal weight again.
* A class of which a fifth or more is drawn gets a simple random sample instead, and where annotators are taken for
  infallible the hypergeometric bound, which is the closer the more of the class is drawn.

Annotators err. Their sensitivity and specificity are estimated on gold masks, and the part of the error probability
that goes to that estimate is split off the nominal one: nothing is assumed to be known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from campaign.records.verdict import Verdict
from ml_backend.errors import InputError

_GOLD_SHARE = 0.2  # of the error probability, to each of the two bounds on the annotators' quality
_SIMPLE_SHARE = 0.2  # of a class's masks, from which on the sample is a simple random one


@dataclass(frozen=True)
class AuditDraw:
    """One draw of the audit: row of the audited masks, its class, and the weight n·W_c / n_c it carries overall."""

    row: int
    class_id: int
    weight: float


@dataclass(frozen=True)
class Audit:
    """An audit sample. A mask may be drawn twice, by neighbouring zones: it is asked about once and counts twice."""

    draws: tuple[AuditDraw, ...]
    population: dict[int, int]  # masks of each class
    seed: int

    @property
    def rows(self) -> list[int]:
        """The rows to ask about, each once, in ascending order."""
        return sorted({draw.row for draw in self.draws})

    @property
    def drawn(self) -> dict[int, int]:
        """Number of draws in each class."""
        count = dict.fromkeys(self.population, 0)
        for draw in self.draws:
            count[draw.class_id] += 1
        return count


@dataclass(frozen=True)
class GoldCount:
    """Answers on gold: of `yes` correct masks `yes_right` were voted yes, of `no` wrong ones `no_right` were not."""

    yes: int = 0
    yes_right: int = 0
    no: int = 0
    no_right: int = 0

    def __post_init__(self) -> None:
        if not (0 <= self.yes_right <= self.yes and 0 <= self.no_right <= self.no):
            raise InputError("gold answers", "no more right ones than asked", self)


@dataclass(frozen=True)
class Bound:
    """What is certified of one class or of all.

    `precision` is the estimate, `lower_bound` the bound at the certificate's confidence, `audited` the draws with a
    certain answer, `yes` those voted yes, `masks` the audited masks in the data set.
    """

    precision: float
    lower_bound: float
    audited: int
    yes: int
    masks: int


@dataclass(frozen=True)
class Certificate:
    """Bounds on precision, per class and overall; each holds with `confidence` by itself.

    `sensitivity` and `specificity` are the pairs (estimate, bound used). `note` says what the bounds rest on.
    """

    confidence: float
    overall: Bound
    classes: dict[int, Bound]
    sensitivity: tuple[float, float]
    specificity: tuple[float, float]
    note: str = ""
    gold: GoldCount = field(default_factory=GoldCount)

    def sentence(self) -> str:
        """The certificate in a line, as the export carries it."""
        bound = self.overall
        least = np.floor(bound.lower_bound * 1000) / 1000  # never rounded up
        return f"precision ≥ {least:.3f} at {100 * self.confidence:g}%, {bound.audited} audited"

    def as_dict(self) -> dict:
        """The certificate for JSON."""
        out = asdict(self)
        out["classes"] = {str(k): v for k, v in out["classes"].items()}
        return out | {"sentence": self.sentence()}


def certificate_without(certificate: Mapping[str, Any], removed: int) -> dict[str, Any]:
    """A certificate, as `Certificate.as_dict` gives it, of its masks without `removed` ones that nobody found wrong.

    All of these are taken for correct, so that the share of correct ones among the others is the least that it can be.
    What was said of classes is left out: which of them the masks were of is not looked at.
    """
    overall = dict(certificate["overall"])
    masks = max(0, overall["masks"] - removed)
    wrong = {name: (1 - overall[name]) * overall["masks"] for name in ("precision", "lower_bound")}
    overall |= {name: max(0.0, 1 - value / masks) if masks else 0.0 for name, value in wrong.items()}
    overall["masks"] = masks
    least = np.floor(overall["lower_bound"] * 1000) / 1000
    sentence = (
        f"precision ≥ {least:.3f} at {100 * certificate['confidence']:g}%, {overall['audited']} audited, "
        f"{removed} masks removed since"
    )
    return {**certificate, "overall": overall, "classes": {}, "removed": removed, "sentence": sentence}


def audit_sample(class_id: np.ndarray, cluster: np.ndarray, draws: int, *, per_class: int = 0, seed: int = 0) -> Audit:
    """Draws an audit of n exported masks, stratified by class and cluster.

    `class_id` and `cluster` (n,) say where each mask belongs; `draws` masks are drawn in proportion to the classes'
    sizes, and at least `per_class` (or all) of every class, on top. The same seed draws the same audit. Raises
    InputError when there is nothing to audit.
    """
    class_id, cluster = np.asarray(class_id), np.asarray(cluster)
    if class_id.shape != cluster.shape or class_id.ndim != 1:
        raise InputError("class_id and cluster", "one value for each mask", (class_id.shape, cluster.shape))
    if len(class_id) == 0:
        raise InputError("audit", "at least one exported mask", 0)
    if draws < 1 or per_class < 0:
        raise InputError("audit", "at least one draw", (draws, per_class))
    classes, sizes = np.unique(class_id, return_counts=True)
    quota = _proportional(sizes, min(draws, len(class_id)))
    quota = np.minimum(np.maximum(quota, max(per_class, 1)), sizes)
    total, out = int(quota.sum()), []
    for index, (label, size, count) in enumerate(zip(classes.tolist(), sizes.tolist(), quota.tolist(), strict=True)):
        rng = np.random.default_rng((seed, index))
        rows = np.flatnonzero(class_id == label)
        rows = rows[np.lexsort((rng.random(len(rows)), cluster[rows]))]  # by cluster, at random inside
        if count >= _SIMPLE_SHARE * size:
            spots = rng.choice(size, count, replace=False)
        else:  # zone i spans [i, i+1) · size / count of the laid out masks, also through the middle of one
            spots = ((np.arange(count) + rng.random(count)) * size / count).astype(int)
        weight = (size / len(class_id)) * total / count
        out += [AuditDraw(int(rows[min(spot, size - 1)]), int(label), weight) for spot in spots.tolist()]
    return Audit(tuple(out), dict(zip(classes.tolist(), sizes.tolist(), strict=True)), seed)


def certify(
    audit: Audit,
    answers: Mapping[int, Verdict | int],
    gold: GoldCount | None = None,
    confidence: float = 0.95,
) -> Certificate:
    """The certificate of an audit whose questions were answered: row → verdict.

    An unsure answer counts as a no. Without gold the annotators are taken to pass no wrong mask, and `note` says so.
    Raises InputError for a confidence outside 0.5 to 1 or while a question of the audit has no answer.
    """
    if not 0.5 < confidence < 1:
        raise InputError("confidence", "a number above 0.5 and below 1", confidence)
    missing = [row for row in audit.rows if row not in answers]
    if missing:
        raise InputError("audit", f"an answer to each of {len(audit.rows)} questions", f"{len(missing)} unanswered")
    gold = gold or GoldCount()
    annotators = _Annotators(gold, 1 - confidence)
    wrong = np.array([answers[draw.row] != Verdict.YES for draw in audit.draws])
    label = np.array([draw.class_id for draw in audit.draws])
    classes = {}
    for class_id, size in audit.population.items():
        of_class = wrong[label == class_id]
        count, n = int(of_class.sum()), len(of_class)
        if annotators.fallible or n < _SIMPLE_SHARE * size:
            most = _binomial_upper(count, n, annotators.alpha)
        else:
            most = _hypergeometric_upper(count, n, size, annotators.alpha) / size
        classes[class_id] = annotators.bound(count / n, most, n, n - count, size)
    overall = next(iter(classes.values())) if len(classes) == 1 else _overall(audit, wrong, annotators)
    note = "" if gold.no else "no gold: taken for granted that annotators pass no wrong mask"
    return Certificate(confidence, overall, classes, annotators.sensitivity, annotators.specificity, note, gold)


def _overall(audit: Audit, wrong: np.ndarray, annotators: _Annotators) -> Bound:
    weight = np.array([draw.weight for draw in audit.draws])
    n, masks, most = len(weight), sum(audit.population.values()), float(weight.max())
    kept = wrong & (np.random.default_rng((audit.seed, 1_000_003)).random(n) * most < weight)
    share = min(1.0, most * _binomial_upper(int(kept.sum()), n, annotators.alpha))
    if n == masks and not annotators.fallible:
        share = float(wrong.mean())
    return annotators.bound(float((wrong * weight).mean()), share, n, int((~wrong).sum()), masks)


class _Annotators:
    """How far answers can be trusted: estimates and bounds of sensitivity and specificity."""

    def __init__(self, gold: GoldCount, alpha: float):
        spent = _GOLD_SHARE * alpha
        self.fallible = bool(gold.yes or gold.no)
        self.alpha = alpha - spent * ((gold.yes > 0) + (gold.no > 0))
        # an upper bound on sensitivity and a lower one on specificity are the cautious ones, see `_correct`
        self.sensitivity = (
            gold.yes_right / gold.yes if gold.yes else 1.0,
            _binomial_upper(gold.yes_right, gold.yes, spent) if gold.yes else 1.0,
        )
        self.specificity = (
            gold.no_right / gold.no if gold.no else 1.0,
            1 - _binomial_upper(gold.no - gold.no_right, gold.no, spent) if gold.no else 1.0,
        )

    def bound(self, wrong: float, most: float, audited: int, yes: int, masks: int) -> Bound:
        """The bound from the share of answers "no", as seen and at most."""
        estimate = _correct(1 - wrong, self.sensitivity[0], self.specificity[0])
        least = _correct(1 - most, self.sensitivity[1], self.specificity[1])
        return Bound(estimate, min(least, estimate), audited, yes, masks)


def _correct(yes: float, sensitivity: float, specificity: float) -> float:
    """Precision p from the share of yes = p · sensitivity + (1 − p)(1 − specificity).

    p falls with the sensitivity and rises with the specificity.
    """
    reach = sensitivity + specificity - 1
    return float(np.clip((yes - (1 - specificity)) / reach, 0, 1)) if reach > 0 else 0.0


def _binomial_upper(count: int, n: int, alpha: float) -> float:
    """Clopper-Pearson upper bound at error probability `alpha`."""
    from scipy.special import betaincinv

    return 1.0 if count >= n else float(betaincinv(count + 1, n - count, 1 - alpha))


def _hypergeometric_upper(count: int, n: int, size: int, alpha: float) -> int:
    """The most wrong masks of `size` with which `count` or fewer among n drawn ones has a chance above `alpha`."""
    from scipy.stats import hypergeom

    low, high = count, size - (n - count)  # P(X <= count) falls with the number of wrong masks
    while low < high:
        middle = (low + high + 1) // 2
        if hypergeom.cdf(count, size, middle, n) > alpha:
            low = middle
        else:
            high = middle - 1
    return low


def _proportional(sizes: np.ndarray, draws: int) -> np.ndarray:
    """Whole numbers in proportion to the sizes, by largest remainder."""
    exact = sizes * (draws / sizes.sum())
    quota = np.floor(exact).astype(int)
    quota[np.argsort(-(exact - quota), kind="stable")[: draws - quota.sum()]] += 1
    return quota
