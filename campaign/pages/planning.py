"""What is asked next: new pages of a round, best clusters first, with gold among the questions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from campaign.derived.live import LiveViews, live
from campaign.derived.searches import ClassView
from campaign.derived.spending import round_budget
from campaign.pages.gold import GoldPlan
from campaign.pages.selecting import is_over, plan_for_target
from campaign.pages.sheets import screen_of, sheet
from campaign.records.page import NewPage, Screen
from campaign.search.ahead import ahead, places_ahead
from campaign.store import Store

# Under a budget so many questions are open at a time: pages, or a share of what is left where that is more.
OPEN_PAGES = 4
OPEN_SHARE = 8


def plan_pages(store: Store, round_number: int) -> Iterator[NewPage]:
    """New pages of a round, by class. What they hold follows from the facts alone.

    A page holds questions of one class, of one or several clusters, and gold among them. A page that is not full is
    only made where nothing of the class was open before, so that policies that stop early never show half-empty pages
    for nothing. Its key follows from its questions, whatever gold is among them.
    """
    if store.settings.search.policy == "target":
        yield from plan_for_target(store, round_number)
        return
    left, views = round_budget(store, round_number), live(store)
    figures = views.summaries(round_number)
    ready = ready_views(views, round_number, figures, store.settings.page.page_size, every=left is not None)
    open_ = sum(f["open"] for f in figures.values())
    wishes = chosen_wishes(ready, left, store.settings.page.page_size, open_)
    gold = GoldPlan(store) if any(wishes.values()) else None
    if gold is not None and left is None and store.settings.search.ask_ahead:
        ask_ahead(store, ready, wishes, gold, open_, least=len(figures))
    for view in ready:
        if gold is not None and wishes[view.class_id]:
            yield from _class_pages(store, view, wishes[view.class_id], gold)


def ready_views(
    views: LiveViews, round_number: int, figures: Mapping[int, Mapping[str, Any]], page_size: int, every: bool
) -> list[ClassView]:
    """The views of the classes that could fill a page, or, with `every`, of all that want something asked.

    A class with other open questions waits until it fills at least the half of a page that is never gold.
    """
    ready = (c for c, f in figures.items() if f["wished"] and (every or not f["open"] or 2 * f["wished"] >= page_size))
    return [view for c in ready if (view := views.view(round_number, c)) is not None]


def chosen_wishes(
    views: Sequence[ClassView], left: int | None, page_size: int, open_: int = 0
) -> dict[int, list[tuple[int, int]]]:
    """{class: [(mask id, cluster), ...]} of what is to be asked now, best cluster first.

    With so many questions `left` not all clusters are opened at once: the budget would be spent before any of them is
    decided; `open_` are open already. A cluster that cannot be afforded is passed over.
    """
    chosen: dict[int, list[tuple[int, int]]] = {view.class_id: [] for view in views}
    ranked = sorted(
        (-view.search.cases[ask.cluster].priority, n, ask.cluster, ask.leaves)
        for n, view in enumerate(views)
        for ask in view.search.wishes()
    )
    limit = None if left is None else max(OPEN_PAGES * page_size, left // OPEN_SHARE)
    for _, n, cluster, leaves in ranked:
        if left is not None and limit is not None:
            if open_ >= limit:
                break
            if len(leaves) > left:
                continue
            left -= len(leaves)
            open_ += len(leaves)
        chosen[views[n].class_id] += [(views[n].mask(leaf), cluster) for leaf in leaves]
    return chosen


def ask_ahead(
    store: Store, views: Sequence[ClassView], wishes: dict[int, list[tuple[int, int]]], gold: GoldPlan, open_: int,
    least: int,
) -> None:  # fmt: skip
    """Fills the places that part-filled pages leave free with what their searches will likely want next.

    Where fewer than `least` pages are open, whole pages more: at its end a search wants a few answers at a time, and
    every time annotators wait for it. What is asked ahead changes no decision.
    """
    size = store.settings.page.page_size
    free: dict[int, int] = {}
    pages = open_ // size
    for view in views:
        wished = len(wishes[view.class_id])
        places = max(1, size - gold.quota(size, view.class_id))
        pages += wished // places
        is_open = view.search.outstanding > 0
        if wished % places and not is_open and screen_of(store, view.class_id) == Screen.VERIFICATION:
            free[view.class_id] = places - wished % places
            pages += 1
    searches = {view.class_id: view for view in views}
    for class_id, count in places_ahead(free, pages, least, size).items():
        view = searches[class_id]
        wishes[class_id] += [(view.mask(leaf), cluster) for cluster, leaf in ahead(view.search, count)]


def _class_pages(store: Store, view: ClassView, wishes: list[tuple[int, int]], gold: GoldPlan) -> Iterator[NewPage]:
    """The pages of one class."""
    size, screen = store.settings.page.page_size, screen_of(store, view.class_id)
    is_open = view.search.outstanding > 0
    while wishes:
        quota = gold.quota(size, view.class_id)
        if screen == Screen.VERIFICATION and len(wishes) < size - quota and is_open:
            return
        hidden = gold.take(view.class_id, min(quota, len(wishes)))
        questions, wishes = wishes[: size - len(hidden)], wishes[size - len(hidden) :]
        yield from sheet(store, (view.round_number, view.class_id), questions, hidden)


def is_done(store: Store, round_number: int) -> bool:
    """Whether a round's search has come to its end: nothing is open, and nothing more is asked or can be afforded.

    To be called after the planned pages were stored and taken in.
    """
    if store.settings.search.policy == "target":
        return is_over(store, round_number)
    figures: dict[int, dict] = defaultdict(dict, live(store).summaries(round_number))
    if any(f["open"] for f in figures.values()):
        return False
    return round_budget(store, round_number) is not None or not any(f["wished"] for f in figures.values())
