"""Stored pages put into Label Studio, neither doubled nor lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

from campaign.derived.showing import shown_order, task_name
from campaign.label_studio.client import Client
from campaign.label_studio.verification import Page, page_tasks, publish_tasks, read_keys
from campaign.pages.instructions import class_rules
from campaign.pages.projects import QUESTIONS, ensure_project
from campaign.records.page import PageKind
from campaign.store import Store
from campaign.store import models as m
from campaign.store.pages import Asked
from campaign.store.values import cursor_name
from label_config import Crop, language
from ml_backend.server.signing import crop_url, sheet_url

MOST_AHEAD = 12
Bodies = dict[str, dict[str, Any]]


def publish_missing(store: Store, client: Client) -> list[str]:
    """Publishes the stored pages of questions that Label Studio does not hold yet; returns their keys."""
    rows = [p for p in store.pages.rows(published=False) if p.kind != PageKind.QUALIFY]
    for screen in QUESTIONS:
        pages = [page for page in rows if page.screen == screen]
        if pages:
            # Pages newer than the last one noted may be there already, if a turn was killed before it noted them.
            after, project = store.pages.newest_task(screen), ensure_project(store, client, screen)
            put(store, client, project, pages, partial(question_tasks, store), after, cursor_name(screen))
    return [page.key for page in rows if page.screen in QUESTIONS]


def pages_ahead(store: Store) -> int:
    """How many pages after one are made ready: where several people answer side by side, others take the next ones."""
    page = store.settings.page
    return min(page.pages_ahead + page.annotators - 1, MOST_AHEAD) if page.pages_ahead else 0


def build_pages(store: Store, rows: Sequence[m.Page]) -> list[Page]:
    """Pages with the names and the addresses of what they show, and nothing else: that is all that anybody sees."""
    shown: dict[str, list[Asked]] = defaultdict(list)
    for a in store.questions.on_pages([row.key for row in rows]):
        shown[a.page_key].append(a)
    classes, rules = store.classes(), class_rules(store, {row.class_id for row in rows})
    secret, base, days = store.secret("crop_key"), store.settings.page.public_url, store.settings.page.url_days
    built, ahead = [], pages_ahead(store)
    expiry = [(row.created_at + timedelta(days=days)).timestamp() for row in rows]
    sheets = [sheet_url(base, secret, row.number, at) for row, at in zip(rows, expiry, strict=True)]
    for place, (row, expires) in enumerate(zip(rows, expiry, strict=True)):
        crops = [
            Crop(a.name or str(a.mask_id), crop_url(base, secret, a.mask_id, expires, row.number))
            for a in shown_order(shown[row.key])
        ]
        class_name, code = classes[row.class_id], store.settings.page.language
        title = language(code).gettext("Which outlines are not a correct {class_name}?", class_name=class_name)
        built.append(Page(task_name(row), class_name, title, crops, rules.get(row.class_id, ""), row.screen, code,
                          sheets[place], sheets[place + 1 : place + 1 + ahead]))  # fmt: skip
    return built


def put(
    store: Store, client: Client, project: int, rows: Sequence[m.Page], make: Callable[[list[m.Page]], Bodies],
    after: int = 0, cursor: str | None = None,
) -> None:  # fmt: skip
    """Puts pages into a project, each once; `make` returns their tasks by the names of the pages.

    `after` is the highest task id known to hold none of them. What an earlier turn put there without noting it may
    have answers by now: then the project is read from the start, so `cursor` is forgotten.
    """

    def found(key_of: Mapping[str, str], held: Mapping[str, int]) -> None:
        store.pages.mark_published({key_of[name]: task for name, task in held.items()})
        if cursor is not None:
            store.values.drop(cursor)

    if old := {row.key: row.key for row in rows if row.name is None}:
        # Pages planned by a release that gave no names: they may be there under their keys.
        held = {key: task for key, task in read_keys(client, project, after).items() if key in old}
        found(old, held)
        store.pages.rename(old.keys() - held.keys())
        named = store.pages.some([row.key for row in rows if row.key not in held])
        rows = [named[row.key] for row in rows if row.key in named]
    key_of = {task_name(row): row.key for row in rows}
    publish_tasks(
        client, project, make(list(rows)), after=after,
        found=lambda held: found(key_of, held),
        published=lambda tasks: store.pages.mark_published({key_of[name]: task for name, task in tasks.items()}),
    )  # fmt: skip


def question_tasks(store: Store, rows: Sequence[m.Page]) -> Bodies:
    """The tasks of pages of questions, by the names of the pages."""
    return page_tasks(build_pages(store, rows))
