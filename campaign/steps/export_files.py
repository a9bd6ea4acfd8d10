"""The files of an export: which images and masks go to which, written in one pass over many, in bounded memory.

All of them in this process, or some of them, as a job does: a file has the same bytes whoever writes it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from enum import Enum
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from campaign.certification.promise import digest_of
from campaign.dataset.choice import Division, Parts, class_part
from campaign.dataset.export import CocoFile, coco_file
from campaign.dataset.listed import PIECE, ListedMasks
from campaign.dataset.polygons import PolygonLoss
from campaign.dataset.statistics import Tally
from campaign.dataset.tables import GROUP, ParquetFile, parquet_file
from campaign.steps.export_images import ExportedImage, ExportedImages
from ml_backend.errors import InputError

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

    @property
    def by_images(self) -> bool:
        """Whether so many images each have a file of their own."""
        return self.parts is not None and self.parts.images is not None

    def yolo_part(self, part: int) -> str:
        """The folder of a part: YOLO knows no data set without one to train on."""
        return "train" if self.division is None else self.division.names[part]


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

    files: Sequence[Path | str]
    parts: dict[str, int]
    loss: PolygonLoss | None = None


@dataclass(frozen=True)
class Layout:
    """The parts of an export by their numbers, and which are written in one pass where one process writes all."""

    names: list[str]
    blocks: list[range]

    @classmethod
    def of(cls, form: Form, classes: dict[int, str], images: int) -> Layout:
        """The parts of an export of these classes over so many images."""
        names = [WHOLE]
        if form.division is not None:
            names = list(form.division.names)
        elif form.by_class:
            names = [class_part(number, name) for number, name in classes.items()]
        elif form.parts is not None and form.parts.images is not None:
            names = [f"{n + 1:05d}" for n in range(-(-images // form.parts.images))]
        return cls.over(form, names)

    @classmethod
    def over(cls, form: Form, names: list[str]) -> Layout:
        """The layout of these parts."""
        length = 1 if form.by_images else OPEN  # by images one after the other, as the images come
        return cls(names, [range(n, min(n + length, len(names))) for n in range(0, len(names), length)])

    def together(self, number: int) -> int:
        """How many parts one process that writes all writes together with this one."""
        return next(len(block) for block in self.blocks if number in block)

    def file(self, path: Path, number: int) -> Path:
        """The file of a part of the export to `path`."""
        name = self.names[number]
        return path if name == WHOLE else path.with_name(f"{path.stem}-{name}{path.suffix}")

    def files(self, path: Path) -> list[Path]:
        """The files of all parts."""
        return [self.file(path, number) for number in range(len(self.names))]


def write(
    path: Path, form: Form, masks: ListedMasks, images: ExportedImages, said: Said, tally: Tally,
    report: Report | None = None,
) -> Written:  # fmt: skip
    """Writes masks on images by the campaign's ids, counting them in `tally`."""
    layout = Layout.of(form, said.classes, len(images))
    own = PlacedMasks.of(form, masks, images, said.classes)
    counts = np.bincount(own.part, minlength=len(layout.names))
    files = layout.files(path)
    written = Written(files, dict(zip(layout.names, counts.tolist(), strict=True)))
    if form.format == Format.YOLO:
        return replace(written, files=[path], loss=_write_yolo(path, form, own.masks, images, said, tally))
    if form.parts is not None:
        refuse_beside(path.parent, other_parts(path, (file.name for file in path.parent.glob("*")), files))
    writer = PartWriter(path, form, layout, said, tally, report, len(masks))
    order, ends = np.argsort(own.part, kind="stable"), np.cumsum(counts)
    each = groupby(images.each(), key=lambda image: image.part)  # read where parts come as the images do
    for block in layout.blocks:
        rows = np.sort(order[ends[block[0]] - counts[block[0]] : ends[block[-1]]])
        writer.write(block, next(each)[1] if form.by_images else images.each(), own.select(rows))
    return replace(written, loss=writer.loss)


def other_parts(path: Path, names: Iterable[str], files: Collection[Path]) -> list[str]:
    """Those of the names that are of parts of an export to `path` beside `files`: who reads all reads masks twice."""
    part = re.compile(rf"{re.escape(path.stem)}-\d+(-\w[\w-]*)?{re.escape(path.suffix)}")
    own = {file.name for file in files}
    return sorted(name for name in names if part.fullmatch(name) and name not in own)


def refuse_beside(place: object, others: Sequence[str]) -> None:
    """Raises InputError where there are parts of another export at a place."""
    if others:
        got = f"{others[0]} and {len(others) - 1} others" if len(others) > 1 else others[0]
        raise InputError(place, "no parts of another export beside these", got)


