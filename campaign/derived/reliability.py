"""How reliable the answers of a campaign are, by the gold among its questions: for the policy and for certificates."""

from __future__ import annotations

from collections.abc import Iterable

from campaign.dataset.certification import GoldCount
from campaign.derived.trust import gold_answers, withdrawals
from campaign.quality.measures import GoldAnswer
from campaign.records.verdict import Verdict
from campaign.search.policies import AnnotatorQuality
from campaign.store import Store

BELIEVED, WEIGHT = 0.99, 30  # sensitivity and specificity before any gold, and how many gold answers that is worth
STEP = 0.01  # estimates are rounded, so that one answer more does not turn a whole search over
LEAST = 0.51


def gold_count(store: Store) -> GoldCount:
    """Answers on the gold of all verification pages, by users while they were trusted. Unsure is not yes."""
    return _count(_trusted(store))


def annotator_quality(store: Store, round_number: int) -> AnnotatorQuality:
    """Sensitivity and specificity that a round's decisions reckon with, unsure answers left aside.

    Gold of later rounds does not count: what was decided of a round stays decided when the next is under way.
    """
    gold = _count(a for a in _trusted(store, round_number) if a.verdict != Verdict.UNSURE)
    return AnnotatorQuality(_share(gold.yes_right, gold.yes), _share(gold.no_right, gold.no))


def _trusted(store: Store, up_to_round: int | None = None) -> list[GoldAnswer]:
    rounds = {page.key: page.round for page in store.pages.rows()}
    found = withdrawals(store)
    return [
        answer
        for user, answers in gold_answers(store, "verify", by_page=True).items()
        for key, answer in answers
        if up_to_round is None or rounds[key] <= up_to_round
        if not any(t.holds(answer.at) for t in found.get(user, []))
    ]


def _count(answers: Iterable[GoldAnswer]) -> GoldCount:
    told = [(a.truth, a.verdict) for a in answers]
    correct = [verdict for truth, verdict in told if truth == Verdict.YES]
    wrong = [verdict for truth, verdict in told if truth == Verdict.NO]
    return GoldCount(
        yes=len(correct),
        yes_right=sum(v == Verdict.YES for v in correct),
        no=len(wrong),
        no_right=sum(v != Verdict.YES for v in wrong),
    )


def _share(right: int, asked: int) -> float:
    share = (right + BELIEVED * WEIGHT) / (asked + WEIGHT)
    return min(max(round(share / STEP) * STEP, LEAST), 1.0)
