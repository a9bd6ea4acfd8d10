"""Answers read back from Label Studio as facts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from campaign.label_studio.client import Client
from campaign.label_studio.readback import TaskSnapshot, read_changes
from campaign.pages.projects import QUESTIONS
from campaign.quality.answers import WITHDRAWN, standing_answers
from campaign.store import Store
from campaign.store.values import cursor_name

T = TypeVar("T")


def read_on(
    store: Store, name: str, read: Callable[[str | None], tuple[T, str | None]], keep: Callable[[T], int]
) -> int:
    """What is new since the cursor `name`: `read` returns it with the next cursor, `keep` stores it and counts.

    The cursor moves after the facts are stored: a turn that is killed between reads them again, and none is lost.
    """
    known = store.values.get(name)
    changes, cursor = read(known["value"] if known else None)
    new = keep(changes)
    if known is None or known["value"] != cursor:
        store.values.set(name, {"value": cursor})
    return new


def read_back(store: Store, client: Client) -> int:
    """Reads what changed on the pages of questions and stores it as facts; returns how many were new."""
    places = ((screen, store.values.project(screen)) for screen in QUESTIONS)
    return sum(read_answers(store, client, p, cursor_name(screen)) for screen, p in places if p is not None)


def read_answers(store: Store, client: Client, project: int, cursor: str) -> int:
    """Reads the answers of one project that are new since a cursor; returns how many facts were new."""
    return read_on(
        store,
        cursor,
        partial(read_changes, client, project),
        lambda snapshots: store.answers.add(facts(store, snapshots)),
    )


def facts(store: Store, snapshots: Sequence[TaskSnapshot]) -> list[dict]:
    """Facts that the snapshots of tasks show: what each annotation says now, and which annotations are gone."""
    keys = {s.page_key for s in snapshots}
    asked: dict[str, set[int]] = defaultdict(set)
    for question in store.questions.on_pages(keys):
        asked[question.page_key].add(question.mask_id)
    standing = defaultdict(list)
    for fact in standing_answers(store.answers.rows(keys)):
        standing[fact.page_key].append(fact)
    rows: list[dict] = []
    for snapshot in snapshots:
        present = {a.id for a in snapshot.annotations}
        for a in snapshot.annotations:
            for mask, verdict in sorted(a.verdicts.items()):
                if mask in asked[snapshot.page_key]:
                    rows.append(
                        {
                            "page_key": snapshot.page_key, "annotation_id": a.id, "mask_id": mask,
                            "annotator": str(a.user), "verdict": verdict.word, "answered_at": str(a.updated_at),
                            "lead_time": a.lead_time,
                        }
                    )  # fmt: skip
        for fact in standing[snapshot.page_key]:
            if fact.annotation_id not in present:
                rows.append(
                    {
                        "page_key": fact.page_key, "annotation_id": fact.annotation_id, "mask_id": fact.mask_id,
                        "annotator": fact.annotator, "verdict": WITHDRAWN, "answered_at": fact.answered_at,
                        "lead_time": None,
                    }
                )  # fmt: skip
    return rows
