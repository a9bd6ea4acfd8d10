"""Snapshot files: arrays and values in one file, some of them written part by part and read by rows.

The file is what `numpy.savez` writes. Its arrays are not compressed and begin at multiples of `_ALIGNED` bytes, so that
rows can be read, and whole arrays mapped, where they lie.
"""

from __future__ import annotations

import json
import struct
import weakref
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

_TEXT = "__text__"
_HEADER = 30  # bytes of a member's own header in a zip file, before its name and its extra field
_EXTRA64 = 20  # bytes that zipfile adds to the extra field of a member that may be large
_ALIGNED = 64
_FILLER = 0xD935  # the kind of extra field that other programs align with, too


@dataclass(frozen=True)
class Parts:
    """An array that is written part by part: its shape and type, and the parts along the first axis."""

    shape: tuple[int, ...]
    dtype: type
    parts: Iterable[np.ndarray]


@dataclass(frozen=True)
class StoredRows:
    """An array in a snapshot file of which rows are read as they are asked for; they are copies, in memory.

    The file is held open: a cache may remove it meanwhile.
    """

    file: BinaryIO
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __post_init__(self) -> None:
        weakref.finalize(self, self.file.close)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: np.ndarray | slice) -> np.ndarray:
        return np.array(self.mapped()[index])  # unmapped again: what was read does not stay in memory

    def mapped(self) -> np.ndarray:
        """All rows, where they lie."""
        if not len(self):
            return np.empty(self.shape, self.dtype)
        return np.memmap(self.file, self.dtype, "r", self.offset, self.shape).view(np.ndarray)


def write_snapshot(path: Path, arrays: Mapping[str, np.ndarray | Parts], values: Mapping[str, Any]) -> None:
    """Writes arrays, and values that JSON takes."""
    text = np.frombuffer(json.dumps(values).encode(), np.uint8)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for name, array in {**arrays, _TEXT: text}.items():
            with file.open(_member(file, f"{name}.npy"), "w", force_zip64=True) as member:
                if isinstance(array, Parts):
                    _write_parts(member, name, array)
                else:
                    np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)


def _member(file: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The next member of a file, filled up so that what is written into it is aligned."""
    info = zipfile.ZipInfo(name)
    fill = -(file.start_dir + _HEADER + len(name.encode()) + _EXTRA64 + 4) % _ALIGNED
    info.extra = struct.pack("<HH", _FILLER, fill) + bytes(fill)
    return info


def _write_parts(member: IO[bytes], name: str, array: Parts) -> None:
    dtype, rows = np.dtype(array.dtype), 0
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(member, header)
    for part in array.parts:
        member.write(np.ascontiguousarray(part, dtype).tobytes())
        rows += len(part)
    if rows != array.shape[0]:
        raise ValueError(f"{name}: expected {array.shape[0]} rows, got {rows}")


def read_snapshot(
    path: Path, only: Collection[str] | None = None, by_rows: Collection[str] = (), mapped: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `write_snapshot` wrote, or of the arrays `only` these; those in `by_rows` as `StoredRows`.

    Those that are `mapped` are read as they are looked at, and may not be written to: the system takes their memory
    back where it is needed.
    Raises OSError, ValueError, KeyError, EOFError or BadZipFile where the file is gone or cut short.
    """
    with np.load(path, allow_pickle=False) as stored:
        wanted = [n for n in stored.files if n not in by_rows and n not in mapped] if only is None else [*only, _TEXT]
        arrays = {name: stored[name] for name in wanted}
    arrays |= dict(_stored_rows(path, by_rows)) if by_rows else {}
    arrays |= {name: rows.mapped() for name, rows in _stored_rows(path, mapped)} if mapped else {}
    return arrays, json.loads(arrays.pop(_TEXT).tobytes())


def _stored_rows(path: Path, names: Collection[str]) -> Iterator[tuple[str, StoredRows]]:
    with zipfile.ZipFile(path) as archive:
        for name in names:
            file = path.open("rb")
            begin = archive.getinfo(f"{name}.npy").header_offset
            file.seek(begin + _HEADER - 4)
            lengths = np.frombuffer(file.read(4), "<u2")
            file.seek(begin + _HEADER + int(lengths.sum()))
            np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            yield name, StoredRows(file, file.tell(), shape, dtype)
