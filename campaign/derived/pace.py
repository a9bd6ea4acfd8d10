"""How long answers took: every page as each user answered it, from the facts."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime

from campaign.quality.answers import standing_answers
from campaign.quality.measures import Pace, PageAnswer, pace, page_order
from campaign.records.page import PageKind
from campaign.records.verdict import Verdict
from campaign.store import Store
from campaign.store.answers import Fact


def campaign_pace(store: Store) -> Pace:
    """The time of all answers so far, gold among them."""
    return pace(page for pages in page_answers(store).values() for page in pages)


def page_answers(store: Store) -> dict[str, list[PageAnswer]]:
    """Every page as each user answered it, in order of time; qualification tests left out."""
    masks: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    wrong: dict[str, set[int]] = defaultdict(set)
    for question, page in store.questions.rows(gold=True):
        if page.kind != PageKind.QUALIFY:
            masks[page.key].append((question.mask_id, question.gold is not None))
            if question.gold == Verdict.NO.word:
                wrong[page.key].add(question.mask_id)
    given: dict[tuple[str, int], dict[int, Fact]] = defaultdict(dict)
    for a in standing_answers(store.answers.rows(masks)):
        given[a.page_key, a.annotation_id][a.mask_id] = a
    pages: dict[str, list[PageAnswer]] = defaultdict(list)
    for (key, _), answers in given.items():
        first = next(iter(answers.values()))
        shown = [mask for mask in page_order(key, masks[key]) if mask in answers]
        pages[first.annotator].append(
            PageAnswer(
                user=first.annotator,
                key=key,
                verdicts=tuple(Verdict.parse(answers[mask].verdict) for mask in shown),
                seconds=first.lead_time,
                at=_seconds(first.answered_at),
                wrong_gold=sum(mask in wrong[key] for mask in shown),
            )
        )
    return {user: sorted(of_user, key=lambda p: (p.at or 0.0, p.key)) for user, of_user in pages.items()}


def _seconds(at: str) -> float | None:
    try:
        return datetime.fromisoformat(at.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return None
