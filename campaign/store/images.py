"""What the store holds of images and classes."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, astuple, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from campaign.settings import Split
from campaign.store import models as m
from campaign.store.objects import Files
from campaign.store.sessions import Sessions, portions
from campaign.store.values import Key
from ml_backend.errors import InputError
from ml_backend.files import whole_file
from ml_backend.masks.coco import CocoDataset, ImageRecord, SourceFields, write_json
from ml_backend.masks.coco_stream import ImageStream
from ml_backend.masks.fetched import file_of, place_of

FIELDS_FILE, IMAGE_FIELDS_FILE = "pool-fields.json", "pool-image-fields.jsonl"
Row = tuple[ImageRecord, dict[str, Any]]  # an image and what its file says further of it
PORTION = 5_000  # images that are added together
PAGE = 10_000  # rows of one query


@dataclass(frozen=True)
class Batch:
    """Images that came into a split together: `count` ids from `first` on, which `round` is the first to detect."""

    first: int
    count: int
    round: int = 0


class Images:
    """Part of `Store`: the images of every split; their ids are the campaign's own."""

    def __init__(self, sessions: Sessions, files: Files, folder: Path):
        self._sessions, self._files, self._folder = sessions, files, folder
        self._classes: dict[int, str] = {}

    def records(self, split: Split | None = None) -> list[ImageRecord]:
        """Images of a split, or all, by id."""
        return [_record(row) for row in self.rows(split)]

    def rows(self, split: Split | None = None) -> list[m.Image]:
        """Rows of the images, with the ids of the files and of the source project's tasks."""
        with self._sessions() as session:
            query = select(m.Image).order_by(m.Image.id)
            return list(session.scalars(query if split is None else query.where(m.Image.split == split)))

    def batches(self, split: Split = "pool", round_number: int | None = None) -> list[Batch]:
        """The batches in which a split's images came, in their order; of the pool those that a round detects, or all.

        Ids follow each other within a batch.
        """
        with self._sessions() as session:
            known = session.get(m.Meta, Key.BATCHES.value) if split == "pool" else None
            if known is None:  # of campaigns of before there is one, and of the other splits there is never another
                first, count = session.execute(
                    select(func.min(m.Image.id), func.count()).where(m.Image.split == split)
                ).one()
                return [Batch(first, count)] if count else []
        found = [Batch(*values) for values in known.value["batches"]]
        return [batch for batch in found if round_number is None or batch.round <= round_number]

    def save_batches(self, session: Session, batches: Sequence[Batch]) -> None:
        """Notes in which batches the pool's images came, as a part of a transaction."""
        session.merge(m.Meta(name=Key.BATCHES.value, value={"batches": [list(astuple(b)) for b in batches]}))

    def count_shards(self, split: Split, length: int, round_number: int) -> int:
        """How many shards of at most `length` images a round has of a split; no shard holds images of two batches."""
        return sum(-(-batch.count // length) for batch in self.batches(split, round_number))

    def shard(self, split: Split, number: int, length: int, round_number: int) -> list[ImageRecord]:
        """The images of one shard of a round, by id; none beyond the last."""
        for batch in self.batches(split, round_number):
            shards = -(-batch.count // length)
            if number < shards:
                start = batch.first + number * length
                end = min(start + length, batch.first + batch.count)
                query = select(m.Image).where(m.Image.id >= start, m.Image.id < end).order_by(m.Image.id)
                with self._sessions() as session:
                    return [_record(row) for row in session.scalars(query)]
            number -= shards
        return []

    def shard_of(self, image_id: int, length: int, round_number: int) -> int | None:
        """The number of the shard of a round in which an image of the pool is; None where it is in none."""
        before = 0
        for batch in self.batches("pool", round_number):
            if batch.first <= image_id < batch.first + batch.count:
                return before + (image_id - batch.first) // length
            before += -(-batch.count // length)
        return None

    def in_pages(self, split: Split, length: int = PAGE) -> Iterator[m.Image]:
        """Rows of a split by id, read in pages: for all images of it, however many, in the memory of one page."""
        last = -1
        while True:
            query = select(m.Image).where(m.Image.split == split, m.Image.id > last)
            with self._sessions() as session:
                rows = list(session.scalars(query.order_by(m.Image.id).limit(length)))
            yield from rows
            if len(rows) < length:
                return
            last = rows[-1].id

    def count(self, split: Split) -> int:
        """How many images a split has."""
        with self._sessions() as session:
            return session.scalar(select(func.count()).select_from(m.Image).where(m.Image.split == split)) or 0

    def ids(self, split: Split, column: str = "id") -> np.ndarray:
        """The ids of a split's images, or another column of whole numbers, by id, (n,) int64; 0 where it is unset."""
        query = select(getattr(m.Image, column)).where(m.Image.split == split).order_by(m.Image.id)
        with self._sessions() as session:
            values = session.scalars(query.execution_options(yield_per=PAGE))
            return np.fromiter((value or 0 for value in values), np.int64)

    def newest(self) -> int:
        """The highest id of an image, 0 where there is none."""
        with self._sessions() as session:
            return session.scalar(select(func.max(m.Image.id))) or 0

    def of_tasks(self, tasks: Collection[int]) -> dict[int, m.Image]:
        """{task of the source project: its image of the pool}; tasks that have none are left out."""
        with self._sessions() as session:
            query = select(m.Image).where(m.Image.split == "pool")
            return {
                int(row.source_task or 0): row
                for part in portions(sorted(set(tasks)))
                for row in session.scalars(query.where(m.Image.source_task.in_(part)))
            }

    def get(self, image_id: int) -> ImageRecord:
        """One image. Raises KeyError for an unknown id."""
        return self.some([image_id])[image_id]

    def some(self, image_ids: list[int]) -> dict[int, ImageRecord]:
        """Images by their ids. Raises KeyError for an unknown id."""
        images: dict[int, ImageRecord] = {}
        with self._sessions() as session:
            for part in portions(sorted(set(image_ids))):
                images |= {r.id: _record(r) for r in session.scalars(select(m.Image).where(m.Image.id.in_(part)))}
        for image_id in image_ids:
            if image_id not in images:
                raise KeyError(image_id)
        return images

    def classes(self) -> dict[int, str]:
        """{category id: name}, by id; they are set once, when the campaign is made."""
        if not self._classes:
            with self._sessions() as session:
                rows = session.scalars(select(m.ClassName).order_by(m.ClassName.id))
                self._classes = {row.id: row.name for row in rows}
        return dict(self._classes)

    def annotated(self, split: Split) -> CocoDataset:
        """The `labelled` or `heldout` data set, with the campaign's image ids; empty where it has no images."""
        images = self.records(split)
        data = CocoDataset(images, self.classes())
        path = self._folder / f"{split}.json"
        if images and self._files.has(path):
            # File names may repeat between folders, so images keep the paths in the database.
            data.annotations = CocoDataset.load_annotations(self._files.local(path), images, data.classes)
        return data

    def add(
        self, session: Session, split: Split, rows: Iterable[Row], first: int, elsewhere: Mapping[str, str],
        are_tasks: bool = False,
    ) -> int:  # fmt: skip
        """Adds images to a split, numbered from `first` on, in portions; returns how many, as a part of a transaction.

        With `are_tasks` the images' own ids are those of the source project's tasks. What the pool's file says further
        of its images goes into a file. Raises InputError for an image whose file is `elsewhere`, {path: split}.
        """
        number = first
        with self._field_lines(split, first) as lines:
            for portion in _portions(rows):
                values, places = [], [place_of(image.path) for image, _ in portion]
                for (image, _), place in zip(portion, places, strict=True):
                    if place in elsewhere:
                        got = f"it in {elsewhere[place]} and {split}"
                        raise InputError(image.file_name, "an image in one split only", got)
                for (image, further), path in zip(portion, self._files.shared(places, number), strict=True):
                    values.append(
                        {
                            "id": number, "split": split, "coco_id": image.id, "file_name": image.file_name,
                            "path": path, "width": image.width, "height": image.height,
                            "source_task": image.id if are_tasks else None,
                        }
                    )  # fmt: skip
                    if further and lines is not None:
                        lines.write(json.dumps({"image": number, "fields": further}) + "\n")
                    number += 1
                session.execute(insert(m.Image), values)
        if split == "pool" and (said := self._folder / IMAGE_FIELDS_FILE).exists():
            with self._files.published(said, within=session):
                pass
        return number - first

    @contextmanager
    def _field_lines(self, split: Split, first: int) -> Iterator[IO[str] | None]:
        """The file of the further fields of the pool's images, to be added to from an image on; whole or as it was.

        What is there of such images already was left by a transaction that came to nothing.
        """
        if split != "pool":
            yield None
            return
        path = self._folder / IMAGE_FIELDS_FILE
        before = self._files.local(path) if self._files.has(path) else None
        with whole_file(path) as lines:
            if before is not None:
                with before.open(encoding="utf-8") as known:
                    lines.writelines(line for line in known if json.loads(line)["image"] < first)
            yield lines
        if not path.stat().st_size:
            path.unlink()

    def save_fields(self, fields: SourceFields) -> list[Path]:
        """Keeps what the pool's file says of licences and categories, for the export; returns what was written."""
        if not (fields.info or fields.licenses or fields.categories):
            return []
        write_json(self._folder / FIELDS_FILE, asdict(replace(fields, images={})))
        return [self._folder / FIELDS_FILE]

    def fields(self) -> SourceFields:
        """What the pool's file said, but of its images; nothing in campaigns of earlier releases."""
        known = self._fields()
        categories = {int(k): v for k, v in known.get("categories", {}).items()}
        return SourceFields(known.get("info", {}), known.get("licenses", []), {}, categories)

    def _fields(self) -> dict[str, Any]:
        path = self._folder / FIELDS_FILE
        return json.loads(self._files.local(path).read_text(encoding="utf-8")) if self._files.has(path) else {}

    def with_fields(self, ids: Sequence[int] | None = None) -> Iterator[tuple[m.Image, dict[str, Any]]]:
        """Each image of the pool with what its file said further of it, by id, in the memory of one page.

        With `ids`, which rise, those of them alone.
        """
        # Campaigns of before kept what was said of all images together.
        together = {int(k): v for k, v in self._fields().get("images", {}).items()}
        path = self._folder / IMAGE_FIELDS_FILE
        with self._files.local(path).open(encoding="utf-8") if self._files.has(path) else nullcontext(()) as lines:
            said = (json.loads(line) for line in lines)
            newest = next(said, None)
            for row in self.in_pages("pool") if ids is None else self._of_pool(ids):
                further = together.get(row.coco_id, {})
                while newest is not None and newest["image"] < row.id:
                    newest = next(said, None)
                if newest is not None and newest["image"] == row.id:
                    further = newest["fields"]
                yield row, further

    def _of_pool(self, ids: Sequence[int]) -> Iterator[m.Image]:
        for part in portions(list(ids)):
            query = select(m.Image).where(m.Image.split == "pool", m.Image.id.in_(part)).order_by(m.Image.id)
            with self._sessions() as session:
                rows = list(session.scalars(query))
            yield from rows


def rows_of(data: CocoDataset | ImageStream) -> Iterator[Row]:
    """The images of a data set or a stream, each with its further fields."""
    if isinstance(data, CocoDataset):
        return ((image, data.fields.images.get(image.id, {})) for image in data.images)
    return data.rows()


def _portions(rows: Iterable[Row]) -> Iterator[list[Row]]:
    iterator = iter(rows)
    while portion := list(islice(iterator, PORTION)):
        yield portion


def _record(row: m.Image) -> ImageRecord:
    return ImageRecord(row.id, row.file_name, row.width, row.height, file_of(row.path), coco_id=row.coco_id)
