"""The masks of the dataset, columnar, each with what it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np

VOTED_RULE = "voted yes"  # the rule of a mask that only its own answer brought in
EDITED_RULE = "edited"  # how the rule of a mask begins that an annotator corrected


@dataclass(frozen=True)
class DatasetMasks:
    """n masks of the dataset with what each rests on; row i of every column belongs to the same mask.

    | column | shape, type | meaning |
    | --- | --- | --- |
    | mask_id | (n,) int64 | unique in the campaign |
    | image_id | (n,) int64 | id of the image in its COCO file |
    | class_id | (n,) int32 | COCO category id |
    | box | (n, 4) float32 | x, y, width, height in pixels |
    | rle | (n,) object | counts of the COCO compressed RLE, bytes |
    | size | (n, 2) int32 | height and width of the image |
    | confidence | (n,) float32 | class confidence, 0 to 1 |
    | predicted_iou | (n,) float32 | predicted IoU with the true mask, 0 to 1 |
    | round | (n,) int32 | round that found it |
    | cluster | (n,) int64 | smallest decided cluster around it, in the tree of its round and class; -1: none |
    | asked | (n,) int32 | masks of that cluster with an answer when it was decided |
    | yes | (n,) int32 | how many of those were voted "yes" |
    | rule | (n,) object | str, the decision rule that accepted the cluster, or `VOTED_RULE` |
    | model_version | (n,) object | str, version of the detector |
    | voted | (n,) bool | True: a person said yes to this very mask; False: propagated |

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
    round: np.ndarray
    cluster: np.ndarray
    asked: np.ndarray
    yes: np.ndarray
    rule: np.ndarray
    model_version: np.ndarray
    voted: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.mask_id)
        for name, (dtype, width) in _COLUMNS.items():
            column: np.ndarray = np.asarray(getattr(self, name), dtype)
            if column.size == 0:
                column = column.reshape((0, width) if width else 0)
            if column.shape != ((n, width) if width else (n,)):
                raise ValueError(f"{name}: expected {(n, width) if width else (n,)}, got {column.shape}")
            object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.mask_id)

    @property
    def score(self) -> np.ndarray:
        """Score `s` of each mask, (n,) float32: class confidence times predicted IoU."""
        return self.confidence * self.predicted_iou

    def select(self, index: np.ndarray | slice | Sequence[int]) -> DatasetMasks:
        """The masks that a NumPy index, boolean mask or slice picks, in its order."""
        return DatasetMasks(**{name: getattr(self, name)[index] for name in _COLUMNS})

    def rles(self) -> list[dict]:
        """The masks as pycocotools takes them: [{"size": [height, width], "counts": bytes}, ...]."""
        return [{"size": [int(h), int(w)], "counts": c} for (h, w), c in zip(self.size, self.rle, strict=True)]

    def chunks(self, length: int = 4096) -> Iterator[DatasetMasks]:
        """The same masks in pieces of at most `length`."""
        for start in range(0, len(self), length):
            yield self.select(slice(start, start + length))

    @classmethod
    def empty(cls) -> DatasetMasks:
        """No masks."""
        return cls(**{name: np.zeros(0, dtype) for name, (dtype, _) in _COLUMNS.items()})

    @classmethod
    def concatenate(cls, parts: Sequence[DatasetMasks]) -> DatasetMasks:
        """All masks of `parts`, in order."""
        if not parts:
            return cls.empty()
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in _COLUMNS})


_COLUMNS: dict[str, tuple[type, int]] = {
    "mask_id": (np.int64, 0),
    "image_id": (np.int64, 0),
    "class_id": (np.int32, 0),
    "box": (np.float32, 4),
    "rle": (object, 0),
    "size": (np.int32, 2),
    "confidence": (np.float32, 0),
    "predicted_iou": (np.float32, 0),
    "round": (np.int32, 0),
    "cluster": (np.int64, 0),
    "asked": (np.int32, 0),
    "yes": (np.int32, 0),
    "rule": (object, 0),
    "model_version": (object, 0),
    "voted": (np.bool_, 0),
}
assert [f.name for f in fields(DatasetMasks)] == list(_COLUMNS)
