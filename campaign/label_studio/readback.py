"""Answers read back from Label Studio: what changed since the last look, nothing left out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

from campaign.label_studio.annotations import (
    Row,
    Unknown,
    annotation_rows,
    choices,
    page_name,
    quoted,
    task_number,
    task_time,
)
from campaign.label_studio.changes import FORMAT, OVERLAP, changed_since, newest_change, parsed, stated
from campaign.label_studio.client import Client
from campaign.records.page import ShownPage
from campaign.records.verdict import Verdict
from ml_backend.errors import InputError

Snapshot = TypeVar("Snapshot")

logger = logging.getLogger(__name__)

# By how much Label Studio's clock must have gone back to be noticed: what is less, OVERLAP makes good.
SET_BACK = timedelta(seconds=2)
CLOCK_KEPT = timedelta(seconds=30)  # how often its time is noted while nothing changes
# Label Studio applies the same list to a task and to its annotations.
FIELDS = "id,meta,updated_at,annotations,result,was_cancelled,completed_by,updated_by,lead_time"
READ = 500  # tasks that are looked up at a time
SINGLE = {"yes": Verdict.YES, "no": Verdict.NO, "unsure": Verdict.UNSURE}


@dataclass(frozen=True)
class AnnotationSnapshot:
    """What one annotation says now.

    `user` is the user's id in Label Studio, `updated_at` as Label Studio states it, `lead_time` the seconds that the
    page was open (None where unknown). A skipped page counts as unsure of every mask. `editor` is who made or changed
    it last, 0 for somebody who is gone, None where that is not said. `unknown` counts what was not understood; where
    the annotation itself is not `sound`, nothing was.
    """

    id: int
    user: int
    updated_at: str
    lead_time: float | None
    skipped: bool
    verdicts: dict[int, Verdict]
    editor: int | None = None
    unknown: Unknown = field(default_factory=Unknown)
    sound: bool = True


@dataclass(frozen=True)
class TaskSnapshot:
    """All annotations that a page has now; one that was deleted is absent, unless it is not `whole`."""

    task_id: int
    page_key: str
    annotations: list[AnnotationSnapshot]
    whole: bool = True


class ForeignTask(NamedTuple):
    """A task that the campaign did not publish, with the name of a page that it bears and when it was changed."""

    task_id: int
    name: str
    at: str


@dataclass(frozen=True)
class Changes(Generic[Snapshot]):
    """What changed: the campaign's own tasks, others that bear a page's name, and the next cursor."""

    tasks: list[Snapshot]
    foreign: list[ForeignTask]
    cursor: str | None


# {task: the page that it was published as} of those tasks that the campaign published.
Pages = Callable[[Collection[int]], Mapping[int, ShownPage]]


@dataclass(frozen=True)
class _Cursor:
    """`since`: Label Studio's time of the newest change. `seen`: digests of the tasks returned near that time.

    `clock`: Label Studio's time when it was read, empty where it was not stated.
    """

    since: str
    seen: dict[str, str]
    clock: str = ""

    @classmethod
    def parse(cls, text: str) -> _Cursor:
        """The cursor that `str` made. Campaigns of version 0.1 stored `seen` under another name."""
        try:
            value = json.loads(text)
            datetime.strptime(value["since"], FORMAT)
            seen = dict(value["seen"] if "seen" in value else value["told"])
            return cls(value["since"], seen, str(value.get("clock", "")))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("read-back cursor", "one that read_changes returned", error) from None

    def __str__(self) -> str:
        return json.dumps({"since": self.since, "seen": self.seen, "clock": self.clock})


def read_changes(client: Client, project_id: int, pages: Pages, cursor: str | None = None) -> Changes[TaskSnapshot]:
    """What the pages of questions that changed since `cursor` say now, and the next cursor; see `read_tasks`."""
    return read_tasks(client, project_id, pages, parse_task, cursor)


def read_tasks(
    client: Client,
    project_id: int,
    pages: Pages,
    parse: Callable[[dict[str, Any], ShownPage], Snapshot],
    cursor: str | None = None,
) -> Changes[Snapshot]:
    """What the pages that changed since `cursor` say now, and the next cursor. None reads all pages.

    A page is the task that was published as it, by `pages`; what other tasks say, whatever they call themselves, is not
    read. Every create, edit, delete and skip is returned at least once, whenever it was committed; a page that did not
    change since is left out where that is known. The cursor is only ever Label Studio's own time. Drafts do not count,
    and a page whose task is deleted is absent. Raises LabelStudioError, LabelStudioUnavailable, ProjectGone.
    """
    old = _Cursor.parse(cursor) if cursor else None
    start = stated(parsed(old.since) - OVERLAP) if old else None
    newest = newest_change(client, project_id, start).at
    clock = stated(client.server_time) if client.server_time else ""
    if old and clock and old.clock and parsed(clock) < parsed(old.clock) - SET_BACK:
        logger.warning(
            "the clock of Label Studio went back from %s to %s; every answer of project %d is read anew, nothing is to "
            "be done", old.clock, clock, project_id,
        )  # fmt: skip
        return read_tasks(client, project_id, pages, parse)
    if newest is None:
        # Without a time of its own, the clock is worth keeping once it has moved on.
        moved = bool(old and clock and (not old.clock or parsed(clock) > parsed(old.clock) + CLOCK_KEPT))
        return Changes([], [], str(replace(old, clock=clock)) if old and moved else cursor)
    # A change during the read has a time of at least `newest`, so that the next read finds it. One that was made before
    # the clock was set back has a time that is yet to come, and hides none that is made now.
    since = max(newest, old.since) if old else newest
    since = min(since, clock) if clock else since
    horizon = stated(parsed(since) - OVERLAP)
    read: list[Snapshot] = []
    foreign: list[ForeignTask] = []
    seen: dict[str, str] = {}
    filters = [changed_since(start)] if start else []
    for part in _parts(client.tasks(project_id, FIELDS, filters=filters, annotations=True)):
        changed = []
        for task in part:
            number, digest = str(task_number(task)), _digest(task)
            if task_time(task) >= horizon:
                seen[number] = digest
            if not old or old.seen.get(number) != digest:
                changed.append(task)
        own = pages([task_number(task) for task in changed])
        for task in changed:
            if page := own.get(task_number(task)):
                read.append(parse(task, page))
            elif name := page_name(task):
                foreign.append(ForeignTask(task_number(task), name, task_time(task)))
    return Changes(read, foreign, str(_Cursor(since, seen, clock)))


def parse_task(task: dict[str, Any], page: ShownPage) -> TaskSnapshot:
    """What the annotations of a page's task say of its masks."""
    rows = annotation_rows(task)
    annotations = [_snapshot(row, page.masks) for row in rows or ()]
    return TaskSnapshot(task_number(task), page.key, annotations, rows is not None)


