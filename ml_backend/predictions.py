"""The central record: predicted masks, columnar, taken and returned by every step of the loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np

from ml_backend.columns import MASK_COLUMNS, Column, MaskColumns
from ml_backend.mask_ids import mask_id


@dataclass(frozen=True)
class Predictions(MaskColumns):
    """n predicted masks of any number of images; row i of every column belongs to the same mask.

    | column | shape, type | meaning |
    | --- | --- | --- |
    | mask_id | (n,) int64 | unique in a campaign, see `ml_backend.mask_ids` |
    | image_id | (n,) int64 | id of the image in its COCO file |
    | class_id | (n,) int32 | COCO category id |
    | box | (n, 4) float32 | x, y, width, height in pixels |
    | rle | (n,) object | counts of the COCO compressed RLE, bytes |
    | size | (n, 2) int32 | height and width of the image |
    | confidence | (n,) float32 | class confidence, 0 to 1 |
    | predicted_iou | (n,) float32 | predicted IoU with the true mask, 0 to 1 |
    | features | (n, d) float16 | feature `f`; d may be 0 |
    | stability | (n,) float32 | IoU of the mask cut at probabilities 0.4 and 0.6; nan, its default, where unknown |

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
    stability: np.ndarray = field(default=None, repr=False)  # type: ignore[arg-type]  # an array once it is made

    COLUMNS: ClassVar[Mapping[str, Column]] = {
        **MASK_COLUMNS,
        "features": (np.float16, (None,)),
        "stability": (np.float32, ()),
    }

    def __post_init__(self) -> None:
        """As for every record; where nothing is said of stability it is unknown."""
        if self.stability is None:
            object.__setattr__(self, "stability", np.full(len(self.mask_id), np.nan, np.float32))
        super().__post_init__()

    def with_features(self, features: np.ndarray) -> Predictions:
        """The same masks with these features, (n, d) float16; an array on disk stays there."""
        return replace(self, features=features)

    def with_ids(self, round_number: int, shard: int) -> Predictions:
        """The same masks with the ids of their place in the store: row i becomes `mask_id(round, shard, i)`."""
        ids = mask_id(round_number, shard, 0) + np.arange(len(self), dtype=np.int64)
        return replace(self, mask_id=ids)
