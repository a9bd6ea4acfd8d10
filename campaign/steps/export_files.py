"""The files of an export: which images and masks go to which, written in one pass over many, in bounded memory."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from enum import Enum
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from campaign.certification.promise import digest_of
from campaign.dataset.choice import Division, Parts, class_part
from campaign.dataset.export import CocoFile, coco_file
from campaign.dataset.listed import PIECE, ListedMasks
from campaign.dataset.polygons import PolygonLoss
from campaign.dataset.statistics import Tally
from campaign.dataset.tables import GROUP, ParquetFile, parquet_file
from campaign.store import Store
from ml_backend.errors import InputError
from ml_backend.masks.fetched import file_of

WHOLE = "all"  # the part of every image where nothing is divided
OPEN = 256  # files written at the same time, at most
FEW, LEAST = 4, 1024  # Parquet files with row groups of full size; masks in those of more that are written together

Report = Callable[[int, int], None]


class Format(str, Enum):
    """What an export is written as."""

    COCO = "coco"
    YOLO = "yolo"
    PARQUET = "parquet"


@dataclass(frozen=True)
class Form:
    """How an export is written.

    polygons: COCO with polygons instead of RLE. division: parts by image, each a file of its own (in YOLO a folder of
    its own). copy_images: the images too, below `images/`. parts: a file for each class, or for so many images.
    """

    format: Format = Format.COCO
    polygons: bool = False
    division: Division | None = None
    copy_images: bool = False
    parts: Parts | None = None

    def check(self) -> None:
        """Raises InputError for what does not go together."""
        if self.polygons and self.format != Format.COCO:
            raise InputError("polygons", "the format coco", self.format.value)
        if self.parts is not None and self.format == Format.YOLO:
            raise InputError("parts", "the format coco or parquet", self.format.value)
        if self.parts is not None and self.division is not None:
            raise InputError("parts", "no split with them", "/".join(map(str, self.division.shares)))

    @property
    def by_class(self) -> bool:
        """Whether each class has a file of its own."""
        return self.parts is not None and self.parts.images is None

    def yolo_part(self, part: int) -> str:
        """The folder of a part: YOLO knows no data set without one to train on."""
        return "train" if self.division is None else self.division.names[part]


class ExportedImage(NamedTuple):
    """An image of the pool: the campaign's id, where its file lies, the number of its part, and COCO's row of it."""

    id: int
    path: Path
    part: int
    row: dict[str, Any]


class ExportedImages:
    """The pool's images as an export writes them, read anew from the store each time they are gone through.

    `first` has names by which images go to a part instead of their own, `left_out` images that are not exported.
    """

    def __init__(self, store: Store, form: Form, first: dict[int, str], left_out: frozenset[int]):
        self._store, self._form, self._first, self._left_out = store, form, first, left_out

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """COCO's rows, by the campaign's ids."""
        return (image.row for image in self.each())

    def __len__(self) -> int:
        """How many there are."""
        pool = self._store.images.ids("pool")
        return len(pool) - int(np.isin(pool, list(self._left_out)).sum())

    def each(self) -> Iterator[ExportedImage]:
        """The images, by the campaign's ids. Of parts by class, every image is in part 0."""
        division, count = self._form.division, 0
        length = self._form.parts.images if self._form.parts is not None else None
        for r, further in self._store.images.with_fields():
            if r.id in self._left_out:
                continue
            part = 0 if length is None else count // length
            if division is not None:
                part = division.names.index(division.part_of(self._first.get(r.id, r.file_name)))
            row = further | {"id": r.coco_id, "file_name": r.file_name, "width": r.width, "height": r.height}
            yield ExportedImage(
                r.id, file_of(r.path), part, row | ({"source_task": r.source_task} if r.source_task else {})
            )  # fmt: skip
            count += 1

    def ids_in_file(self, image_id: np.ndarray) -> np.ndarray:
        """The ids in the pool's file of images by the campaign's, (n,) int64."""
        own = self._store.images.ids("pool")
        return self._store.images.ids("pool", "coco_id")[np.searchsorted(own, image_id)]

    def parts_of(self, image_id: np.ndarray) -> np.ndarray:
        """The number of the part of each of these images, (n,) int32."""
        if self._form.division is None and self._form.parts is None:
            return np.zeros(len(image_id), np.int32)
        found = (value for image in self.each() for value in (image.id, image.part))
        places = np.fromiter(found, np.int64).reshape(-1, 2)
        return places[np.searchsorted(places[:, 0], image_id), 1].astype(np.int32)


