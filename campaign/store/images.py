"""What the store holds of images and classes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from sqlalchemy import func, select

from campaign.settings import Split
from campaign.store import models as m
from campaign.store.sessions import Sessions, portions
from ml_backend.masks.coco import CocoDataset, ImageRecord, SourceFields, write_json

FIELDS_FILE = "pool-fields.json"


class Images:
    """Part of `Store`: the images of every split; their ids are the campaign's own."""

    def __init__(self, sessions: Sessions, folder: Path):
        self._sessions, self._folder = sessions, folder
        self._classes: dict[int, str] = {}

    def records(self, split: Split | None = None) -> list[ImageRecord]:
        """Images of a split, or all, by id."""
        return [_record(row) for row in self.rows(split)]

    def rows(self, split: Split | None = None) -> list[m.Image]:
        """Rows of the images, with the ids of the files and of the source project's tasks."""
        with self._sessions() as session:
            query = select(m.Image).order_by(m.Image.id)
            return list(session.scalars(query if split is None else query.where(m.Image.split == split)))

    def count(self, split: Split) -> int:
        """How many images a split has."""
        with self._sessions() as session:
            return session.scalar(select(func.count()).select_from(m.Image).where(m.Image.split == split)) or 0

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
        if images and path.exists():
            # File names may repeat between folders, so images keep the paths in the database.
            data.annotations = CocoDataset.load_annotations(path, images, data.classes)
        return data

    def save_fields(self, fields: SourceFields) -> None:
        """Keeps what the pool's file says of licences, images and categories, for the export."""
        if fields:
            write_json(self._folder / FIELDS_FILE, asdict(fields))

    def fields(self) -> SourceFields:
        """What the pool's file said; nothing in campaigns of earlier releases. Images go by their id in that file."""
        path = self._folder / FIELDS_FILE
        if not path.exists():
            return SourceFields()
        known = json.loads(path.read_text(encoding="utf-8"))
        images, categories = ({int(k): v for k, v in known[name].items()} for name in ("images", "categories"))
        return SourceFields(known["info"], known["licenses"], images, categories)


def _record(row: m.Image) -> ImageRecord:
    return ImageRecord(row.id, row.file_name, row.width, row.height, Path(row.path))