def _snapshot(row: Row, masks: Mapping[str, int]) -> AnnotationSnapshot:
    # A skipped page still carries the preselected values: they are nobody's answer.
    verdicts = (
        dict.fromkeys(masks.values(), Verdict.UNSURE)
        if row.skipped
        else parse_verdicts(row.regions, masks, row.unknown)
    )
    return AnnotationSnapshot(
        row.id, row.user, row.updated_at, row.lead_time, row.skipped, verdicts if row.sound else {}, row.editor,
        row.unknown, row.sound,
    )  # fmt: skip


def _parts(tasks: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    while part := list(islice(tasks, READ)):
        yield part


def parse_verdicts(
    regions: list[dict[str, Any]], masks: Mapping[str, int], unknown: Unknown | None = None
) -> dict[int, Verdict]:
    """The verdict on each mask of a page, {what it is called there: mask}, from an annotation's regions.

    A mask chosen in `doubt` is unsure, else one chosen in `wrong` is no, else the page's status decides: reviewed is
    yes, unsure is unsure. Without a known status nothing is said of the masks that were not chosen. On the page of a
    single mask `verdict` says it all. Values that the page does not offer are counted in `unknown` and left out.
    """
    unknown = Unknown() if unknown is None else unknown
    of_value = masks
    chosen: dict[str, list[str]] = {"status": [], "wrong": [], "doubt": [], "verdict": []}
    for region in regions:
        if (name := region["from_name"]) in chosen:
            chosen[name] += choices(region, unknown)
    verdicts: dict[int, Verdict] = {}
    for verdict in chosen["verdict"]:
        if verdict in SINGLE and len(of_value) == 1:
            verdicts = dict.fromkeys(of_value.values(), SINGLE[verdict])
        else:
            unknown.note(f"verdict {quoted(verdict)}")
    others = {"reviewed": Verdict.YES, "unsure": Verdict.UNSURE}
    for status in chosen["status"]:
        if status in others:
            verdicts = dict.fromkeys(of_value.values(), others[status])
        else:
            unknown.note(f"status {quoted(status)}")
    for name, meant in (("wrong", Verdict.NO), ("doubt", Verdict.UNSURE)):
        for value in chosen[name]:
            if value in of_value:
                verdicts[of_value[value]] = meant
            else:
                unknown.note(f"{name} {quoted(value)}, which is not on the page")
    return verdicts


def _digest(task: dict[str, Any]) -> str:
    """A short digest of what a page's annotations say."""
    return hashlib.blake2b(json.dumps(task.get("annotations"), sort_keys=True).encode(), digest_size=8).hexdigest()