@dataclass(frozen=True)
class Said:
    """What files say beside images and masks; `categories` and `licenses` are COCO's rows, `classes` {id: name}."""

    info: dict[str, Any]
    certificate: dict[str, Any] | None
    licenses: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    classes: dict[int, str]

    @property
    def together(self) -> dict[str, Any]:
        """The info with the certificate."""
        return self.info | ({"certificate": self.certificate} if self.certificate else {})


@dataclass(frozen=True)
class Written:
    """The files that were written, the masks of each part, and what polygons lost."""

    files: list[Path]
    parts: dict[str, int]
    loss: PolygonLoss | None = None


def write(
    path: Path, form: Form, masks: ListedMasks, images: ExportedImages, said: Said, tally: Tally,
    report: Report | None = None,
) -> Written:  # fmt: skip
    """Writes masks on images by the campaign's ids, counting them in `tally`."""
    return _Writer(path, form, masks, images, said, tally, report).write()


def other_parts(path: Path, files: Collection[Path]) -> list[Path]:
    """Parts of an export to `path` that are there and not among `files`: who reads all of them reads masks twice."""
    part = re.compile(rf"{re.escape(path.stem)}-\d+(-\w[\w-]*)?{re.escape(path.suffix)}")
    there = path.parent.iterdir() if path.parent.is_dir() else ()
    return sorted(file for file in there if part.fullmatch(file.name) and file not in files)


