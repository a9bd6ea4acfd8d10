"""What pages show: their masks in the order in which they lie there, and what Label Studio calls them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from campaign.quality.measures import page_order
from campaign.records.page import ShownPage
from campaign.store import Store
from campaign.store import models as m
from campaign.store.pages import Asked


def shown_order(asked: Iterable[Asked]) -> list[Asked]:
    """The questions of one page in the order in which they are shown: by their names, which are drawn by chance.

    Pages of before have no names; on them neighbours stay together.
    """
    rows = list(asked)
    if all(a.name for a in rows):
        return sorted(rows, key=lambda a: str(a.name))
    order = page_order(rows[0].page_key, ((a.mask_id, a.gold is not None) for a in rows))
    of_mask = {a.mask_id: a for a in rows}
    return [of_mask[mask] for mask in order]


def task_name(page: m.Page) -> str:
    """What a page is called in Label Studio."""
    return page.name or page.key


def shown_pages(store: Store, tasks: Collection[int]) -> Mapping[int, ShownPage]:
    """{task: the page it was published as, with its masks by what they are called there}; other tasks are left out."""
    pages = store.pages.of_tasks(tasks)
    names: dict[str, dict[str, int]] = defaultdict(dict)
    for a in store.questions.on_pages({page.key for page in pages.values()}):
        names[a.page_key][a.name or str(a.mask_id)] = a.mask_id
    return {task: ShownPage(page.key, names[page.key]) for task, page in pages.items()}
