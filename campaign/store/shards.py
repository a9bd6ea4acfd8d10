"""Shards of predictions: Parquet for the columns, one fp16 array beside it for the features."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ml_backend.errors import InputError
from ml_backend.files import write_whole
from ml_backend.predictions import Predictions

COLUMNS = ("mask_id", "image_id", "class_id", "box", "rle", "size", "confidence", "predicted_iou", "stability")


def write_shard(path: Path, predictions: Predictions) -> None:
    """Writes features first and the Parquet file last: where that stands, the shard is whole."""
    write_whole(feature_path(path), lambda p: np.save(p, predictions.features))
    write_columns(path, {name: getattr(predictions, name) for name in COLUMNS})


def read_shard(path: Path, features: bool = True, class_id: int | None = None) -> Predictions:
    """The shard at `path`; features (memory-mapped until selected) or none; one class or all."""
    columns = read_columns(path)
    n = len(columns["mask_id"])
    columns["features"] = np.load(feature_path(path), mmap_mode="r") if features else np.zeros((n, 0), np.float16)
    shard = Predictions(**columns)
    return shard if class_id is None else shard.select(shard.class_id == class_id)


def write_columns(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Writes columns of n rows, of one or two dimensions, or of bytes or strings, as Parquet, whole."""
    arrays = {}
    for name, column in columns.items():
        if column.ndim == 2:
            flat = pa.array(np.ascontiguousarray(column).reshape(-1))
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, column.shape[1])
        elif column.dtype == object:
            text = bool(len(column)) and isinstance(column[0], str)
            arrays[name] = pa.array(column.tolist(), pa.string() if text else pa.binary())
        else:
            arrays[name] = pa.array(column)
    table = pa.table(arrays)
    write_whole(path, lambda p: pq.write_table(table, p, compression="zstd"))


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """What `write_columns` wrote. Raises InputError where the file is missing or no such file."""
    try:
        table = pq.ParquetFile(path).read()  # read_table would import pandas, where that is installed
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(path, "a Parquet file of the campaign", error) from None
    columns: dict[str, np.ndarray] = {}
    for field in table.schema:
        column = table[field.name]
        if pa.types.is_fixed_size_list(field.type):
            flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
            columns[field.name] = flat.reshape(table.num_rows, field.type.list_size)
        elif pa.types.is_binary(field.type) or pa.types.is_string(field.type):
            columns[field.name] = np.empty(table.num_rows, object)
            columns[field.name][:] = column.to_pylist()
        else:
            columns[field.name] = column.to_numpy()
    return columns


def feature_path(path: Path) -> Path:
    """Where the features of the shard at `path` lie."""
    return path.with_suffix(".features.npy")


def read_shards(paths: Sequence[Path], features: bool = True, class_id: int | None = None) -> Predictions:
    """All masks of several shards, in order."""
    return Predictions.concatenate([read_shard(p, features, class_id) for p in paths])
