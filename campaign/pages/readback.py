"""Answers read back from Label Studio as facts, and what no answer is made of, set aside for the lead to look at.

Every annotator may write through Label Studio whatever they like, under any name, on any task. A page's answers come
from the task that was published as it, on the masks that it asks about; what was written in the name of somebody else
is kept apart, and what that user said before stands.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol, TypeVar

from campaign.derived.live import live
from campaign.derived.showing import shown_pages
from campaign.label_studio.client import Client
from campaign.label_studio.drawing import DrawnAnnotation, DrawnTask
from campaign.label_studio.readback import AnnotationSnapshot, Changes, ForeignTask, TaskSnapshot, read_changes
from campaign.pages.projects import QUESTIONS
from campaign.quality.answers import WITHDRAWN, standing_annotations
from campaign.store import Store
from campaign.store.answers import Fact
from campaign.store.aside import Reason
from campaign.store.values import cursor_name

logger = logging.getLogger(__name__)

T = TypeVar("T")
Annotated = TypeVar("Annotated", bound="AnnotationSnapshot | DrawnAnnotation")


class Stamped(Protocol):
    """A fact of an annotation, with Label Studio's time of it."""

    @property
    def annotation_id(self) -> int:
        """The annotation in Label Studio."""

    @property
    def answered_at(self) -> str:
        """Label Studio's time of its newest change."""


LONGEST = 200  # characters of what is said of something that was set aside


def read_on(
    store: Store, name: str, read: Callable[[str | None], Changes[T]], keep: Callable[[Sequence[T]], int]
) -> int:
    """What is new since the cursor `name`: `read` returns it with the next cursor, `keep` stores it and counts.

    The cursor moves after the facts are stored: a turn that is killed between reads them again, and none is lost.
    """
    known = store.values.get(name)
    changes = read(known["value"] if known else None)
    new = keep(changes.tasks)
    _store_aside(store, _foreign(store, changes.foreign))
    if known is None or known["value"] != changes.cursor:
        store.values.set(name, {"value": changes.cursor})
    return new


def read_back(store: Store, client: Client) -> int:
    """Reads what changed on the pages of questions and stores it as facts; returns how many were new."""
    places = ((screen, store.values.project(screen)) for screen in QUESTIONS)
    return sum(read_answers(store, client, p, cursor_name(screen)) for screen, p in places if p is not None)


def read_answers(store: Store, client: Client, project: int, cursor: str) -> int:
    """Reads the answers of one project that are new since a cursor; returns how many facts were new."""

    def keep(snapshots: Sequence[TaskSnapshot]) -> int:
        keys = {s.page_key for s in snapshots}
        rows = store.answers.rows(keys)
        late = late_changes(store, snapshots, rows)
        aside = put_aside(store, snapshots, stamps_of(store, keys, standing_annotations(rows)), late)
        new = store.answers.add(facts(store, snapshots))
        # Somebody else is to answer a page on which an answer does not count.
        live(store).touched |= {str(row["page_key"]) for row in aside if row["reason"] == Reason.CHANGED}
        return new

    return read_on(store, cursor, partial(read_changes, client, project, partial(shown_pages, store)), keep)


def facts(store: Store, snapshots: Sequence[TaskSnapshot]) -> list[dict]:
    """Facts that the snapshots of tasks show: what each annotation says now, and which annotations are gone."""
    keys = {s.page_key for s in snapshots}
    asked: dict[str, set[int]] = defaultdict(set)
    for question in store.questions.on_pages(keys):
        asked[question.page_key].add(question.mask_id)
    before = store.answers.rows(keys)
    standing, known = defaultdict(list), standing_annotations(before)
    for fact in known:
        standing[fact.page_key].append(fact)
    stamps, late = stamps_of(store, keys, known), late_changes(store, snapshots, before)
    rows: list[dict] = []
    for snapshot in snapshots:
        present = {a.id for a in snapshot.annotations}
        for a in own_annotations(snapshot.annotations, stamps):
            if a.id in late:
                continue
            for mask, verdict in sorted(a.verdicts.items()):
                if mask in asked[snapshot.page_key]:
                    rows.append(
                        {
                            "page_key": snapshot.page_key, "annotation_id": a.id, "mask_id": mask,
                            "annotator": str(a.user), "verdict": verdict.word, "answered_at": str(a.updated_at),
                            "lead_time": a.lead_time,
                        }
                    )  # fmt: skip
        for fact in standing[snapshot.page_key] if snapshot.whole else ():
            if fact.annotation_id not in present:
                rows.append(
                    {
                        "page_key": fact.page_key, "annotation_id": fact.annotation_id, "mask_id": fact.mask_id,
                        "annotator": fact.annotator, "verdict": WITHDRAWN, "answered_at": fact.answered_at,
                        "lead_time": None,
                    }
                )  # fmt: skip
    return rows


