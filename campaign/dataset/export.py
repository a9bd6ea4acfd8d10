"""The COCO export: exact masks with what each rests on, written as a stream, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from pycocotools import mask as mask_util

from campaign.dataset.polygons import PolygonLoss, flat, outline
from campaign.records.dataset_masks import EDITED_RULE, DatasetMasks
from ml_backend.errors import InputError
from ml_backend.files import whole_file
from ml_backend.masks.coco import ImageRecord
from ml_backend.masks.rle import areas


def export_coco(  # noqa: PLR0913 - what a file says
    path: str | Path,
    masks: DatasetMasks | Iterable[DatasetMasks],
    images: Iterable[ImageRecord | Mapping[str, Any]],
    categories: Mapping[int, str] | Sequence[Mapping[str, Any]],
    *,
    info: Mapping[str, Any] | None = None,
    licenses: Sequence[Mapping[str, Any]] = (),
    certificate: Mapping[str, Any] | None = None,
    polygons: PolygonLoss | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Write the masks to `path` as one COCO file and return how many there are.

    Images, categories and licences keep their ids; rows that are mappings are written as they are. Annotations are
    numbered from 1 in the order of the masks, and each carries under `attributes` what it rests on: `mask_id`,
    `round`, `cluster`, `asked`, `yes`, `rule`, `source` ("voted yes", "propagated" or "edited"), `model_version`,
    `score`, `class_confidence` and `predicted_iou`. Masks may come in any number of pieces; memory is that of one
    piece.

    Args:
        path: the file to write.
        masks: what becomes annotations, whole or in pieces.
        images: all images of the export, also those without a mask.
        categories: {class id: name}, or COCO's own rows.
        licenses: COCO's own rows.
        info: goes into the file's `info`.
        certificate: what is known about the quality of the export; goes into `info` under "certificate".
        polygons: write polygons instead of RLE, and count here what they lose; it then stands in `info` too. A mask
            that no polygon stands for keeps its RLE.
        progress: called with the number of masks written so far, once per piece.

    Raises InputError where the file cannot be written or a mask is of an unknown image, of an unknown class or not
    of its image's size. `path` is then as it was before, and nothing is left beside it.
    """
    header = {"description": "Instance masks collected by cluster verification", **(info or {})}
    if certificate is not None:
        header["certificate"] = dict(certificate)
    sizes: dict[int, tuple[int, int]] = {}
    needed = set(np.unique(masks.image_id).tolist()) if isinstance(masks, DatasetMasks) else None
    if isinstance(categories, Mapping):
        categories = [{"id": int(k), "name": v} for k, v in categories.items()]
    classes = {int(c["id"]) for c in categories}

    def image_rows() -> Iterator[str]:
        for image in images:
            row = _image_row(image) if isinstance(image, ImageRecord) else image
            if needed is None or row["id"] in needed:
                sizes[row["id"]] = (row["height"], row["width"])
            yield _json(row)

    written = 0
    with whole_file(Path(path)) as file:
        # What polygons lose is known at the end alone.
        file.write("{" if polygons is not None else f'{{"info": {_json(header)},\n')
        file.write(f'"licenses": {_json(list(licenses))},\n')
        file.write(f'"categories": {_json(categories)},\n"images": [')
        _write_rows(file, image_rows())
        file.write('],\n"annotations": [')
        pieces = masks.chunks() if isinstance(masks, DatasetMasks) else masks
        for piece in pieces:
            if len(piece) == 0:
                continue
            _check(path, piece, sizes, classes)
            _write_rows(file, annotation_rows(piece, written + 1, polygons), first=written == 0)
            written += len(piece)
            if progress:
                progress(written)
        file.write("]")
        if polygons is not None:
            file.write(f',\n"info": {_json(header | {"polygons": polygons.as_dict()})}')
        file.write("}\n")
    return written


def annotation_rows(masks: DatasetMasks, first_id: int = 1, polygons: PolygonLoss | None = None) -> Iterator[str]:
    """The masks as COCO annotations, one JSON object each, numbered from `first_id`; see `export_coco`."""
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


def _check(path: str | Path, masks: DatasetMasks, sizes: dict[int, tuple[int, int]], classes: set[int]) -> None:
    rows = zip(masks.image_id.tolist(), masks.class_id.tolist(), masks.size.tolist(), strict=True)
    for number, (image, class_id, size) in enumerate(rows):
        if image not in sizes:
            raise InputError(f"{path} mask {masks.mask_id[number]}", "an image of the export", f"image {image}")
        if class_id not in classes:
            raise InputError(f"{path} mask {masks.mask_id[number]}", "a class of the export", f"class {class_id}")
        if tuple(size) != sizes[image]:
            want = f"its image's height and width {list(sizes[image])}"
            raise InputError(f"{path} mask {masks.mask_id[number]}", want, size)


def _image_row(image: ImageRecord) -> dict[str, Any]:
    return {"id": image.id, "file_name": image.file_name, "width": image.width, "height": image.height}


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
