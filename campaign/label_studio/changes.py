"""When tasks were changed, by Label Studio's own clock: what a reader asks to be told only of what is new."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple

from campaign.label_studio.annotations import task_number, task_time
from campaign.label_studio.client import Client, LabelStudioError

# A change gets its time before its transaction ends, so one that is seen late has a time before the cursor.
OVERLAP = timedelta(seconds=5)
FORMAT = "%Y-%m-%dT%H:%M:%S.%fZ"


class Newest(NamedTuple):
    """The time of the newest change, None where there is none, and how many tasks it was looked for among."""

    at: str | None
    tasks: int


def newest_change(client: Client, project_id: int, start: str | None = None) -> Newest:
    """The newest change at or after `start`: one cheap question, the only one where nothing happened.

    Raises LabelStudioError where what was returned are no tasks.
    """
    query: dict[str, Any] = {"ordering": ["-tasks:updated_at"]}
    if start:
        query["filters"] = {"conjunction": "and", "items": [changed_since(start)]}
    page = client.request(
        "GET",
        "api/tasks/",
        thing=f"project {project_id}",
        params={"project": project_id, "page_size": 1, "include": "id,updated_at", "query": json.dumps(query)},
    )
    tasks, total = (page.get("tasks"), page.get("total")) if isinstance(page, dict) else (None, None)
    if not isinstance(tasks, list) or type(total) is not int:
        raise LabelStudioError(f"project {project_id}", "a list of tasks", type(page).__name__)
    times = [task_time(task) for task in tasks[:1] if task_number(task)]
    return Newest(stated(parsed(times[0])) if times else None, total)


def changed_since(start: str) -> dict[str, Any]:
    """The filter for tasks that were changed at `start`, a time as `stated` has it, or after it."""
    return {"filter": "filter:tasks:updated_at", "operator": "greater_or_equal", "type": "Datetime", "value": start}


def parsed(text: str) -> datetime:
    """A time as Label Studio states it: with or without microseconds, in UTC."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(timezone.utc)


def stated(time: datetime) -> str:
    """The one form that the filter takes: without microseconds it answers 500."""
    return time.strftime(FORMAT)
