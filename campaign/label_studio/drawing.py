"""Pages on which masks are drawn: what their annotations hold, read back."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from campaign.label_studio.annotations import Unknown, annotation_rows, task_number
from campaign.label_studio.client import Client
from campaign.label_studio.readback import Changes, Pages, read_tasks
from campaign.records.page import ShownPage


@dataclass(frozen=True)
class DrawnAnnotation:
    """What one annotation holds now: `result` are its regions and choices, as far as they have the form of such.

    The rest as in `readback.AnnotationSnapshot`.
    """

    id: int
    user: int
    updated_at: str
    lead_time: float | None
    skipped: bool
    result: list[dict[str, Any]]
    editor: int | None = None
    unknown: Unknown = field(default_factory=Unknown)
    sound: bool = True


@dataclass(frozen=True)
class DrawnTask:
    """All annotations that a page has now; one that was deleted is absent, unless it is not `whole`."""

    task_id: int
    page_key: str
    annotations: list[DrawnAnnotation]
    whole: bool = True


def read_drawings(client: Client, project_id: int, pages: Pages, cursor: str | None = None) -> Changes[DrawnTask]:
    """What the pages that changed since `cursor` hold now, and the next cursor; see `readback.read_tasks`."""
    return read_tasks(client, project_id, pages, parse_drawn, cursor)


def parse_drawn(task: dict[str, Any], page: ShownPage) -> DrawnTask:
    """A page's task with what was drawn on it."""
    rows = annotation_rows(task)
    annotations = [
        DrawnAnnotation(
            row.id, row.user, row.updated_at, row.lead_time, row.skipped, row.regions, row.editor, row.unknown,
            row.sound,
        )
        for row in rows or ()
    ]  # fmt: skip
    return DrawnTask(task_number(task), page.key, annotations, rows is not None)
