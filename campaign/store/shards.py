"""Shards of predictions: Parquet for the columns, one fp16 array beside it for the features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

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
    table, rows = read_table([path]), None
    if class_id is not None:
        rows = np.flatnonzero(table["class_id"].to_numpy() == class_id)
        table = table.take(pa.array(rows))
    kept: np.ndarray = np.zeros((len(table), 0), np.float16)
    if features:
        kept = np.load(feature_path(path), mmap_mode="r")
        kept = kept if rows is None else kept[rows]
    return Predictions(**arrays_of(table), features=kept)


def write_columns(path: Path, columns: dict[str, np.ndarray]) -> None:
    """Writes columns of n rows, of one or two dimensions, or of bytes or strings, as Parquet, whole."""
    write_pieces(path, [columns])


def write_pieces(path: Path, pieces: Iterable[dict[str, np.ndarray]]) -> None:
    """Writes columns that come in pieces, see `write_columns`, each piece as a row group; there is one at least."""

    def write(partial: Path) -> None:
        iterator = iter(pieces)
        first = _table(next(iterator))
        with pq.ParquetWriter(partial, first.schema, compression="zstd") as writer:
            writer.write_table(first)
            for piece in iterator:
                writer.write_table(_table(piece))

    write_whole(path, write)


def _table(columns: dict[str, np.ndarray]) -> pa.Table:
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
    return pa.table(arrays)


def read_columns(path: Path, class_id: int | None = None) -> dict[str, np.ndarray]:
    """What `write_columns` wrote, all rows or those of a class.

    Raises InputError where the file is missing or no such file.
    """
    table = read_table([path])
    if class_id is not None:
        table = table.filter(pa.array(table["class_id"].to_numpy() == class_id))
    return arrays_of(table)


def read_table(paths: Iterable[Path], columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of several files, in order, as Arrow has them: no Python object for each.

    Raises InputError where a file is missing or no such file.
    """
    tables = []
    for path in paths:
        try:
            # read_table would import pandas, where that is installed
            tables.append(pq.ParquetFile(path).read(columns=None if columns is None else list(columns)))
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(path, "a Parquet file of the campaign", error) from None
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables, promote_options="default")


