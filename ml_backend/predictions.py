"""The central record: predicted masks, columnar, taken and given by every station of the loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import numpy as np

_ROUND_SHIFT, _SHARD_SHIFT = 40, 20


def mask_id(round_number: int, shard: int, row: int) -> int:
    """The id of one mask, unique in a campaign and below 2^53, so that JavaScript keeps it exactly."""
    return (round_number << _ROUND_SHIFT) | (shard << _SHARD_SHIFT) | row


def split_mask_id(mask: int) -> tuple[int, int, int]:
    """(round, shard, row) of a mask id: the inverse of `mask_id`."""
    return mask >> _ROUND_SHIFT, (mask >> _SHARD_SHIFT) & 0xFFFFF, mask & 0xFFFFF


@dataclass(frozen=True)
class Predictions:
    """n predicted masks of any number of images; row i of every column belongs to the same mask.

    | column | shape, type | meaning |
    | --- | --- | --- |
    | mask_id | (n,) int64 | unique in a campaign, see `mask_id` |
    | image_id | (n,) int64 | id of the image in its COCO file |
    | class_id | (n,) int32 | COCO category id |
    | box | (n, 4) float32 | x, y, width, height in pixels |
    | rle | (n,) object | counts of the COCO compressed RLE, bytes |
    | size | (n, 2) int32 | height and width of the image |
    | confidence | (n,) float32 | class confidence, 0 to 1 |
    | predicted_iou | (n,) float32 | predicted IoU with the true mask, 0 to 1 |
    | features | (n, d) float16 | feature `f`; d may be 0 |

    Raises ValueError when a column's shape does not fit the others.
    """

    mask_id: np.ndarray
    image_id: np.ndarray
    class_id: np.ndarray
    box: np.ndarray
    rle: np.ndarray
    size: np.ndarray
    confidence: np.ndarray
    predicted_iou: np.ndarray
    features: np.ndarray = field(repr=False)

    _types: ClassVar[dict] = {
        "mask_id": (np.int64, ()),
        "image_id": (np.int64, ()),
        "class_id": (np.int32, ()),
        "box": (np.float32, (4,)),
        "rle": (object, ()),
        "size": (np.int32, (2,)),
        "confidence": (np.float32, ()),
        "predicted_iou": (np.float32, ()),
        "features": (np.float16, (None,)),
    }

    def __post_init__(self) -> None:
        n = len(self.mask_id)
        for name, (dtype, tail) in self._types.items():
            column = np.asarray(getattr(self, name))
            if column.size == 0 and column.ndim != len(tail) + 1:
                column = column.reshape((0, *(0 if t is None else t for t in tail)))
            if column.dtype != dtype:
                column = column.astype(dtype)
            fits = column.ndim == 1 + len(tail) and all(
                want is None or want == have for want, have in zip(tail, column.shape[1:], strict=True)
            )
            if not fits or len(column) != n:
                want = ", ".join(["n", *("d" if t is None else str(t) for t in tail)])
                raise ValueError(f"{name}: expected shape ({want}) with n = {n}, got {column.shape}")
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.mask_id)

    @property
    def score(self) -> np.ndarray:
        """Score `s` of each mask, (n,) float32: class confidence times predicted IoU."""
        return self.confidence * self.predicted_iou

    def select(self, index: np.ndarray | slice | Sequence[int]) -> Predictions:
        """The masks that a NumPy index, boolean mask or slice picks, in its order."""
        return Predictions(**{name: getattr(self, name)[index] for name in self._types})

    def rles(self) -> list[dict]:
        """The masks as pycocotools takes them: [{"size": [height, width], "counts": bytes}, ...]."""
        return [{"size": [int(h), int(w)], "counts": c} for (h, w), c in zip(self.size, self.rle, strict=True)]

    def with_ids(self, round_number: int, shard: int) -> Predictions:
        """The same masks with the ids of their place in the store: row i becomes `mask_id(round, shard, i)`."""
        ids = mask_id(round_number, shard, 0) + np.arange(len(self), dtype=np.int64)
        return replace(self, mask_id=ids)

    @classmethod
    def empty(cls, dim: int = 0) -> Predictions:
        """No masks, with features of width `dim`."""
        columns = {
            n: np.zeros((0, *(dim if t is None else t for t in tail)), dtype) for n, (dtype, tail) in cls._types.items()
        }
        return cls(**columns)

    @classmethod
    def concatenate(cls, parts: Sequence[Predictions]) -> Predictions:
        """All masks of `parts`, in order. Empty parts may have any feature width."""
        full = [p for p in parts if len(p)]
        if not full:
            return parts[0] if parts else cls.empty()
        return cls(**{name: np.concatenate([getattr(p, name) for p in full]) for name in cls._types})


assert all(f.name in Predictions._types for f in fields(Predictions))
