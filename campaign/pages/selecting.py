"""What is asked next under the policy of a target: the masks that bring most; then those that the promise draws.

Pages lie ready for everybody who works, and no more than that: questions that are chosen later are chosen by more
answers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from campaign.certification.stopping import LEARNING_SHARE
from campaign.derived.answered import answered
from campaign.derived.pace import work
from campaign.derived.promises import newest_attempt, standing
from campaign.derived.selection import round_selection
from campaign.derived.spending import questions_asked, round_budget
from campaign.pages.gold import GoldPlan
from campaign.pages.promises import draw_pages
from campaign.pages.sheets import sheet
from campaign.records.page import NewPage
from campaign.search.selection import NONE, place_in_group
from campaign.search.stock import pages_ahead, pages_wanted
from campaign.search.verifier import milestone
from campaign.store import Store

AT_WORK = 600.0  # seconds before the newest answer in which somebody answered who is at work


def plan_for_target(store: Store, round_number: int) -> Iterator[NewPage]:
    """New pages of a round, as many as should lie ready. What they hold follows from the facts alone."""
    people, lying, size = at_work(store), open_pages(store), store.settings.page.page_size
    attempt = newest_attempt(store)
    if attempt is not None:
        need = pages_wanted(people, None, 0, size) - lying
        if need > 0 and attempt.round_number == round_number:
            yield from draw_pages(store, need)
        return
    chosen = round_selection(store, round_number)
    need = pages_wanted(people, int(chosen.asked.sum()), len(chosen.selection.candidates), size) - lying
    if need > 0:
        yield from _question_pages(store, round_number, need, people)


def at_work(store: Store) -> int:
    """How many annotators answered within ten minutes of the newest answer.

    Until so many pages are answered, all that the setting `page.annotators` expects.
    """
    table, expected = work(store).work, store.settings.page.annotators
    times = table["time"]
    known = ~np.isnan(times)
    seen = len(np.unique(table["user"][known & (times >= times[known].max() - AT_WORK)])) if known.any() else 0
    return max(seen, expected) if len(table) < expected else seen


def open_pages(store: Store) -> int:
    """How many pages hold questions without a verdict."""
    rows = answered(store).rows
    return len(np.unique(rows["page"][rows["verdict"] == NONE]))


def wanted(store: Store, round_number: int, ahead: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(rows, gains) of the round's masks that are worth a question and can be afforded, the best first.

    With up to `ahead` of those that bring less after them.
    """
    rows, gain = round_selection(store, round_number).wanted(store.settings.search.price, ahead)
    left = round_budget(store, round_number)
    if left is None:
        return rows, gain
    if round_number >= store.settings.rounds.rounds:
        of_round = left + questions_asked(store, round_number)
        left = max(0, left - (of_round - int(LEARNING_SHARE * of_round)))
    return rows[:left], gain[:left]


def _question_pages(store: Store, round_number: int, need: int, people: int) -> Iterator[NewPage]:
    """Full pages, those that bring most first; part-filled ones only where somebody would find none.

    What is worth a question may not fill them, at the end of a step of learning: then they are filled with the masks
    that come next, but for the end of a round.
    """
    rows, gain = wanted(store, round_number)
    lying, size = open_pages(store), store.settings.page.page_size
    short = need - len(rows) // size
    if short > 0 and (len(rows) or is_fit_awaited(store, round_number)):
        more = pages_ahead(known_answers(store, round_number), lying + need - short, size)
        rows, gain = wanted(store, round_number, min(short, more) * size)
    if not len(rows):
        return
    chosen, gold = round_selection(store, round_number), GoldPlan(store)
    within = place_in_group(chosen.columns.class_id[rows]) < need * size  # no class fills more pages than these
    rows, gain = rows[within], gain[within]
    queue: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for class_id, mask, worth in zip(
        chosen.columns.class_id[rows].tolist(), chosen.columns.mask_id[rows].tolist(), gain.tolist(), strict=True
    ):
        queue[class_id].append((worth, mask))
    for made in range(need):
        ranked = sorted(queue, key=lambda c: (-sum(worth for worth, _ in queue[c][:size]), c))
        full = next((c for c in ranked if len(queue[c]) >= size - gold.quota(size, c)), None)
        if full is None and (not ranked or lying + made >= max(1, people)):
            return
        class_id = ranked[0] if full is None else full
        own = queue[class_id]
        hidden = gold.take(class_id, min(gold.quota(size, class_id), len(own)))
        places = max(1, size - len(hidden))
        yield from sheet(store, (round_number, class_id), [(mask, None) for _, mask in own[:places]], hidden)
        queue[class_id] = own[places:]
        if not queue[class_id]:
            del queue[class_id]


def known_answers(store: Store, round_number: int) -> int:
    """How many masks of a round have a verdict by its own pages."""
    return int((round_selection(store, round_number).verdict != NONE).sum())


def is_fit_awaited(store: Store, round_number: int) -> bool:
    """Whether the open pages of the last round will have the verifier fitted anew, which may well want more."""
    if round_number < store.settings.rounds.rounds:
        return False
    known = known_answers(store, round_number)
    return milestone(known + open_pages(store) * store.settings.page.page_size) != milestone(known)


def nothing_more(store: Store, round_number: int) -> bool:
    """Whether no mask of the round is worth a question any more, or none can be afforded."""
    return not len(wanted(store, round_number)[0])


def is_over(store: Store, round_number: int) -> bool:
    """Whether a round has come to its end: its promise is not worth going on with, or nothing is asked or open."""
    attempt = newest_attempt(store)
    if attempt is not None and attempt.round_number == round_number:
        now = standing(store)
        return now is not None and now.stop is not None
    return nothing_more(store, round_number) and not open_pages(store)
