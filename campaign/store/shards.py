"""Shards of predictions: Parquet for the columns, one fp16 array beside it for the features."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml_backend.errors import InputError
from ml_backend.predictions import Predictions

COLUMNS = ("mask_id", "image_id", "class_id", "box", "rle", "size", "confidence", "predicted_iou")


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a file beside `path` and renames it. Raises InputError where the disk refuses."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        write(partial)
        partial.replace(path)
    except OSError as error:
        raise InputError(path, "room to write it", error.strerror or str(error)) from None
    finally:
        partial.unlink(missing_ok=True)


def write_shard(path: Path, predictions: Predictions) -> None:
    """Writes features first and the Parquet file last: where that stands, the shard is whole."""
    write_whole(feature_path(path), lambda p: np.save(p, predictions.features))
    box = predictions.box
    size = predictions.size
    table = pa.table(
        {
            "mask_id": predictions.mask_id,
            "image_id": predictions.image_id,
            "class_id": predictions.class_id,
            "box": pa.FixedSizeListArray.from_arrays(pa.array(box.reshape(-1)), 4),
            "rle": pa.array(predictions.rle.tolist(), pa.binary()),
            "size": pa.FixedSizeListArray.from_arrays(pa.array(size.reshape(-1)), 2),
            "confidence": predictions.confidence,
            "predicted_iou": predictions.predicted_iou,
        }
    )
    write_whole(path, lambda p: pq.write_table(table, p, compression="zstd"))


def read_shard(path: Path, features: bool = True, class_id: int | None = None) -> Predictions:
    """The shard at `path`; features (memory-mapped until selected) or none; one class or all."""
    table = pq.read_table(path, columns=list(COLUMNS))
    n = table.num_rows
    columns = {}
    for name in ("mask_id", "image_id", "class_id", "confidence", "predicted_iou"):
        columns[name] = table[name].to_numpy()
    for name, width in (("box", 4), ("size", 2)):
        flat = table[name].combine_chunks().flatten() if n else pa.array([], pa.float32())
        columns[name] = flat.to_numpy(zero_copy_only=False).reshape(n, width)
    rle = np.empty(n, object)
    rle[:] = table["rle"].to_pylist()
    columns["rle"] = rle
    if features:
        columns["features"] = np.load(feature_path(path), mmap_mode="r")
    else:
        columns["features"] = np.zeros((n, 0), np.float16)
    shard = Predictions(**columns)
    return shard if class_id is None else shard.select(shard.class_id == class_id)


def feature_path(path: Path) -> Path:
    """Where the features of the shard at `path` lie."""
    return path.with_suffix(".features.npy")


def read_shards(paths: Sequence[Path], features: bool = True, class_id: int | None = None) -> Predictions:
    """All masks of several shards, in order."""
    return Predictions.concatenate([read_shard(p, features, class_id) for p in paths])
