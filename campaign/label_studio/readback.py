"""Answers read back from Label Studio: what changed since the last look, nothing left out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, TypeVar

from campaign.label_studio.client import Client
from campaign.records.verdict import Verdict
from ml_backend.errors import InputError

Snapshot = TypeVar("Snapshot")

logger = logging.getLogger(__name__)

# A change gets its time before its transaction ends, so one that is seen late has a time before the cursor.
OVERLAP = timedelta(seconds=5)
# Label Studio applies the same list to a task and to its annotations.
FIELDS = "id,meta,updated_at,annotations,result,was_cancelled,completed_by,lead_time"
SINGLE = {"yes": Verdict.YES, "no": Verdict.NO, "unsure": Verdict.UNSURE}
FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


@dataclass(frozen=True)
class AnnotationSnapshot:
    """What one annotation says now.

    `user` is the user's id in Label Studio, `updated_at` as Label Studio states it, `lead_time` the seconds that the
    page was open (None where unknown). A skipped page counts as unsure of every mask.
    """

    id: int
    user: int
    updated_at: str
    lead_time: float | None
    skipped: bool
    verdicts: dict[int, Verdict]


@dataclass(frozen=True)
class TaskSnapshot:
    """All annotations that a page has now; one that was deleted is absent."""

    task_id: int
    page_key: str
    annotations: list[AnnotationSnapshot]


@dataclass(frozen=True)
class _Cursor:
    """`since`: Label Studio's time of the newest change. `seen`: digests of the tasks returned near that time."""

    since: str
    seen: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> _Cursor:
        """The cursor that `str` made. Campaigns of version 0.1 stored `seen` under another name."""
        try:
            value = json.loads(text)
            datetime.strptime(value["since"], FORMAT)
            return cls(value["since"], dict(value["seen"] if "seen" in value else value["told"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError("read-back cursor", "one that read_changes returned", error) from None

    def __str__(self) -> str:
        return json.dumps({"since": self.since, "seen": self.seen})


def read_changes(client: Client, project_id: int, cursor: str | None = None) -> tuple[list[TaskSnapshot], str | None]:
    """What the pages of questions that changed since `cursor` say now, and the next cursor; see `read_tasks`."""
    return read_tasks(client, project_id, parse_task, cursor)


def read_tasks(
    client: Client,
    project_id: int,
    parse: Callable[[dict[str, Any], Counter[str]], Snapshot | None],
    cursor: str | None = None,
) -> tuple[list[Snapshot], str | None]:
    """What the pages that changed since `cursor` say now, and the next cursor. None reads all pages.

    Every create, edit, delete and skip is returned at least once, whenever it was committed; a page that did not change
    since is left out where that is known. The cursor is only ever Label Studio's own time. Drafts do
    not count, and a page whose task is deleted is absent. Raises LabelStudioUnavailable, ProjectGone.
    """
    old = _Cursor.parse(cursor) if cursor else None
    start = _format(_time(old.since) - OVERLAP) if old else None
    newest = _newest(client, project_id, start)
    if newest is None:
        return [], cursor
    # A change during the read has a time of at least `newest`, so that the next read finds it.
    since = max(newest, old.since) if old else newest
    horizon = _format(_time(since) - OVERLAP)
    changes: list[Snapshot] = []
    seen: dict[str, str] = {}
    unknown: Counter[str] = Counter()
    filters = [_since(start)] if start else []
    for task in client.tasks(project_id, FIELDS, filters=filters, annotations=True):
        digest = _digest(task)
        if task["updated_at"] >= horizon:
            seen[str(task["id"])] = digest
        if old and old.seen.get(str(task["id"])) == digest:
            continue
        snapshot = parse(task, unknown)
        if snapshot is not None:
            changes.append(snapshot)
    for what, count in sorted(unknown.items()):
        logger.warning("project %d: left out %s (%d times)", project_id, what, count)
    return changes, str(_Cursor(since, seen))


def parse_task(task: dict[str, Any], unknown: Counter[str] | None = None) -> TaskSnapshot | None:
    """The snapshot of a task with its annotations; None for a task that is no page.

    Values that no page offers are counted in `unknown` and left out.
    """
    unknown = Counter() if unknown is None else unknown
    meta = task.get("meta") or {}
    key, masks = meta.get("key"), meta.get("masks")
    if not isinstance(key, str) or not isinstance(masks, list) or not all(type(m) is int for m in masks):
        unknown["a task that is no page"] += 1
        return None
    annotations = []
    for row in task.get("annotations") or []:
        skipped = bool(row.get("was_cancelled"))
        result = row.get("result")
        # A skipped page still carries the preselected values: they are nobody's answer.
        verdicts = dict.fromkeys(masks, Verdict.UNSURE) if skipped else parse_verdicts(result, masks, unknown)
        user = row.get("completed_by")
        annotations.append(
            AnnotationSnapshot(
                id=int(row["id"]),
                user=int(user["id"] if isinstance(user, dict) else user or 0),
                updated_at=str(row["updated_at"]),
                lead_time=row.get("lead_time"),
                skipped=skipped,
                verdicts=verdicts,
            )
        )
    return TaskSnapshot(int(task["id"]), key, sorted(annotations, key=lambda a: a.id))


def parse_verdicts(result: Any, masks: Iterable[int], unknown: Counter[str] | None = None) -> dict[int, Verdict]:
    """The verdict on each mask of a page from an annotation's result.

    A mask chosen in `doubt` is unsure, else one chosen in `wrong` is no, else the page's status decides: reviewed is
    yes, unsure is unsure. Without a known status nothing is said of the masks that were not chosen. On the page of a
    single mask `verdict` says it all.
    """
    unknown = Counter() if unknown is None else unknown
    of_value = {str(m): m for m in masks}
    chosen: dict[str, list[str]] = {"status": [], "wrong": [], "doubt": [], "verdict": []}
    for region in result if isinstance(result, list) else []:
        name = region.get("from_name") if isinstance(region, dict) else None
        if name in chosen:
            choices = (region.get("value") or {}).get("choices")
            chosen[name] += [str(c) for c in choices] if isinstance(choices, list) else []
    verdicts: dict[int, Verdict] = {}
    for verdict in chosen["verdict"]:
        if verdict in SINGLE and len(of_value) == 1:
            verdicts = dict.fromkeys(of_value.values(), SINGLE[verdict])
        else:
            unknown[f"verdict {verdict[:40]!r}"] += 1
    others = {"reviewed": Verdict.YES, "unsure": Verdict.UNSURE}
    for status in chosen["status"]:
        if status in others:
            verdicts = dict.fromkeys(of_value.values(), others[status])
        else:
            unknown[f"status {status[:40]!r}"] += 1
    for name, meant in (("wrong", Verdict.NO), ("doubt", Verdict.UNSURE)):
        for value in chosen[name]:
            if value in of_value:
                verdicts[of_value[value]] = meant
            else:
                unknown[f"{name} {value[:40]!r}, which is not on the page"] += 1
    return verdicts


def _newest(client: Client, project_id: int, start: str | None) -> str | None:
    """The time of the newest change at or after `start`: one cheap question, the only one where nothing happened."""
    query: dict[str, Any] = {"ordering": ["-tasks:updated_at"]}
    if start:
        query["filters"] = {"conjunction": "and", "items": [_since(start)]}
    page = client.request(
        "GET",
        "api/tasks/",
        thing=f"project {project_id}",
        params={"project": project_id, "page_size": 1, "include": "id,updated_at", "query": json.dumps(query)},
    )
    return _format(_time(page["tasks"][0]["updated_at"])) if page["tasks"] else None


def _since(start: str) -> dict[str, Any]:
    return {"filter": "filter:tasks:updated_at", "operator": "greater_or_equal", "type": "Datetime", "value": start}


def _time(text: str) -> datetime:
    """A time as Label Studio states it: with or without microseconds, in UTC."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)


def _format(time: datetime) -> str:
    """The one form that the filter takes: without microseconds it answers 500."""
    return time.strftime(FORMAT)


def _digest(task: dict[str, Any]) -> str:
    """A short digest of what a page's annotations say."""
    content = [
        (a.get("id"), a.get("updated_at"), a.get("was_cancelled"), a.get("completed_by"), a.get("result"))
        for a in task.get("annotations") or []
    ]
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=8).hexdigest()
