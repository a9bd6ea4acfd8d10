"""What goes into every network of this package and what comes out, and two rules that all of them keep."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import clip_boxes_to_image

_PROPOSALS_PER_PIXEL = 8.5e-3


@dataclass
class Target:
    """True masks of one training crop.

    boxes (n, 4) float32 as x0, y0, x1, y1; labels (n,) int64 from 1; masks (n, h, w) uint8; `exhaustive` is False
    where other objects may be there that nobody annotated.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    exhaustive: bool = True

    def to(self, device: torch.device | str) -> Target:
        """The same on another device, without waiting for what lies in pinned memory."""
        return self._each(lambda column: column.to(device, non_blocking=True))

    def pin_memory(self) -> Target:
        """The same in memory that a GPU takes sooner."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Target:
        return Target(change(self.boxes), change(self.labels), change(self.masks), self.exhaustive)


@dataclass
class Detections:
    """Detections of one image in pixels of the network's input, best confidence first.

    boxes (n, 4); labels (n,) from 1; confidence (n,); masks (n, m, m) probabilities over the boxes; predicted_iou
    (n,); roi_features (n, c, 14, 14) from P2; hidden (n, h) second layer of the IoU head; box_hidden (n, k) last layer
    of the box head over the proposal that the detection came from.
    """

    boxes: Tensor
    labels: Tensor
    confidence: Tensor
    masks: Tensor
    predicted_iou: Tensor
    roi_features: Tensor
    hidden: Tensor
    box_hidden: Tensor


def most_proposals(height: int, width: int) -> int:
    """Most proposals of an image or tile of so many network pixels: some nine on the area of a median object.

    Without that limit the tiles of an image would have far more proposals between them than the whole image, and
    the worse ones among them end as parts and doubles of objects.
    """
    return int(np.ceil(_PROPOSALS_PER_PIXEL * height * width))


def covered(boxes: Tensor, target: Target, asked: Tensor, share: float = 0.7) -> Tensor:
    """Which of the `asked` boxes (n,) lie at least by `share` on annotated masks.

    Where annotation is incomplete, these few are known to be no object of their own: they are parts of annotated
    objects or groups of them. Everything else may be an object that nobody annotated.
    """
    result = torch.zeros_like(asked)
    if len(target.masks) == 0:
        return result
    known = target.masks.amax(0)
    height, width = known.shape
    sums = functional.pad(known.long().cumsum(0).cumsum(1), (1, 0, 1, 0))
    rows = torch.nonzero(asked)[:, 0]
    chosen = clip_boxes_to_image(boxes[rows], (height, width)).round().long()
    x0, y0, x1, y1 = chosen.unbind(1)
    inside = sums[y1, x1] - sums[y0, x1] - sums[y1, x0] + sums[y0, x0]
    area = ((boxes[rows, 2] - boxes[rows, 0]) * (boxes[rows, 3] - boxes[rows, 1])).clamp(min=1)
    result[rows] = inside >= share * area
    return result
