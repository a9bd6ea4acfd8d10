"""From facts to one verdict per mask: the fold that every decision starts from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

from campaign.records.verdict import Verdict, majority
from campaign.store.models import Answer

# What a deleted annotation says of its masks.
WITHDRAWN = "withdrawn"


def standing_answers(facts: Iterable[Answer]) -> list[Answer]:
    """The facts that count today: of each annotation and mask the newest, unless it was withdrawn."""
    newest: dict[tuple[int, int], Answer] = {}
    for fact in facts:
        key = fact.annotation_id, fact.mask_id
        if key not in newest or (fact.answered_at, fact.id) >= (newest[key].answered_at, newest[key].id):
            newest[key] = fact
    return [fact for fact in newest.values() if fact.verdict != WITHDRAWN]


def verdicts(facts: Iterable[Answer], pages: Collection[str] | None = None) -> dict[int, Verdict]:
    """One verdict per mask from the standing answers, of some pages or all: the majority of its yes and no.

    A tie, or unsure answers alone, is unsure.
    """
    votes: dict[int, list[Verdict]] = defaultdict(list)
    for fact in standing_answers(facts):
        if pages is None or fact.page_key in pages:
            votes[fact.mask_id].append(Verdict[fact.verdict.upper()])
    return {mask: majority(given) for mask, given in votes.items()}