@dataclass(frozen=True)
class PlacedMasks:
    """n masks on images by the ids in the files, with the campaign's ids of the images and the parts' numbers, (n,)."""

    masks: ListedMasks
    campaign_image: np.ndarray
    part: np.ndarray

    @classmethod
    def of(cls, form: Form, masks: ListedMasks, images: ExportedImages, classes: dict[int, str]) -> PlacedMasks:
        """Masks on images by the campaign's ids, placed."""
        in_file = masks.on_images(images.ids_in_file(masks.image_id))
        if not form.by_class:
            return cls(in_file, masks.image_id, images.parts_of(masks.image_id))
        ids = np.array(list(classes), np.int64)
        order = np.argsort(ids)
        return cls(in_file, masks.image_id, order[np.searchsorted(ids[order], masks.class_id)])

    def select(self, rows: np.ndarray) -> PlacedMasks:
        """Some of them, in this order."""
        return PlacedMasks(self.masks.select(rows), self.campaign_image[rows], self.part[rows])


class PartWriter:
    """Writes parts of an export, `total` masks of it, counting what passes in `tally`; `losses` are by part."""

    def __init__(
        self, path: Path, form: Form, layout: Layout, said: Said, tally: Tally, report: Report | None, total: int
    ):  # fmt: skip
        self.path, self.form, self.layout, self.said, self.tally = path, form, layout, said, tally
        self.report, self.done, self.total = report, 0, total
        self.classes = list(said.classes)
        self.losses: dict[int, PolygonLoss] = {}

    @property
    def loss(self) -> PolygonLoss | None:
        """What polygons lost in all parts that were written."""
        return reduce(PolygonLoss.with_, self.losses.values()) if self.losses else None

    def write(self, numbers: Sequence[int], images: Iterable[ExportedImage], own: PlacedMasks) -> None:
        """Writes the files of some parts, whose masks these are, in one pass over images and one over masks."""
        with ExitStack() as stack:
            opened = {n: self._open(n, own.masks.mask_id[own.part == n]) for n in numbers}
            files = {n: stack.enter_context(file) for n, file in opened.items()}
            wanted = self._wanted(own)
            for image in images:
                for number in wanted(image):
                    files[number].add_image(image.row)
            for start in range(0, len(own.part), PIECE):
                rows = slice(start, start + PIECE)
                piece, part = own.masks.read(rows), own.part[rows]
                for number in np.unique(part).tolist():
                    files[number].add(piece.select(part == number))
                self.tally.add(piece)
                self.done += len(piece)
                if self.report:
                    self.report(self.done, self.total)

    def _wanted(self, own: PlacedMasks) -> Callable[[ExportedImage], Sequence[int]]:
        """Which files an image goes to: that of its part, those of the classes that have masks on it."""
        if not self.form.by_class:
            return lambda image: (image.part,)
        order = np.lexsort((own.part, own.campaign_image))
        image_id, part = own.campaign_image[order], own.part[order]
        first = np.ones(len(order), bool)
        first[1:] = (image_id[1:] != image_id[:-1]) | (part[1:] != part[:-1])
        image_id, part = image_id[first], part[first]

        def wanted(image: ExportedImage) -> Sequence[int]:
            start, end = np.searchsorted(image_id, (image.id, image.id + 1)).tolist()
            return part[start:end].tolist()  # type: ignore[no-any-return]

        return wanted

    def _open(self, number: int, mask_ids: np.ndarray) -> AbstractContextManager[CocoFile | ParquetFile]:
        """The file of a part that has these masks."""
        file, only = self.layout.file(self.path, number), self.said.classes
        whole = self.layout.names[number] == WHOLE
        info = self.said.together if whole else self._part_info(number, mask_ids)
        if self.form.by_class:
            only = {self.classes[number]: only[self.classes[number]]}
        if self.form.format == Format.PARQUET:
            together = self.layout.together(number)
            group = GROUP if together <= FEW else max(GROUP // together, LEAST)
            return parquet_file(file, only, info | {"licenses": self.said.licenses}, group)
        loss = None
        if self.form.polygons:
            loss = self.losses[number] = PolygonLoss()
        categories = [row for row in self.said.categories if row["id"] in only]
        return coco_file(file, categories, info=info, licenses=self.said.licenses, polygons=loss)

    def _part_info(self, number: int, mask_ids: np.ndarray) -> dict[str, Any]:
        together = self.said.together
        spoken = {k: together[k] for k in ("promise", "recall", "certificate") if k in together}
        part: dict[str, Any] = {"part": self.layout.names[number]}
        if self.form.division is not None:
            part["shares"] = dict(zip(self.form.division.names, self.form.division.shares, strict=True))
        else:
            part |= {"of": len(self.layout.names), "by": "class" if self.form.by_class else "images"}
        if spoken:
            part["of_all_parts_together"] = spoken
        own = {k: v for k, v in self.said.info.items() if k not in spoken}
        name = "split" if self.form.division is not None else "parts"
        return own | {"masks_digest": digest_of(mask_ids), name: part}


def _write_yolo(
    path: Path, form: Form, listed: ListedMasks, exported: ExportedImages, said: Said, tally: Tally
) -> PolygonLoss:  # fmt: skip
    from campaign.dataset.yolo import export_yolo

    images = list(exported.each())
    parts = {image.row["id"]: form.yolo_part(image.part) for image in images}
    masks = listed.read()
    tally.add(masks)
    rows = [image.row for image in images]
    return export_yolo(path, masks, rows, said.classes, parts, said.together)
