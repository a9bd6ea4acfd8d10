"""Pages on which masks are drawn: what their annotations hold, read back."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from campaign.label_studio.client import Client
from campaign.label_studio.readback import read_tasks


@dataclass(frozen=True)
class DrawnAnnotation:
    """What one annotation holds now: `result` as Label Studio states it, its regions and choices."""

    id: int
    user: int
    updated_at: str
    lead_time: float | None
    skipped: bool
    result: list[dict[str, Any]]


@dataclass(frozen=True)
class DrawnTask:
    """All annotations that a page has now; one that was deleted is absent."""

    task_id: int
    page_key: str
    annotations: list[DrawnAnnotation]


def read_drawings(client: Client, project_id: int, cursor: str | None = None) -> tuple[list[DrawnTask], str | None]:
    """What the pages that changed since `cursor` hold now, and the next cursor; see `readback.read_tasks`."""
    return read_tasks(client, project_id, parse_drawn, cursor)


def parse_drawn(task: dict[str, Any], unknown: Counter[str]) -> DrawnTask | None:
    """A task with what was drawn on it; None for a task that is no page."""
    key = (task.get("meta") or {}).get("key")
    if not isinstance(key, str):
        unknown["a task that is no page"] += 1
        return None
    annotations = []
    for row in task.get("annotations") or []:
        user, result = row.get("completed_by"), row.get("result")
        annotations.append(
            DrawnAnnotation(
                id=int(row["id"]),
                user=int(user["id"] if isinstance(user, dict) else user or 0),
                updated_at=str(row["updated_at"]),
                lead_time=row.get("lead_time"),
                skipped=bool(row.get("was_cancelled")),
                result=[region for region in result if isinstance(region, dict)] if isinstance(result, list) else [],
            )
        )
    return DrawnTask(int(task["id"]), key, sorted(annotations, key=lambda a: a.id))