class RowFile:
    """A Parquet file of which any rows are read; it stays open, so another in its place changes nothing.

    Raises InputError where the file is missing or no such file.
    """

    def __init__(self, path: Path):
        try:
            self._file = pq.ParquetFile(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise InputError(path, "a Parquet file of the campaign", error) from None
        groups = range(self._file.num_row_groups)
        self._ends = np.cumsum([self._file.metadata.row_group(n).num_rows for n in groups], dtype=np.int64)

    def __len__(self) -> int:
        """The number of rows."""
        return self._file.metadata.num_rows  # type: ignore[no-any-return]

    def where(self, name: str, value: int) -> np.ndarray:
        """The rows in which a column has this value, rising; only row groups that may have it are looked into."""
        column = self._file.schema.names.index(name)
        found = [np.zeros(0, np.int64)]
        for number, end in enumerate(self._ends.tolist()):
            about = self._file.metadata.row_group(number)
            known = about.column(column).statistics if about.num_rows else None
            if known is not None and known.has_min_max and not known.min <= value <= known.max:
                continue
            values = self._file.read_row_group(number, columns=[name])[name].to_numpy()
            found.append(np.flatnonzero(values == value) + end - about.num_rows)
        return np.concatenate(found)

    def columns(self, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Some columns of all rows, or all columns."""
        return arrays_of(self._file.read(columns=None if names is None else list(names)))

    def rows(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """All columns of some rows, in their order; only row groups that hold them are read."""
        group = np.searchsorted(self._ends, rows, side="right")
        tables, places = [self._file.schema_arrow.empty_table()], []
        for number in np.unique(group).tolist():
            here = np.flatnonzero(group == number)
            table = self._file.read_row_group(number)
            tables.append(table.take(pa.array(rows[here] - (int(self._ends[number]) - len(table)))))
            places.append(here)
        table = pa.concat_tables(tables)
        if len(places) > 1:
            table = table.take(pa.array(np.argsort(np.concatenate(places), kind="stable")))
        return arrays_of(table)


def write_groups(
    path: Path, table: pa.Table, order: np.ndarray, counts: Sequence[int], checksums: bool = False
) -> None:
    """Writes rows in another order as Parquet, whole, in row groups of so many rows each.

    With `checksums` parts of the file can be verified.
    """
    # Run lengths of many masks may be more than 32 bits count.
    schema = pa.schema([f.with_type(pa.large_binary()) if pa.types.is_binary(f.type) else f for f in table.schema])
    table = table.cast(schema)

    def write(partial: Path) -> None:
        with pq.ParquetWriter(partial, schema, compression="zstd", write_page_checksum=checksums) as writer:
            start = 0
            for count in counts:
                writer.write_table(table.take(pa.array(order[start : start + count])), row_group_size=max(count, 1))
                start += count

    write_whole(path, write)


def read_group(source: Path | IO[bytes], group: int, rows: int, masks: bool = True) -> Predictions:
    """The predictions of one row group of a file of `rows` rows in all, without features.

    What is no path of this machine is verified by the checksums in it.

    Without `masks` their run lengths are not read, and are empty. Raises InputError where the file is not whole.
    """
    try:
        file = pq.ParquetFile(source, page_checksum_verification=not isinstance(source, Path))
        if file.metadata.num_rows != rows:
            raise InputError(source, f"{rows} masks", file.metadata.num_rows)
        columns = arrays_of(file.read_row_group(group, columns=[c for c in COLUMNS if masks or c != "rle"]))
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(source, "a Parquet file of the campaign", error) from None
    n = len(columns["mask_id"])
    return Predictions(**({"rle": np.full(n, b"", object)} | columns), features=np.zeros((n, 0), np.float16))


def read_features(source: Path | IO[bytes], first: int, count: int, rows: int) -> np.ndarray:
    """`count` rows from `first` on of an array of `rows` features: on disk of a file, else in memory.

    Raises InputError where the array is not whole.
    """
    if isinstance(source, Path):
        features = np.load(source, mmap_mode="r")
        if len(features) != rows:
            raise InputError(source, f"{rows} features", len(features))
        return features[first : first + count]
    source.seek(0)
    shape: tuple[int, ...] = ()
    dtype = None
    if np.lib.format.read_magic(source) == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(source)
    if len(shape) != 2 or shape[0] != rows or dtype != np.float16:
        raise InputError("features of a bundle", f"{rows} rows in 16 bits", f"{shape}, {dtype}")
    source.seek(source.tell() + first * shape[1] * 2)
    return np.frombuffer(source.read(count * shape[1] * 2), np.float16).reshape(count, shape[1])


def arrays_of(table: pa.Table) -> dict[str, np.ndarray]:
    """The columns of a table that `write_columns` or `write_groups` wrote."""
    columns: dict[str, np.ndarray] = {}
    for field in table.schema:
        column = table[field.name]
        if pa.types.is_fixed_size_list(field.type):
            flat = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
            columns[field.name] = flat.reshape(table.num_rows, field.type.list_size)
        elif pa.types.is_string(field.type):
            # Few texts stand in many rows, and all those are to be one object.
            coded = column.combine_chunks().dictionary_encode()
            texts = np.array([*coded.dictionary.to_pylist(), None], object)
            columns[field.name] = texts[coded.indices.fill_null(len(texts) - 1).to_numpy(zero_copy_only=False)]
        elif pa.types.is_binary(field.type) or pa.types.is_large_binary(field.type):
            columns[field.name] = np.empty(table.num_rows, object)
            columns[field.name][:] = column.to_pylist()
        else:
            columns[field.name] = column.to_numpy()
    return columns


def feature_path(path: Path) -> Path:
    """Where the features of the shard at `path` lie."""
    return path.with_suffix(".features.npy")
