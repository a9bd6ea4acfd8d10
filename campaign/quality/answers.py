"""From facts to one verdict per mask: where every decision starts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Protocol, TypeVar

from campaign.records.verdict import Verdict, majority

# What a deleted annotation says of its masks.
WITHDRAWN = "withdrawn"


class AnswerFact(Protocol):
    """What an annotation said of a mask when it was read, as far as it is needed here."""

    @property
    def id(self) -> int:
        """Its number in the store: a later fact has a higher one."""

    @property
    def annotation_id(self) -> int:
        """The annotation in Label Studio."""

    @property
    def mask_id(self) -> int:
        """The mask that was asked about."""

    @property
    def verdict(self) -> str:
        """The word of a verdict, or `WITHDRAWN`."""

    @property
    def answered_at(self) -> str:
        """Label Studio's time of the annotation's newest change; it orders as text."""


F = TypeVar("F", bound=AnswerFact)


def standing_answers(facts: Iterable[F]) -> list[F]:
    """The facts that stand today: of each annotation and mask the newest, unless it was withdrawn."""
    newest: dict[tuple[int, int], F] = {}
    for fact in facts:
        key = fact.annotation_id, fact.mask_id
        if key not in newest or (fact.answered_at, fact.id) >= (newest[key].answered_at, newest[key].id):
            newest[key] = fact
    return [fact for fact in newest.values() if fact.verdict != WITHDRAWN]


def verdicts(facts: Iterable[AnswerFact]) -> dict[int, Verdict]:
    """{mask id: verdict} from the answers that stand: the majority of its yes and no.

    A tie, or unsure answers alone, is unsure.
    """
    votes: dict[int, list[Verdict]] = defaultdict(list)
    for fact in standing_answers(facts):
        votes[fact.mask_id].append(Verdict.parse(fact.verdict))
    return {mask: majority(own) for mask, own in votes.items()}
