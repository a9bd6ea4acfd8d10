"""What was read of a source project, in a file beside its images: a start that was interrupted goes on from there.

A project of any size is read in the memory of one portion of its tasks.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ml_backend.errors import InputError, Unavailable
from ml_backend.masks.coco import ImageRecord

FORM = 1
PORTION = 1000
_TABLES = """
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT);
CREATE TABLE IF NOT EXISTS tasks (
    id INTEGER PRIMARY KEY, address TEXT, name TEXT, regions TEXT, left_out TEXT,
    path TEXT, width INTEGER, height INTEGER
);
CREATE INDEX IF NOT EXISTS tasks_name ON tasks (name);
"""
_ADDRESSES = "SELECT id, address, path FROM tasks WHERE id > :last ORDER BY id LIMIT :portion"
_REGIONS = "SELECT id, regions FROM tasks WHERE regions IS NOT NULL AND id > :last ORDER BY id LIMIT :portion"
_IMAGES = """
SELECT id, name, (SELECT count(*) > 1 FROM tasks AS other WHERE other.name = tasks.name), width, height, path
FROM tasks WHERE (regions IS NOT NULL) = :annotated AND id > :last ORDER BY id LIMIT :portion
"""


@dataclass(frozen=True)
class Region:
    """One region of an annotation: its classes and its mask as COCO compressed RLE."""

    labels: tuple[str, ...]
    rle: dict[str, Any]
    width: int
    height: int


class TaskNote(NamedTuple):
    """One task: its image's address, what that is called, and the masks of its annotation, None where it has none."""

    id: int
    address: str
    name: str
    regions: list[Region] | None
    left_out: Counter[str]


class TaskNotes:
    """Tasks in the file at `path`, of the project that `about` describes; notes of another one are dropped.

    Not for several threads. Raises InputError where the file cannot be had or is none of these.
    """

    def __init__(self, path: Path, about: str):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = sqlite3.connect(path, timeout=60)
            self._file.executescript(_TABLES)
            if self.get("about") != (mark := f"{FORM} {about}"):
                with self._file:
                    self._file.execute("DELETE FROM tasks")
                    self._file.execute("DELETE FROM notes")
                    self._set("about", mark)
        except (OSError, sqlite3.Error) as error:
            raise _failure(path, error) from None

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()

    def get(self, name: str) -> str | None:
        """A value that was noted with tasks, None where it was not."""
        row = self._file.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def keep(self, tasks: Iterable[TaskNote], **values: str) -> None:
        """Notes tasks, in place of what was known of them, and values, all or none of it."""
        rows = [(t.id, t.address, t.name, _written(t.regions), json.dumps(t.left_out) if t.left_out else None)
                for t in tasks]  # fmt: skip
        try:
            with self._file:
                # An image stays as it was fetched, unless the task shows another by now.
                self._file.executemany(
                    "INSERT INTO tasks (id, address, name, regions, left_out) VALUES (?, ?, ?, ?, ?) ON CONFLICT (id) "
                    "DO UPDATE SET path = CASE WHEN address = excluded.address THEN path END, "
                    "address = excluded.address, name = excluded.name, regions = excluded.regions, "
                    "left_out = excluded.left_out",
                    rows,
                )
                for name, value in values.items():
                    self._set(name, value)
        except sqlite3.Error as error:
            raise _failure(self.path, error) from None

    def keep_images(self, images: Iterable[tuple[int, Path, int, int]]) -> None:
        """Notes where the image of each task lies, and its width and height."""
        try:
            with self._file:
                self._file.executemany(
                    "UPDATE tasks SET path = ?, width = ?, height = ? WHERE id = ?",
                    [(str(path), width, height, task) for task, path, width, height in images],
                )
        except sqlite3.Error as error:
            raise _failure(self.path, error) from None

    def remove_others(self, tasks: Collection[int]) -> None:
        """Drops all tasks but these."""
        with self._file:
            gone = [(task,) for (task,) in self._file.execute("SELECT id FROM tasks") if task not in tasks]
            self._file.executemany("DELETE FROM tasks WHERE id = ?", gone)

    def count(self) -> int:
        """How many tasks there are."""
        return int(self._file.execute("SELECT count(*) FROM tasks").fetchone()[0])

    def newest(self) -> int:
        """The highest id of a task, 0 where there is none."""
        return int(self._file.execute("SELECT coalesce(max(id), 0) FROM tasks").fetchone()[0])

    def addresses(self) -> Iterator[dict[int, tuple[str, Path | None]]]:
        """{task: (its image's address, its file where that is known)}, in portions."""
        for rows in self._portions(_ADDRESSES):
            yield {task: (address, Path(path) if path else None) for task, address, path in rows}

    def annotated(self) -> list[int]:
        """The tasks with an annotation, by id."""
        found = self._file.execute("SELECT id FROM tasks WHERE regions IS NOT NULL ORDER BY id")
        return [task for (task,) in found]

    def labels(self) -> set[str]:
        """All labels that annotations have."""
        return {label for _, regions in self.annotations() for region in regions for label in region.labels}

    def left_out(self) -> Counter[str]:
        """What was left out of all annotations, by what it is."""
        counts: Counter[str] = Counter()
        for (text,) in self._file.execute("SELECT left_out FROM tasks WHERE left_out IS NOT NULL"):
            counts.update(json.loads(text))
        return counts

    def annotations(self) -> Iterator[tuple[int, list[Region]]]:
        """(task, the masks of its annotation) of every annotated task, by id."""
        for rows in self._portions(_REGIONS):
            for task, text in rows:
                yield task, _read(text)

    def images(self, annotated: bool) -> Iterator[ImageRecord]:
        """The images of the annotated tasks, or of the others, by id, which is that of the task.

        An image is called as it was before it was uploaded, where that is unique.
        """
        for rows in self._portions(_IMAGES, annotated=int(annotated)):
            for task, name, doubled, width, height, path in rows:
                yield ImageRecord(task, own_name(task, name) if doubled else name, width, height, Path(path))

    def _portions(self, query: str, **values: int) -> Iterator[list[tuple]]:
        """Rows by id, which comes first, so many at a time."""
        last = -1
        while rows := self._file.execute(query, {"last": last, "portion": PORTION, **values}).fetchall():
            yield rows
            last = rows[-1][0]

    def _set(self, name: str, value: str) -> None:
        self._file.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))


def images_noted(path: Path, about: str) -> Iterator[ImageRecord]:
    """The images of the tasks without an annotation, as `TaskNotes.images` has them."""
    with closing(TaskNotes(path, about)) as notes:
        yield from notes.images(annotated=False)


def own_name(task: int, name: str) -> str:
    """The name of a task's image where others are called the same."""
    return f"task-{task}/{PurePosixPath(name).name}"


def _written(regions: list[Region] | None) -> str | None:
    if regions is None:
        return None
    return json.dumps([[r.labels, r.width, r.height, r.rle["counts"].decode()] for r in regions])


def _read(text: str) -> list[Region]:
    return [
        Region(tuple(labels), {"size": [height, width], "counts": counts.encode()}, width, height)
        for labels, width, height, counts in json.loads(text)
    ]


def _failure(path: Path, error: Exception) -> InputError:
    # A full disk or a file that somebody holds may be otherwise the next time.
    kind = Unavailable if isinstance(error, sqlite3.OperationalError) else InputError
    return kind(path, "a file for the notes of a source project (remove it to begin anew)", error)
