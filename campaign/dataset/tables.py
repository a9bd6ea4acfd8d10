"""The Parquet export: a row for each mask, with what it rests on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from campaign.dataset.export import source_of
from campaign.records.dataset_masks import DatasetMasks
from ml_backend.files import partial_file
from ml_backend.masks.rle import areas


def export_parquet(
    path: Path, masks: DatasetMasks, images: Iterable[Mapping[str, Any]], classes: Mapping[int, str],
    info: Mapping[str, Any],
) -> int:  # fmt: skip
    """Writes the masks as one Parquet file and returns how many there are.

    Columns are those of a COCO annotation and of its `attributes`; `rle` holds the counts of the compressed RLE, whose
    size is `height` and `width`. The file's metadata has `info` and `images`, both JSON. Raises InputError where the
    file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    needed = set(np.unique(masks.image_id).tolist())
    names = {int(row["id"]): str(row["file_name"]) for row in images if row["id"] in needed}
    schema = pa.schema(
        [
            ("mask_id", pa.int64()), ("image_id", pa.int64()), ("file_name", pa.string()), ("class_id", pa.int32()),
            ("class", pa.string()), ("height", pa.int32()), ("width", pa.int32()), ("rle", pa.string()),
            ("area", pa.int64()), ("bbox", pa.list_(pa.float64(), 4)), ("round", pa.int32()), ("cluster", pa.int64()),
            ("asked", pa.int32()), ("yes", pa.int32()), ("rule", pa.string()), ("source", pa.string()),
            ("model_version", pa.string()), ("score", pa.float32()), ("class_confidence", pa.float32()),
            ("predicted_iou", pa.float32()),
        ],
        metadata={"info": json.dumps(info), "images": json.dumps(list(images))},
    )  # fmt: skip
    with partial_file(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as file:
        for piece in _pieces(masks):
            file.write_table(pa.table(_columns(piece, names, classes), schema=schema))
    return len(masks)


def _pieces(masks: DatasetMasks) -> Iterable[DatasetMasks]:
    return masks.chunks(65536) if len(masks) else [masks]


def _columns(masks: DatasetMasks, names: Mapping[int, str], classes: Mapping[int, str]) -> dict[str, Any]:
    rles = masks.rles()
    return {
        "mask_id": masks.mask_id,
        "image_id": masks.image_id,
        "file_name": [names[i] for i in masks.image_id.tolist()],
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
