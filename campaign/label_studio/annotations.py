"""Tasks and annotations as Label Studio states them, checked: every member of a project may have written them.

What the server itself sets must be as expected, or it is no Label Studio. Everything else is taken for what it is,
part by part, and what is not understood is counted and left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from campaign.label_studio.client import LabelStudioError

LONGEST = 86400.0  # seconds that a page is believed to have been open
MOST_REGIONS = 5000  # of one annotation; a person draws some hundred
KINDS = 20  # of what is not understood in one annotation that are told apart
LARGEST_ID = 2**63 - 1
NAME = re.compile(r"[!-~]{1,64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)")


class Unknown(Counter[str]):
    """Counts of what was not understood, by what it is; printable, and of few kinds whatever is written."""

    def note(self, what: str) -> None:
        """Counts one more."""
        self[what if what in self or len(self) < KINDS else "others"] += 1

    def __str__(self) -> str:
        return ", ".join(f"{what} ({count})" for what, count in sorted(self.items()))


@dataclass(frozen=True)
class Row:
    """One annotation of a task, whatever it is about.

    `user` is whose it says to be and `editor` who made or changed it last, ids of users in Label Studio; None where it
    says nothing of that. `regions` are those parts of its result that are of the right form: from_name, type and id are
    texts and value is an object. `unknown` counts what is not understood. `sound` is false where the annotation itself
    is malformed, so that nothing is known of it but its id.
    """

    id: int
    user: int = 0
    editor: int | None = None
    updated_at: str = ""
    lead_time: float | None = None
    skipped: bool = False
    regions: list[dict[str, Any]] = field(default_factory=list)
    unknown: Unknown = field(default_factory=Unknown)
    sound: bool = True


def quoted(value: Any) -> str:
    """A text as an annotation has it, short and printable; of anything else its type."""
    return ascii(value[:40]) if isinstance(value, str) else type(value).__name__


def is_id(value: Any) -> bool:
    """Whether a value is an id as Label Studio makes them."""
    return type(value) is int and 0 < value <= LARGEST_ID


def is_time(value: Any) -> bool:
    """Whether a value is a time as Label Studio states them."""
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        return False
    try:
        datetime.fromisoformat(value.replace("Z", "+00:00"))
    except ValueError:
        return False
    return True


def task_number(task: Any) -> int:
    """The id of a task. Raises LabelStudioError where what was returned is no task."""
    if not isinstance(task, dict) or not is_id(task.get("id")):
        raise LabelStudioError("Label Studio's tasks", "objects with an id", type(task).__name__)
    return int(task["id"])


def task_time(task: dict[str, Any]) -> str:
    """When a task was changed last. Raises LabelStudioError where it does not say."""
    if not is_time(task.get("updated_at")):
        raise LabelStudioError(f"task {task_number(task)}", "the time of its newest change", "none")
    return str(task["updated_at"])


def page_name(task: dict[str, Any]) -> str | None:
    """The name of the page that a task says to be, None where it says nothing of the kind."""
    meta = task.get("meta")
    name = meta.get("key") if isinstance(meta, dict) else None
    return name if isinstance(name, str) and NAME.fullmatch(name) else None


def annotation_rows(task: dict[str, Any]) -> list[Row] | None:
    """The annotations of a task, by id; None where it does not say which there are."""
    listed = task.get("annotations")
    if listed is None:
        return []
    if not isinstance(listed, list) or not all(isinstance(a, dict) and is_id(a.get("id")) for a in listed):
        return None
    return [row for _, row in sorted({a["id"]: _row(a) for a in listed}.items())]


def _row(a: dict[str, Any]) -> Row:
    user, editor, unknown = _user(a.get("completed_by")), _user(a.get("updated_by")), Unknown()
    if user is None or not is_time(a.get("updated_at")):
        unknown.note("an annotation without its user or time")
        return Row(a["id"], unknown=unknown, sound=False)
    if editor is None and a.get("updated_by", user) is None:
        editor = 0  # somebody who is no user any more
    skipped = a.get("was_cancelled") is True
    lead_time = seconds(a.get("lead_time"))
    if lead_time is None and a.get("lead_time") is not None:
        unknown.note("a lead time that is none")
    regions = sound_regions(a.get("result"), unknown)
    return Row(a["id"], user, editor, a["updated_at"], lead_time, skipped, regions, unknown)


def _user(value: Any) -> int | None:
    """A user as an id or as an object with one."""
    number = value.get("id") if isinstance(value, dict) else value
    return number if is_id(number) else None


def seconds(value: Any) -> float | None:
    """A time that a page was open, in seconds, at most `LONGEST`; None for what is no such time.

    >>> seconds(1e9), seconds(-1e9), seconds(float("nan"))
    (86400.0, None, None)
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not value >= 0:
        return None
    return float(min(value, LONGEST))


def sound_regions(result: Any, unknown: Unknown) -> list[dict[str, Any]]:
    """The regions of a result that have the form of one: texts as from_name, type and id, and an object as value.

    Relations and the like, which have no value by nature, are passed over.
    """
    if result is None:
        return []
    if not isinstance(result, list):
        unknown.note("a result that is no list")
        return []
    regions = []
    for region in result[:MOST_REGIONS]:
        if not isinstance(region, dict):
            unknown.note("a region that is no object")
        elif region.get("type") != "relation":
            if _is_sound(region):
                regions.append(region)
            else:
                unknown.note("a malformed region")
    if len(result) > MOST_REGIONS:
        unknown.note(f"regions after the first {MOST_REGIONS}")
    return regions


def _is_sound(region: Mapping[str, Any]) -> bool:
    texts = (region.get("type", ""), region.get("id", ""), region.get("from_name"))
    return all(isinstance(text, str) for text in texts) and isinstance(region.get("value"), dict)


def choices(region: Mapping[str, Any], unknown: Unknown) -> list[str]:
    """What is chosen in a region of `sound_regions`."""
    chosen = region["value"].get("choices")
    if not isinstance(chosen, list):
        unknown.note(f"{quoted(region['from_name'])} without choices")
        return []
    for choice in chosen:
        if not isinstance(choice, str):
            unknown.note(f"a choice of {quoted(region['from_name'])} that is no text")
    return [choice for choice in chosen if isinstance(choice, str)]
