"""The images of a COCO file as a stream: a pool of any size is read in the memory of one image."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ml_backend.errors import InputError
from ml_backend.masks.coco import ImageRecord, SourceFields, classes_of, image_row, images_of, opened_coco
from ml_backend.masks.fetched import is_fetched
from ml_backend.masks.json_stream import JsonStream

_KEPT = ("categories", "info", "licenses")


class ImageStream(Protocol):
    """Images that are read one after the other, as often as they are asked for.

    `classes` are those of the data set, category id to name, `fields` what else its file says but of its images.
    """

    @property
    def classes(self) -> dict[int, str]:
        """Category id to name."""

    @property
    def fields(self) -> SourceFields:
        """What else the file says."""

    def rows(self) -> Iterator[tuple[ImageRecord, dict[str, Any]]]:
        """Each image with its further fields."""


@dataclass(frozen=True)
class CocoImages:
    """The images of the COCO file `path`, which lie in `folder`; its annotations are not looked at.

    Attributes:
        classes: category id to name.
        fields: what else the file says, but of its images; that `rows` has.
    """

    path: Path
    folder: Path
    classes: dict[int, str]
    fields: SourceFields = field(default_factory=SourceFields, compare=False)

    @classmethod
    def open(cls, path: str | Path, folder: str | Path) -> CocoImages:
        """The file at `path`, read once for its classes.

        Raises InputError where it is missing or no COCO object, or there is no class or no folder.
        """
        path, folder = Path(path), Path(folder)
        kept: dict[str, Any] = {}
        has_images = False
        for key, value, is_item in _members(path):
            if key == "images":
                has_images = True
                if not is_item:
                    raise InputError(path, "a COCO object with images", type(value).__name__)
            elif key == "annotations" and not is_item:
                raise InputError(path, "a list of annotations", type(value).__name__)
            elif key in _KEPT:
                if is_item:
                    kept.setdefault(key, []).append(value)
                else:
                    kept[key] = value
        if not has_images:
            raise InputError(path, "a COCO object with images", "none in it")
        if not folder.is_dir() and not is_fetched(folder):
            raise InputError(folder, "a folder of images", "no such folder")
        classes = classes_of(path, kept)
        return cls(path, folder, classes, SourceFields.parse(kept | {"images": []}))

    @property
    def images(self) -> Iterator[ImageRecord]:
        """The images, in the order of the file. Raises InputError like `rows`."""
        return (image for image, _ in self.rows())

    def rows(self) -> Iterator[tuple[ImageRecord, dict[str, Any]]]:
        """Each image with its further fields, in the order of the file.

        Raises InputError where an image is malformed, its id is doubled, or its file is outside the folder or missing.
        """
        ids, root = array("q"), self.folder.resolve()
        for key, row, _ in _members(self.path):
            if key != "images":
                if ids:
                    break
                continue
            image = next(iter(images_of(self.path, [row], self.folder, root)))
            ids.append(image.id)
            yield image, image_row(row)
        order = np.sort(np.frombuffer(ids, np.int64)) if ids else np.zeros(0, np.int64)
        if (doubled := order[1:][order[1:] == order[:-1]]).size:
            raise InputError(f"{self.path} images", "unique ids", f"id {int(doubled[0])} twice")


def _members(path: Path) -> Iterator[tuple[str, Any, bool]]:
    with opened_coco(path) as file:
        stream = JsonStream(file)
        if (kind := stream.kind()) != "{":
            raise InputError(path, "a COCO object with images", "a list" if kind == "[" else "another value")
        yield from stream.members()
