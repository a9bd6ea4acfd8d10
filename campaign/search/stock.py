"""How many pages lie ready under the policy of a target, and how far questions are asked ahead of what is known.

Who finds no page waits for the next turn, so pages lie ready for everybody at work, but no more than that: questions
that are chosen later are chosen by more answers. What is learned comes in steps, though, for the verifier is fitted
anew at milestones: within a step, asking ahead costs next to nothing.
"""

from __future__ import annotations

from campaign.search.selection import first_questions
from campaign.search.verifier import next_milestone

LEAST_PAGES, PAGES_EACH = 4, 2  # that lie ready: at all, and for each annotator at work
AHEAD_SHARE = 0.25  # of the price of a question, that one asked ahead is expected to bring at least


def pages_wanted(people: int, asked: int | None, candidates: int, page_size: int) -> int:
    """How many pages should lie ready for so many `people` at work, where so many masks were `asked` about.

    The first questions are asked whatever they bring, and nothing is learned before they are answered: they lie ready
    all at once beside the usual ones, for people who have not answered yet and are not known. `asked` is None once that
    is over.
    """
    first = 0 if asked is None else max(0, (first_questions(candidates) - asked) // page_size)
    return max(LEAST_PAGES, PAGES_EACH * people) + first


def pages_ahead(known: int, pages: int, page_size: int) -> int:
    """How many pages may be asked ahead beside so many open `pages`, where so many answers are `known`.

    No more than are answered before the verifier is fitted anew after the fit that the open pages lead to: what that
    fit wants is known then without waiting for them.

    >>> pages_ahead(140, 0, 15), pages_ahead(310, 4, 15), pages_ahead(310, 5, 15), pages_ahead(310, 30, 15)
    (0, 0, 5, 10)
    """
    soon = known + pages * page_size
    return (next_milestone(soon) - 1 - soon) // page_size
