"""The COCO export: exact masks with what each rests on, written as a stream, whole or not at all."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from pycocotools import mask as mask_util

from campaign.dataset.polygons import PolygonLoss, flat, outline
from campaign.records.dataset_masks import EDITED_RULE, DatasetMasks
from ml_backend.errors import InputError
from ml_backend.files import whole_file
from ml_backend.masks.rle import areas


class ImageIds:
    """Ids of images as they come, each with whole numbers (d,) of its own, in a few bytes an image."""

    def __init__(self, width: int):
        self._ids, self._values = array("q"), array("i")
        self._width = width
        self._sorted: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, image_id: int, *values: int) -> None:
        """Takes an image."""
        self._ids.append(image_id)
        self._values.extend(values)

    def find(self, image_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(known, values) of images, (n,) bool and (n, d); the values of unknown ones mean nothing."""
        if self._sorted is None:
            ids = np.array(self._ids, np.int64)
            order = np.argsort(ids, kind="stable")
            self._sorted = ids[order], np.array(self._values, np.int32).reshape(-1, self._width)[order]
        ids, values = self._sorted
        if not len(ids):
            return np.zeros(len(image_id), bool), np.zeros((len(image_id), self._width), np.int32)
        place = np.minimum(np.searchsorted(ids, image_id), len(ids) - 1)
        return ids[place] == image_id, values[place]


class CocoFile:
    """A COCO file that is written as it comes: first images, then masks in any number of pieces.

    Annotations are numbered from 1 in the order of the masks, and each carries under `attributes` what it rests on:
    `mask_id`, `round`, `cluster`, `asked`, `yes`, `rule`, `source` ("voted yes", "propagated" or "edited"),
    `model_version`, `score`, `class_confidence` and `predicted_iou`. Memory is that of one piece, and a few bytes for
    each image.
    """

    def __init__(
        self, path: Path, file: IO[str], categories: Sequence[Mapping[str, Any]], polygons: PolygonLoss | None
    ):  # fmt: skip
        self._path, self._file, self._polygons = path, file, polygons
        self._classes = {int(c["id"]) for c in categories}
        self._images, self._first_image = ImageIds(2), True
        self.written: int | None = None  # masks; None before the first piece

    def add_image(self, row: Mapping[str, Any]) -> None:
        """Writes an image. It is to come before all masks."""
        self._images.add(row["id"], row["height"], row["width"])
        _write_rows(self._file, [_json(row)], self._first_image)
        self._first_image = False

    def add(self, masks: DatasetMasks) -> None:
        """Writes masks. Raises InputError for one of an unknown image or class, or not of its image's size."""
        if self.written is None:
            self._file.write('],\n"annotations": [')
            self.written = 0
        for piece in masks.chunks():
            self._check(piece)
            _write_rows(self._file, annotation_rows(piece, self.written + 1, self._polygons), first=self.written == 0)
            self.written += len(piece)

    def _check(self, masks: DatasetMasks) -> None:
        known, sizes = self._images.find(masks.image_id)
        fits = known & np.isin(masks.class_id, list(self._classes)) & (masks.size == sizes).all(axis=1)
        if fits.all():
            return
        row = int(np.argmin(fits))
        thing, class_id = f"{self._path} mask {masks.mask_id[row]}", int(masks.class_id[row])
        if not known[row]:
            raise InputError(thing, "an image of the export", f"image {masks.image_id[row]}")
        if class_id not in self._classes:
            raise InputError(thing, "a class of the export", f"class {class_id}")
        raise InputError(thing, f"its image's height and width {sizes[row].tolist()}", masks.size[row].tolist())


@contextmanager
def coco_file(
    path: Path,
    categories: Sequence[Mapping[str, Any]],
    *,
    info: Mapping[str, Any] | None = None,
    licenses: Sequence[Mapping[str, Any]] = (),
    polygons: PolygonLoss | None = None,
) -> Iterator[CocoFile]:
    """A COCO file to write to, which becomes `path` where the block ends well.

    Args:
        path: the file to write.
        categories: COCO's own rows, also of classes without a mask.
        info: goes into the file's `info`.
        licenses: COCO's own rows.
        polygons: write polygons instead of RLE, and count here what they lose; it then stands in `info` too. A mask
            that no polygon stands for keeps its RLE.

    Raises InputError where the file cannot be written. `path` is then as it was before, and nothing is left beside it.
    """
    header = {"description": "Instance masks collected by cluster verification", **(info or {})}
    with whole_file(path) as file:
        # What polygons lose is known at the end alone.
        file.write("{" if polygons is not None else f'{{"info": {_json(header)},\n')
        file.write(f'"licenses": {_json(list(licenses))},\n')
        file.write(f'"categories": {_json(categories)},\n"images": [')
        coco = CocoFile(path, file, categories, polygons)
        yield coco
        coco.add(DatasetMasks.empty())
        file.write("]")
        if polygons is not None:
            file.write(f',\n"info": {_json(header | {"polygons": polygons.as_dict()})}')
        file.write("}\n")


def annotation_rows(masks: DatasetMasks, first_id: int = 1, polygons: PolygonLoss | None = None) -> Iterator[str]:
    """The masks as COCO annotations, one JSON object each, numbered from `first_id`; see `CocoFile`."""
    rles = masks.rles()
    columns = zip(
        rles,
        areas(rles).tolist(),
        mask_util.toBbox(rles).tolist() if rles else [],
        masks.mask_id.tolist(),
        masks.image_id.tolist(),
        masks.class_id.tolist(),
        masks.round.tolist(),
        masks.cluster.tolist(),
        masks.asked.tolist(),
        masks.yes.tolist(),
        masks.rule.tolist(),
        masks.voted.tolist(),
        masks.model_version.tolist(),
        _rounded(masks.score),
        _rounded(masks.confidence),
        _rounded(masks.predicted_iou),
        strict=True,
    )
    for number, row in enumerate(columns, first_id):
        rle, area, box, mask, image, class_id, round_number, cluster, asked, yes, rule, voted, version, *scores = row
        yield _json(
            {
                "id": number,
                "image_id": image,
                "category_id": class_id,
                "segmentation": _segmentation(rle, mask, polygons),
                "area": area,
                "bbox": box,
                "iscrowd": 0,
                "attributes": {
                    "mask_id": mask,
                    "round": round_number,
                    "cluster": cluster,
                    "asked": asked,
                    "yes": yes,
                    "rule": rule,
                    "source": source_of(rule, voted),
                    "model_version": version,
                    "score": scores[0],
                    "class_confidence": scores[1],
                    "predicted_iou": scores[2],
                },
            }
        )


def _segmentation(rle: dict[str, Any], mask_id: int, polygons: PolygonLoss | None) -> Any:
    if polygons is not None and polygons.add(mask_id, found := outline(rle)):
        return flat(found.rings)
    return {"size": rle["size"], "counts": rle["counts"].decode("ascii")}


def _write_rows(file: IO[str], rows: Iterable[str], first: bool = True) -> None:
    for row in rows:
        file.write("\n" if first else ",\n")
        file.write(row)
        first = False


def source_of(rule: str, voted: bool) -> str:
    """Where a mask comes from: "edited", "voted yes" or "propagated"."""
    if rule.startswith(EDITED_RULE):
        return "edited"
    return "voted yes" if voted else "propagated"


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(values.astype(np.float64), 6).tolist()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"expected a JSON value, got {type(value).__name__}")
