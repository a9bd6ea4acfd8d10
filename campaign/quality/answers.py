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
    def page_key(self) -> str:
        """The page that asked."""

    @property
    def annotation_id(self) -> int:
        """The annotation in Label Studio."""

    @property
    def annotator(self) -> str:
        """The user whose annotation it is."""

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


def standing_annotations(facts: Iterable[F]) -> list[F]:
    """The facts that stand today by annotation: of each annotation and mask the newest, unless it was withdrawn."""
    newest: dict[tuple[int, int], F] = {}
    for fact in facts:
        key = fact.annotation_id, fact.mask_id
        if key not in newest or (fact.answered_at, fact.id) >= (newest[key].answered_at, newest[key].id):
            newest[key] = fact
    return [fact for fact in newest.values() if fact.verdict != WITHDRAWN]


def standing_answers(facts: Iterable[F]) -> list[F]:
    """The facts that stand today: of each user, page and mask the newest; who answers a page twice is heard once."""
    last: dict[tuple[str, str, int], F] = {}
    for fact in standing_annotations(facts):
        key = fact.annotator, fact.page_key, fact.mask_id
        if key not in last or _when(fact) >= _when(last[key]):
            last[key] = fact
    return list(last.values())


def _when(fact: AnswerFact) -> tuple[str, int, int]:
    return fact.answered_at, fact.annotation_id, fact.id


def verdicts(facts: Iterable[AnswerFact]) -> dict[int, Verdict]:
    """{mask id: verdict} from the answers that stand: the majority of its yes and no, one vote for each user.

    Of a user who was asked about a mask on several pages the newest answer counts. A tie, or unsure answers alone, is
    unsure.
    """
    last: dict[tuple[str, int], AnswerFact] = {}
    for fact in standing_answers(facts):
        key = fact.annotator, fact.mask_id
        if key not in last or _when(fact) >= _when(last[key]):
            last[key] = fact
    votes: dict[int, list[Verdict]] = defaultdict(list)
    for fact in last.values():
        votes[fact.mask_id].append(Verdict.parse(fact.verdict))
    return {mask: majority(own) for mask, own in votes.items()}