def late_changes(store: Store, snapshots: Iterable[TaskSnapshot], known: Iterable[Fact]) -> set[int]:
    """Annotations that were changed after `page.change_hours`, counted from when their page was submitted.

    `known` are the facts of these pages. What was said last in time stands; an annotation that was never read before
    is none of them, whenever it was made.
    """
    first: dict[int, str] = {}
    stood: dict[int, set[str]] = defaultdict(set)
    for fact in known:
        if fact.verdict != WITHDRAWN:
            first[fact.annotation_id] = min(first.get(fact.annotation_id, fact.answered_at), fact.answered_at)
            stood[fact.annotation_id].add(fact.answered_at)
    allowed = timedelta(hours=store.settings.page.change_hours)
    return {
        a.id
        for snapshot in snapshots
        for a in snapshot.annotations
        if a.sound and a.id in first and a.updated_at not in stood[a.id]
        and _time(a.updated_at) - _time(first[a.id]) > allowed
    }  # fmt: skip


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


# What others did


def stamps_of(store: Store, keys: Collection[str], known: Iterable[Stamped]) -> dict[int, str]:
    """{annotation: the time of what is known of it} on some pages; "" where others are known to have changed it."""
    others = (annotation for ids in store.aside.changed(keys).values() for annotation in ids)
    return dict.fromkeys(others, "") | {fact.annotation_id: fact.answered_at for fact in known}


def own_annotations(annotations: Iterable[Annotated], stamps: Mapping[int, str]) -> list[Annotated]:
    """Those that are what their user wrote: sound, and not made or changed by another user."""
    return [a for a in annotations if a.sound and not _is_others(a, stamps)]


def _is_others(a: Annotated, stamps: Mapping[int, str]) -> bool:
    """Whether the user whose annotation it says to be is not who wrote it.

    Of a user who is gone Label Studio does not say the name, nor of annotations that are older than its field: what is
    new is believed, a change of what is known is not.
    """
    if a.editor == 0:
        return stamps.get(a.id, a.updated_at) != a.updated_at
    return a.editor is not None and a.editor != a.user


def put_aside(
    store: Store, snapshots: Iterable[TaskSnapshot | DrawnTask], stamps: Mapping[int, str],
    late: Collection[int] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """Stores what no answer is made of on these pages, and says so in the log; returns what is new of it.

    `late` are annotations that their user changed too late.
    """
    rows: list[dict[str, Any]] = []
    for snapshot in snapshots:
        base = {"task_id": snapshot.task_id, "page_key": snapshot.page_key}
        newest: dict[int, tuple[str, int]] = {}
        annotations: Sequence[AnnotationSnapshot | DrawnAnnotation] = snapshot.annotations
        own = own_annotations(annotations, stamps)
        for a in own:
            newest[a.user] = max(newest.get(a.user, ("", 0)), (a.updated_at, a.id))
        for a in annotations:
            said = base | {
                "annotation_id": a.id, "annotator": str(a.user), "editor": str(a.editor or ""), "at": a.updated_at,
                "what": "",
            }  # fmt: skip
            if a.sound and a not in own:
                rows.append(said | {"reason": Reason.CHANGED.value})
                continue
            if a.id in late:
                rows.append(said | {"reason": Reason.LATE.value})
            if a.sound and newest[a.user][1] != a.id:
                rows.append(said | {"reason": Reason.DOUBLED.value})
            if a.unknown:
                rows.append(said | {"reason": Reason.UNKNOWN.value, "what": str(a.unknown)[:LONGEST]})
        if not snapshot.whole:
            gone = {"annotation_id": 0, "annotator": "", "editor": "", "at": "", "what": "annotations that are none"}
            rows.append(base | gone | {"reason": Reason.UNKNOWN.value})
    return _store_aside(store, rows)


def _foreign(store: Store, tasks: Sequence[ForeignTask]) -> list[dict[str, Any]]:
    """Rows for tasks that bear the name of a page and were not published by the campaign."""
    known = store.pages.named({task.name for task in tasks})
    return [
        {
            "reason": Reason.FOREIGN.value, "task_id": task.task_id, "page_key": None, "annotation_id": 0,
            "annotator": "", "editor": "", "at": "", "what": f"named as page {task.name}",
        }
        for task in tasks
        if task.name in known
    ]  # fmt: skip


_WORDS = {
    Reason.CHANGED: "annotations that another user than their own made or changed",
    Reason.LATE: "annotations changed after the time for changes: what they said before counts",
    Reason.DOUBLED: "annotations of users who answered a page again: the newest counts",
    Reason.FOREIGN: "tasks that call themselves a page and were not published",
    Reason.UNKNOWN: "annotations with parts that no page offers",
}


def _store_aside(store: Store, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    new = store.aside.add(rows)
    for reason, words in _WORDS.items():
        own = [row for row in new if row["reason"] == reason.value]
        if own:
            whose = ", ".join(sorted({row["annotator"] for row in own if row["annotator"]})[:10])
            by = f", of users {whose}" if whose else ""
            store.log(f"set aside: {len(own)} {words}{by}")
            logger.warning("set aside: %d %s%s; the first: task %d %s", len(own), words, by, own[0]["task_id"],
                           own[0]["what"])  # fmt: skip
    return [dict(row) for row in new]
