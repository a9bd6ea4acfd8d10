"""Final masks pasted on the device that computed them, in chunks, and only their edges brought back.

Returns what `ml_backend.masks.pasting` returns for one mask at a time, for many masks at once and on any device. Memory
follows the boxes: a chunk holds at most so many values, whatever the number of masks, their shape and the image's size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

# What masks of unlike size in one chunk may cost more than each alone would.
_PADDING = 2


@dataclass
class Windows:
    """Masks of like size, each pasted into a window of its image.

    rows (c,) int64: which of the masks they are. pixels (c, w, h) bool, columns first; False beyond the mask's box
    and the image. corner (c, 2) int64: x and y of each window's first pixel; a window may reach out of the image.
    """

    rows: Tensor
    pixels: Tensor
    corner: Tensor


def windows(masks: Tensor, boxes: Tensor, height: int, width: int, values: int = 1 << 24) -> Iterator[Windows]:
    """All masks pasted, some at a time; those without a pixel are left out.

    A pixel belongs to the mask where its probability passes 0.5, sampled as `ml_backend.masks.pasting.paste` does.

    Args:
        masks: (n, m, m) probabilities over the boxes.
        boxes: (n, 4) as x0, y0, x1, y1 in pixels of the image; may reach out of it.
        height: of the image.
        width: of the image.
        values: most values that are held at a time, see `chunks`.
    """
    if len(masks) == 0:
        return
    boxes = boxes.double()
    first = (boxes[:, :2] - 0.5).ceil().clamp(min=0)
    limit = boxes.new_tensor([width, height])
    last = torch.minimum((boxes[:, 2:] - 0.5).ceil(), limit).maximum(first)
    sizes = (last - first).long().cpu().numpy()
    for rows in chunks(sizes, masks.shape[-1], values):
        at = torch.from_numpy(rows).to(masks.device)
        w, h = (int(v) for v in sizes[rows].max(0))
        x = _weights(boxes[at, 0], boxes[at, 2], first[at, 0], last[at, 0], w, masks.shape[2])
        y = _weights(boxes[at, 1], boxes[at, 3], first[at, 1], last[at, 1], h, masks.shape[1])
        # In float32 whatever the network computes in: what lies near 0.5 would fall to the wrong side.
        with torch.autocast(masks.device.type, enabled=False):
            pixels = x @ masks[at].float().transpose(1, 2) @ y.transpose(1, 2) > 0.5
        yield Windows(at, pixels, first[at].long())


def edges(masks: Tensor, boxes: Tensor, height: int, width: int, values: int = 1 << 24) -> list[np.ndarray]:
    """Where each mask begins and ends along the columns of its image: places of runs' starts and ends, int64.

    Places count down the columns, as COCO run lengths do. Arguments are those of `windows`.
    """
    result: list[np.ndarray] = [np.zeros(0, np.int64)] * len(masks)
    for part in windows(masks, boxes, height, width, values):
        # Columns come first, so the changes come in the order of COCO run lengths.
        padded = functional.pad(part.pixels, (1, 1))
        mask, column, row = torch.nonzero(padded[..., 1:] ^ padded[..., :-1], as_tuple=True)
        places = (column + part.corner[mask, 0]) * height + row + part.corner[mask, 1]
        counts = torch.bincount(mask, minlength=len(part.rows)).cpu().numpy()
        for at, own in zip(part.rows.tolist(), np.split(places.cpu().numpy(), np.cumsum(counts)[:-1]), strict=True):
            result[at] = own
    return result


def chunks(sizes: np.ndarray, cells: int, values: int) -> list[np.ndarray]:
    """Rows of `sizes` (n, 2) in chunks; each row of a chunk gets the largest width and height in it.

    Rows of like size come together; empty ones are left out. A mask of w by h pixels takes w * h values for the
    pixels, w * cells and h * cells for the weights and cells * cells for itself. A chunk has one row, or at most
    `values` of them all together and at most `_PADDING` times as many as its rows would have alone.
    """
    own = (sizes + cells).prod(1)
    order = np.argsort(own, kind="stable")
    order = order[(sizes[order] > 0).all(1)]
    result: list[np.ndarray] = []
    start, largest, alone = 0, np.zeros(2, np.int64), 0
    for at, row in enumerate(order):
        grown = np.maximum(largest, sizes[row])
        alone += int(own[row])
        if at > start and (at + 1 - start) * int((grown + cells).prod()) > min(values, _PADDING * alone):
            result.append(order[start:at])
            start, grown, alone = at, sizes[row], int(own[row])
        largest = grown
    if len(order):
        result.append(order[start:])
    return result


def _weights(low: Tensor, high: Tensor, first: Tensor, last: Tensor, count: int, cells: int) -> Tensor:
    """(n, count, cells) float32: the share of each mask cell in each pixel from `first` on; 0 from `last` on."""
    per_pixel = (cells / (high - low).clamp(min=1e-6))[:, None]
    pixel = first[:, None] + torch.arange(count, device=low.device)
    centres = ((pixel + 0.5 - low[:, None]) * per_pixel).float()[..., None]
    reach = per_pixel.clamp(min=1.0).float()[..., None]
    cell = torch.arange(cells, device=low.device, dtype=torch.float32)
    upper = torch.minimum(cell + 1, centres + reach / 2)
    lower = torch.maximum(cell, centres - reach / 2)
    inside = (pixel < last[:, None])[..., None]
    return (upper - lower).clamp(min=0) / reach * inside
