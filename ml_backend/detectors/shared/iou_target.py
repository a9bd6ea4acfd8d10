"""What the IoU head learns to predict: the IoU of the mask that would be exported, on the device that computed it."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ml_backend.detectors.shared.device_pasting import Windows, windows


def best_iou(masks: Tensor, boxes: Tensor, true: Tensor, true_boxes: Tensor, values: int = 1 << 24) -> Tensor:
    """IoU of each final mask with the true mask that fits it best, whatever its class, (n,) float32; 0 without any.

    The final mask is the pasted one that would be exported, and the part of a true mask outside the box counts.

    Args:
        masks: (n, m, m) probabilities over the boxes.
        boxes: (n, 4) as x0, y0, x1, y1 in pixels of the image; may reach out of it.
        true: (k, h, w) uint8, the true masks in the image.
        true_boxes: (k, 4), a box around each of them; only pairs whose boxes meet are compared.
        values: most values that are held at a time; memory follows the boxes and not the image.
    """
    result = torch.zeros(len(masks), device=masks.device)
    if len(true) == 0:
        return result
    area = true.flatten(1).sum(1)
    height, width = true.shape[-2:]
    for part in windows(masks, boxes, height, width, values):
        pasted = part.pixels.transpose(1, 2)
        row, column = torch.nonzero(_meet(part, true_boxes), as_tuple=True)
        shared = torch.cat([area.new_zeros(0), *_shared(part.corner, pasted, true, row, column, values)])
        joint = pasted.sum((1, 2))[row] + area[column] - shared
        iou = shared / joint.clamp(min=1)
        result.scatter_reduce_(0, part.rows[row], iou.to(result.dtype), "amax")
    return result


def _meet(part: Windows, true_boxes: Tensor) -> Tensor:
    """Which windows (c) and boxes (k) have a pixel in common, (c, k) bool."""
    size = torch.tensor(part.pixels.shape[1:], device=part.corner.device)
    low, high = part.corner[:, None], (part.corner + size)[:, None]
    return ((true_boxes[:, 2:].ceil() > low) & (true_boxes[:, :2].floor() < high)).all(2)


def _shared(corner: Tensor, pasted: Tensor, true: Tensor, row: Tensor, column: Tensor, values: int) -> Iterator[Tensor]:
    """Pixels that pasted masks (c, h, w) share with true ones, (p_i,) int64 for some pairs (row, column) at a time."""
    height, width = pasted.shape[1:]
    x = torch.arange(width, device=true.device)
    y = torch.arange(height, device=true.device)
    pixels = true.contiguous().view(torch.bool)
    # A place takes eight bytes where other values take four.
    size = max(values // (2 * height * width), 1)
    for rows, columns in zip(row.split(size), column.split(size), strict=True):
        # Beyond the image nothing is pasted, so any pixel will do there.
        at_x = (corner[rows, :1] + x).clamp(max=true.shape[2] - 1)
        at_y = (corner[rows, 1:] + y).clamp(max=true.shape[1] - 1)
        first = (columns[:, None] * true.shape[1] + at_y) * true.shape[2]
        seen = pixels.take(first[:, :, None] + at_x[:, None])
        yield (seen & pasted[rows]).sum((1, 2))
