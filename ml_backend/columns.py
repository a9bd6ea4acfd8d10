"""Columnar records: many masks in a few arrays, checked once when they are made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np

# A column's type, and its shape beside the rows; None is any length, one for all rows of a record.
Column = tuple[type, tuple[int | None, ...]]
Index = np.ndarray | slice | Sequence[int]
Record = TypeVar("Record", bound="Columns")


class Columns:
    """n rows in arrays of length n; row i of every column belongs to the same thing.

    A record derives from this as a frozen dataclass whose fields are the columns named in `COLUMNS`, in their order.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Points(Columns):
    ...     at: np.ndarray
    ...     COLUMNS = {"at": (np.float32, (2,))}
    >>> len(Points([[0, 0], [3, 4]]).select([1]))
    1
    >>> Points([1, 2, 3])
    Traceback (most recent call last):
    ValueError: at: expected shape (n, 2) with n = 3, got (3,)
    """

    COLUMNS: ClassVar[Mapping[str, Column]]

    def __post_init__(self) -> None:
        """Brings every column to its type. Raises ValueError when a column's shape does not fit the others."""
        n = len(self)
        for name, (dtype, tail) in self.COLUMNS.items():
            column: np.ndarray = np.asarray(getattr(self, name), dtype)
            if column.size == 0 and column.ndim != len(tail) + 1:
                column = column.reshape((0, *(length or 0 for length in tail)))
            if column.ndim != len(tail) + 1 or len(column) != n or not _fits(column.shape[1:], tail):
                expected = ", ".join(["n", *("d" if length is None else str(length) for length in tail)])
                raise ValueError(f"{name}: expected shape ({expected}) with n = {n}, got {column.shape}")
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        """The number of rows."""
        return len(getattr(self, next(iter(self.COLUMNS))))

    def select(self: Record, index: Index) -> Record:
        """The rows that a NumPy index, boolean mask or slice picks, in its order."""
        return type(self)(**{name: getattr(self, name)[index] for name in self.COLUMNS})

    def chunks(self: Record, length: int = 4096) -> Iterator[Record]:
        """The same rows in records of at most `length`."""
        for start in range(0, len(self), length):
            yield self.select(slice(start, start + length))

    @classmethod
    def empty(cls: type[Record], **lengths: int) -> Record:
        """No rows; `lengths` are those of columns of any length, 0 where not given."""
        columns: dict[str, Any] = {}
        for name, (dtype, tail) in cls.COLUMNS.items():
            shape = (lengths.get(name, 0) if length is None else length for length in tail)
            columns[name] = np.zeros((0, *shape), dtype)
        return cls(**columns)

    @classmethod
    def concatenate(cls: type[Record], parts: Sequence[Record]) -> Record:
        """All rows of `parts`, in order. Columns of any length may differ where a part has no rows."""
        full = [part for part in parts if len(part)]
        if not full:
            return parts[0] if parts else cls.empty()
        return cls(**{name: np.concatenate([getattr(part, name) for part in full]) for name in cls.COLUMNS})


class MaskColumns(Columns):
    """What every record of masks has: run lengths with the sizes of their images, and a score."""

    rle: np.ndarray
    size: np.ndarray
    confidence: np.ndarray
    predicted_iou: np.ndarray

    @property
    def score(self) -> np.ndarray:
        """Score `s` of each mask, (n,) float32: class confidence times predicted IoU."""
        return self.confidence * self.predicted_iou

    def rles(self, index: Index = slice(None)) -> list[dict]:
        """The masks as pycocotools takes them: [{"size": [height, width], "counts": bytes}, ...].

        Args:
            index: of the masks that are asked for, all by default.
        """
        pairs = zip(self.size[index].tolist(), self.rle[index], strict=True)
        return [{"size": size, "counts": counts} for size, counts in pairs]


# The columns that every record of masks begins with.
MASK_COLUMNS: Mapping[str, Column] = {
    "mask_id": (np.int64, ()),
    "image_id": (np.int64, ()),
    "class_id": (np.int32, ()),
    "box": (np.float32, (4,)),
    "rle": (object, ()),
    "size": (np.int32, (2,)),
    "confidence": (np.float32, ()),
    "predicted_iou": (np.float32, ()),
}


def _fits(shape: tuple[int, ...], tail: tuple[int | None, ...]) -> bool:
    return all(length is None or length == got for length, got in zip(tail, shape, strict=True))
