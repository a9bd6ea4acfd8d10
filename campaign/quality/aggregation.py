"""One verdict per mask out of several annotators' answers: by majority, or by Dawid and Skene's model.

Dawid and Skene (1979) estimate every annotator's error rates and every mask's verdict together, so that careful
annotators count for more; it pays from some three answers per mask on. It needs the package crowd-kit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass

from campaign.records.verdict import Verdict
from ml_backend.errors import InputError


@dataclass(frozen=True)
class Opinion:
    """One annotator's answer on one mask."""

    mask: Hashable
    annotator: Hashable
    verdict: Verdict


@dataclass(frozen=True)
class Aggregate:
    """Verdicts by mask, the probability of "yes" behind each, and each annotator's (sensitivity, specificity).

    Rates are None for an annotator none of whose answers can be judged.
    """

    verdicts: dict[Hashable, Verdict]
    probability: dict[Hashable, float]
    annotators: dict[Hashable, tuple[float | None, float | None]]


def aggregate(opinions: Iterable[Opinion], method: str = "majority", certainty: float = 0.5) -> Aggregate:
    """The verdicts of all masks with an opinion. `method` is one of `METHODS`.

    A mask is unsure where no annotator said yes or no, and where the probability lies no further than `certainty` from
    even: a tie at the default of 0.5. Raises InputError for an unknown method, or where crowd-kit is missing.
    """
    if method not in METHODS:
        raise InputError("aggregation", "one of " + ", ".join(METHODS), method)
    if not 0.5 <= certainty < 1:
        raise InputError("certainty", "a probability from 0.5 to below 1", certainty)
    opinions = list(opinions)
    certain = [o for o in opinions if o.verdict != Verdict.UNSURE]
    probability = METHODS[method](certain) if certain else {}
    verdicts = {}
    for mask in dict.fromkeys(o.mask for o in opinions):
        p = probability.get(mask, 0.5)
        verdicts[mask] = Verdict.YES if p > certainty else Verdict.NO if p < 1 - certainty else Verdict.UNSURE
    return Aggregate(verdicts, probability, _rates(certain, probability))


def share_of_yes(opinions: Iterable[Opinion]) -> dict[Hashable, float]:
    """{mask: share of yes among its opinions}; opinions are yes or no."""
    votes: dict[Hashable, list[int]] = defaultdict(list)
    for o in opinions:
        votes[o.mask].append(int(o.verdict == Verdict.YES))
    return {mask: sum(own) / len(own) for mask, own in votes.items()}


def dawid_skene(opinions: Iterable[Opinion], iterations: int = 100) -> dict[Hashable, float]:
    """Probability of yes of each mask under Dawid and Skene's model. Raises InputError where crowd-kit is missing."""
    try:
        from crowdkit.aggregation import DawidSkene
        from pandas import DataFrame
    except ImportError:
        raise InputError("aggregation", "the package crowd-kit for dawid-skene", "it is not installed") from None
    # sorted, so that the order of facts changes nothing
    rows = sorted((repr(o.mask), repr(o.annotator), int(o.verdict)) for o in opinions)
    names = {repr(o.mask): o.mask for o in opinions}
    answers = DataFrame(rows, columns=["task", "worker", "label"])
    probabilities = DawidSkene(n_iter=iterations).fit_predict_proba(answers)
    yes = int(Verdict.YES)
    return {names[task]: float(row.get(yes, 0.0)) for task, row in probabilities.iterrows()}


def _rates(
    opinions: list[Opinion], probability: Mapping[Hashable, float]
) -> dict[Hashable, tuple[float | None, float | None]]:
    """Sensitivity and specificity of each annotator against the aggregated probabilities."""
    right: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0, 0.0])
    for o in opinions:
        p, sums = probability[o.mask], right[o.annotator]
        sums[0] += p
        sums[1] += 1 - p
        sums[2] += p * (o.verdict == Verdict.YES)
        sums[3] += (1 - p) * (o.verdict == Verdict.NO)
    return {who: (s[2] / s[0] if s[0] else None, s[3] / s[1] if s[1] else None) for who, s in right.items()}


METHODS = {"majority": share_of_yes, "dawid-skene": dawid_skene}
