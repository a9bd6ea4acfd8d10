"""The images of an export: all that the campaign's pool holds, or those of some parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from campaign.dataset.choice import Division
from campaign.store import Store
from campaign.store import models as m
from ml_backend.masks.fetched import file_of


class ExportedImage(NamedTuple):
    """An image of the pool: the campaign's id, where its file lies, the number of its part, and COCO's row of it."""

    id: int
    path: Path
    part: int
    row: dict[str, Any]


class ExportedImages:
    """The pool's images as an export writes them, read anew from the store each time they are gone through.

    Their parts are those of a division, or of `length` images each. `first` has names by which images go to a part
    instead of their own, `left_out` images that are not exported.
    """

    def __init__(
        self, store: Store, division: Division | None, length: int | None, first: dict[int, str],
        left_out: frozenset[int],
    ):  # fmt: skip
        self._store, self._division, self._length = store, division, length
        self._first, self._left_out = first, left_out

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """COCO's rows, by the campaign's ids."""
        return (image.row for image in self.each())

    def __len__(self) -> int:
        """How many there are."""
        return len(self.ids())

    def each(self) -> Iterator[ExportedImage]:
        """The images, by the campaign's ids. Without parts by image, each is in part 0."""
        division, length, count = self._division, self._length, 0
        for r, further in self._store.images.with_fields():
            if r.id in self._left_out:
                continue
            part = 0 if length is None else count // length
            if division is not None:
                part = division.names.index(division.part_of(self._first.get(r.id, r.file_name)))
            yield _exported(r, further, part)
            count += 1

    def ids(self) -> np.ndarray:
        """The campaign's ids of the images, rising, (n,) int64."""
        pool = self._store.images.ids("pool")
        return pool[~np.isin(pool, list(self._left_out))]

    def ids_in_file(self, image_id: np.ndarray) -> np.ndarray:
        """The ids in the pool's file of images by the campaign's, (n,) int64."""
        own = self._store.images.ids("pool")
        return self._store.images.ids("pool", "coco_id")[np.searchsorted(own, image_id)]

    def parts_of(self, image_id: np.ndarray) -> np.ndarray:
        """The number of the part of each of these images, (n,) int32."""
        if self._division is None and self._length is None:
            return np.zeros(len(image_id), np.int32)
        found = (value for image in self.each() for value in (image.id, image.part))
        places = np.fromiter(found, np.int64).reshape(-1, 2)
        return places[np.searchsorted(places[:, 0], image_id), 1].astype(np.int32)


class SomeImages:
    """Some of the pool's images as an export writes them: those of `ids`, rising, each in its `part`; (n,) each."""

    def __init__(self, store: Store, ids: np.ndarray, part: np.ndarray):
        self._store, self._ids, self._part = store, ids, part

    def each(self) -> Iterator[ExportedImage]:
        """The images, by the campaign's ids."""
        parts = dict(zip(self._ids.tolist(), self._part.tolist(), strict=True))
        for row, further in self._store.images.with_fields(list(parts)):
            yield _exported(row, further, parts[row.id])


def _exported(row: m.Image, further: dict[str, Any], part: int) -> ExportedImage:
    said = further | {"id": row.coco_id, "file_name": row.file_name, "width": row.width, "height": row.height}
    task = {"source_task": row.source_task} if row.source_task else {}
    return ExportedImage(row.id, file_of(row.path), part, said | task)
