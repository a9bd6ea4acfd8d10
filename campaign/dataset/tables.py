"""The Parquet export: a row for each mask, with what it rests on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pycocotools import mask as mask_util

from campaign.dataset.export import ImageIds, source_of
from campaign.records.dataset_masks import DatasetMasks
from ml_backend.files import partial_file
from ml_backend.masks.rle import areas

GROUP = 1 << 16  # masks of a row group
SCHEMA = pa.schema(
    [
        ("mask_id", pa.int64()), ("image_id", pa.int64()), ("file_name", pa.string()), ("class_id", pa.int32()),
        ("class", pa.string()), ("height", pa.int32()), ("width", pa.int32()), ("rle", pa.string()),
        ("area", pa.int64()), ("bbox", pa.list_(pa.float64(), 4)), ("round", pa.int32()), ("cluster", pa.int64()),
        ("asked", pa.int32()), ("yes", pa.int32()), ("rule", pa.string()), ("source", pa.string()),
        ("model_version", pa.string()), ("score", pa.float32()), ("class_confidence", pa.float32()),
        ("predicted_iou", pa.float32()),
    ]
)  # fmt: skip


class ParquetFile:
    """A Parquet file that is written as it comes: first images, then masks in any number of pieces.

    Columns are those of a COCO annotation and of its `attributes`; `rle` holds the counts of the compressed RLE, whose
    size is `height` and `width`. The file's metadata has `info` and `images`, both JSON. Memory is that of `group`
    masks and one piece, and of the rows of the images.
    """

    def __init__(self, path: Path, classes: Mapping[int, str], info: Mapping[str, Any], group: int):
        self._path, self._classes, self._info, self._group = path, classes, info, group
        self._images, self._names, self._places = StringIO(), list[str](), ImageIds(1)
        self._writer: pq.ParquetWriter | None = None
        self._waiting = SCHEMA.empty_table()

    def add_image(self, row: Mapping[str, Any]) -> None:
        """Takes an image. It is to come before all masks."""
        self._images.write(", " if self._names else "")
        self._images.write(json.dumps(row))
        self._places.add(row["id"], len(self._names))
        self._names.append(str(row["file_name"]))

    def add(self, masks: DatasetMasks) -> None:
        """Writes masks, of images that were taken."""
        places = self._places.find(masks.image_id)[1][:, 0].tolist()
        table = pa.table(_columns(masks, [self._names[n] for n in places], self._classes), schema=SCHEMA)
        table = pa.concat_tables([self._waiting, table]) if len(self._waiting) else table
        while len(table) >= self._group:
            self._write(table.slice(0, self._group))
            table = table.slice(self._group)
        self._waiting = table

    def close(self) -> None:
        """Writes what is left."""
        if len(self._waiting) or self._writer is None:
            self._write(self._waiting)
        assert self._writer is not None
        self._writer.close()

    def _write(self, table: pa.Table) -> None:
        if self._writer is None:
            about = {"info": json.dumps(self._info), "images": f"[{self._images.getvalue()}]"}
            self._images = StringIO()
            self._writer = pq.ParquetWriter(self._path, SCHEMA.with_metadata(about), compression="zstd")
        # In one piece: where pages end follows from the chunks, and a file is to be the same however masks came.
        self._writer.write_table(table.combine_chunks())


@contextmanager
def parquet_file(
    path: Path, classes: Mapping[int, str], info: Mapping[str, Any], group: int = GROUP
) -> Iterator[ParquetFile]:
    """A Parquet file to write to, which becomes `path` where the block ends well.

    Args:
        path: the file to write.
        classes: {class id: name}.
        info: goes into the file's metadata.
        group: masks of a row group.

    Raises InputError where the file cannot be written. `path` is then as it was before, and nothing is left beside it.
    """
    with partial_file(path) as partial:
        table = ParquetFile(partial, classes, info, group)
        yield table
        table.close()


def _columns(masks: DatasetMasks, names: list[str], classes: Mapping[int, str]) -> dict[str, Any]:
    rles = masks.rles()
    return {
        "mask_id": masks.mask_id,
        "image_id": masks.image_id,
        "file_name": names,
        "class_id": masks.class_id,
        "class": [classes[c] for c in masks.class_id.tolist()],
        "height": masks.size[:, 0],
        "width": masks.size[:, 1],
        "rle": [rle["counts"].decode("ascii") for rle in rles],
        "area": areas(rles),
        "bbox": mask_util.toBbox(rles).tolist() if rles else [],
        "round": masks.round,
        "cluster": masks.cluster,
        "asked": masks.asked,
        "yes": masks.yes,
        "rule": masks.rule.tolist(),
        "source": [source_of(r, v) for r, v in zip(masks.rule.tolist(), masks.voted.tolist(), strict=True)],
        "model_version": masks.model_version.tolist(),
        "score": masks.score,
        "class_confidence": masks.confidence,
        "predicted_iou": masks.predicted_iou,
    }