class _Writer:
    """Writes the files of one export; `part` is the number of the part of each mask, (n,)."""

    def __init__(
        self, path: Path, form: Form, masks: ListedMasks, images: ExportedImages, said: Said, tally: Tally,
        report: Report | None,
    ):  # fmt: skip
        self.path, self.form, self.images, self.said, self.tally = path, form, images, said, tally
        self.report, self.done = report, 0
        self.campaign_image, self.masks = masks.image_id, masks.on_images(images.ids_in_file(masks.image_id))
        self.classes = np.array(list(said.classes), np.int64)
        if form.by_class:
            order = np.argsort(self.classes)
            self.part = order[np.searchsorted(self.classes[order], masks.class_id)]
        else:
            self.part = images.parts_of(masks.image_id)
        self.names = self._names()
        self.losses: list[PolygonLoss] = []

    def write(self) -> Written:
        """Writes them all."""
        counts = np.bincount(self.part, minlength=len(self.names))
        written = Written(
            [self._file(name) for name in self.names], dict(zip(self.names, counts.tolist(), strict=True))
        )
        if self.form.format == Format.YOLO:
            return replace(written, files=[self.path], loss=self._write_yolo())
        if self.form.parts is not None and (others := other_parts(self.path, written.files)):
            got = f"{others[0].name} and {len(others) - 1} others" if len(others) > 1 else others[0].name
            raise InputError(self.path.parent, "no parts of another export beside these", got)
        ends, order = np.cumsum(counts), np.argsort(self.part, kind="stable")
        if self.form.parts is not None and not self.form.by_class:  # one after the other, as the images come
            for number, images in groupby(self.images.each(), key=lambda image: image.part):
                self._write_together([number], images, order[ends[number] - counts[number] : ends[number]])
        else:
            for first in range(0, len(self.names), OPEN):
                numbers = range(first, min(first + OPEN, len(self.names)))
                rows = np.sort(order[ends[first] - counts[first] : ends[numbers[-1]]])
                self._write_together(numbers, self.images.each(), rows)
        loss = reduce(PolygonLoss.with_, self.losses) if self.losses else None
        return replace(written, loss=loss)

    def _names(self) -> list[str]:
        """The parts by their numbers."""
        if self.form.division is not None:
            return list(self.form.division.names)
        if self.form.parts is None:
            return [WHOLE]
        if self.form.parts.images is None:
            return [class_part(number, name) for number, name in self.said.classes.items()]
        return [f"{n + 1:05d}" for n in range(-(-len(self.images) // self.form.parts.images))]

    def _file(self, part: str) -> Path:
        return self.path if part == WHOLE else self.path.with_name(f"{self.path.stem}-{part}{self.path.suffix}")

    def _write_together(self, numbers: Sequence[int], images: Iterable[ExportedImage], rows: np.ndarray) -> None:
        """Writes the files of some parts, whose masks are these rows, in one pass over images and one over masks."""
        with ExitStack() as stack:
            opened = {n: self._open(n, rows[self.part[rows] == n], len(numbers)) for n in numbers}
            files = {n: stack.enter_context(file) for n, file in opened.items()}
            wanted = self._wanted(rows)
            for image in images:
                for number in wanted(image):
                    files[number].add_image(image.row)
            for start in range(0, len(rows), PIECE):
                own = rows[start : start + PIECE]
                piece, part = self.masks.read(own), self.part[own]
                for number in np.unique(part).tolist():
                    files[number].add(piece.select(part == number))
                self.tally.add(piece)
                self.done += len(own)
                if self.report:
                    self.report(self.done, len(self.masks))

    def _wanted(self, rows: np.ndarray) -> Callable[[ExportedImage], Sequence[int]]:
        """Which files an image goes to: that of its part, those of the classes that have masks on it."""
        if not self.form.by_class:
            return lambda image: (image.part,)
        image_id, part = self.campaign_image[rows], self.part[rows]
        order = np.lexsort((part, image_id))
        image_id, part = image_id[order], part[order]
        first = np.ones(len(rows), bool)
        first[1:] = (image_id[1:] != image_id[:-1]) | (part[1:] != part[:-1])
        image_id, part = image_id[first], part[first]

        def wanted(image: ExportedImage) -> Sequence[int]:
            start, end = np.searchsorted(image_id, (image.id, image.id + 1)).tolist()
            return part[start:end].tolist()  # type: ignore[no-any-return]

        return wanted

    def _open(self, number: int, rows: np.ndarray, together: int) -> AbstractContextManager[CocoFile | ParquetFile]:
        """The file of a part that has these rows; so many files are written together."""
        name, only = self.names[number], self.said.classes
        info = self.said.together if name == WHOLE else self._part_info(number, rows)
        if self.form.by_class:
            only = {int(self.classes[number]): only[int(self.classes[number])]}
        if self.form.format == Format.PARQUET:
            group = GROUP if together <= FEW else max(GROUP // together, LEAST)
            return parquet_file(self._file(name), only, info | {"licenses": self.said.licenses}, group)
        if self.form.polygons:
            self.losses.append(PolygonLoss())
        loss = self.losses[-1] if self.form.polygons else None
        categories = [row for row in self.said.categories if row["id"] in only]
        return coco_file(self._file(name), categories, info=info, licenses=self.said.licenses, polygons=loss)

    def _part_info(self, number: int, rows: np.ndarray) -> dict[str, Any]:
        together = self.said.together
        spoken = {k: together[k] for k in ("promise", "recall", "certificate") if k in together}
        part: dict[str, Any] = {"part": self.names[number]}
        if self.form.division is not None:
            part["shares"] = dict(zip(self.form.division.names, self.form.division.shares, strict=True))
        else:
            part |= {"of": len(self.names), "by": "class" if self.form.by_class else "images"}
        if spoken:
            part["of_all_parts_together"] = spoken
        own = {k: v for k, v in self.said.info.items() if k not in spoken}
        name = "split" if self.form.division is not None else "parts"
        return own | {"masks_digest": digest_of(self.masks.mask_id[rows]), name: part}

    def _write_yolo(self) -> PolygonLoss:
        from campaign.dataset.yolo import export_yolo

        images = list(self.images.each())
        parts = {image.row["id"]: self.form.yolo_part(image.part) for image in images}
        masks = self.masks.read()
        self.tally.add(masks)
        rows = [image.row for image in images]
        return export_yolo(self.path, masks, rows, self.said.classes, parts, self.said.together)
