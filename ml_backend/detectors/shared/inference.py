"""Tiles of images: cutting, scaling, batches, and which of the masks found in them count."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from pycocotools import mask as mask_util
from torch import Tensor
from torch.nn import functional

from ml_backend.detectors.shared.records import Detections
from ml_backend.masks.coco import ImageRecord

_STRIDE = 32


@dataclass
class Tile:
    """A part of a scaled image: pixels (3, h, w), its corner, and the core that no other tile answers for.

    core: left, top, right, bottom in the tile's own pixels; up to the middle of each overlap, and without limit at
    the sides of the image.
    """

    pixels: Tensor
    x: int
    y: int
    core: tuple[float, float, float, float]


def tile_spans(length: int, tile: int) -> list[tuple[int, int, float, float]]:
    """(start, length, core's start, core's end) of tiles along one side, which overlap by at least a quarter.

    Cores meet in the middle of the overlaps; the first and the last are open to the outside.

    >>> tile_spans(300, 256)
    [(0, 256, -inf, 150.0), (44, 256, 150.0, inf)]
    """
    if length <= tile:
        return [(0, length, -np.inf, np.inf)]
    count = int(np.ceil((length - tile) / (tile * 0.75))) + 1
    starts = np.linspace(0, length - tile, count).round().astype(int)
    borders = [-np.inf, *((starts[1:] + starts[:-1] + tile) / 2).tolist(), np.inf]
    return [(int(s), tile, borders[i], borders[i + 1]) for i, s in enumerate(starts)]


def tiles(pixels: Tensor, height: int, width: int, tile: int) -> Iterator[Tile]:
    """An image (c, h, w) at another size, bilinear and antialiased where it gets smaller, in float32 tiles.

    An image that gets larger is never there as a whole: besides the tile at hand only the rows that it comes from are.
    """
    rows, columns = tile_spans(height, tile), tile_spans(width, tile)
    by_tile = len(rows) * len(columns) > 1 and height >= pixels.shape[1] and width >= pixels.shape[2]
    whole = None if by_tile else _resized(pixels, height, width)
    for y, h, top, bottom in rows:
        band = _Band(pixels, height, width, y, y + h) if whole is None else whole[:, y : y + h]
        for x, w, left, right in columns:
            yield Tile(band[:, :, x : x + w], x, y, (left - x, top - y, right - x, bottom - y))


def _resized(pixels: Tensor, height: int, width: int) -> Tensor:
    pixels = pixels.float()
    if pixels.shape[1:] == (height, width):
        return pixels
    # Rows of each channel in one piece are several times faster on a CPU.
    return functional.interpolate(
        pixels.contiguous()[None], size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )[0]


class _Band:
    """Rows from `start` to `stop` of an image that gets larger, of which only the columns asked for are computed."""

    def __init__(self, pixels: Tensor, height: int, width: int, start: int, stop: int):
        at = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * (pixels.shape[1] / height) - 0.5
        at = at.clamp(0, pixels.shape[1] - 1)
        low = at.long()
        high = (low + 1).clamp(max=pixels.shape[1] - 1)
        first, last = int(low[0]), int(high[-1]) + 1
        self.wide = _resized(pixels[:, first:last], last - first, width)
        self.low, self.high = (low - first).to(pixels.device), (high - first).to(pixels.device)
        self.share = (at - low).float().to(pixels.device)[:, None]

    def __getitem__(self, place: tuple[slice, slice, slice]) -> Tensor:
        part = self.wide[place]
        return part.index_select(1, self.low).lerp_(part.index_select(1, self.high), self.share)


def batched(parts: list[Tile]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Tiles padded to one size of whole strides, (b, 3, h, w), and their sizes before."""
    sizes = [(int(t.pixels.shape[-2]), int(t.pixels.shape[-1])) for t in parts]
    height = -(-max(s[0] for s in sizes) // _STRIDE) * _STRIDE
    width = -(-max(s[1] for s in sizes) // _STRIDE) * _STRIDE
    padded = [functional.pad(t.pixels, (0, width - s[1], 0, height - s[0])) for t, s in zip(parts, sizes, strict=True)]
    return torch.stack(padded), sizes


def central(detections: Detections, tile: Tile, slack: float = 4.0) -> Tensor:
    """Which detections have their middle in their tile's core, (n,) bool.

    Others are another tile's, which sees more of them. Within `slack` of the core's sides both keep theirs, as they
    may place the middle differently; one of the two goes as a double.
    """
    left, top, right, bottom = tile.core
    x = (detections.boxes[:, 0] + detections.boxes[:, 2]) / 2
    y = (detections.boxes[:, 1] + detections.boxes[:, 3]) / 2
    inside = (x >= left - slack) & (x <= right + slack)
    return inside & (y >= top - slack) & (y <= bottom + slack)


def cut(detections: Detections, tile: Tile, slack: float = 2.0) -> Tensor:
    """Which detections reach a side of their tile where another tile goes on, (n,) bool: they may be halves."""
    height, width = tile.pixels.shape[-2:]
    inner = detections.boxes.new_tensor([tile.core[0], tile.core[1], -tile.core[2], -tile.core[3]]).isfinite()
    at_side = torch.cat(
        [detections.boxes[:, :2], detections.boxes.new_tensor([width, height]) - detections.boxes[:, 2:]], 1
    )
    return ((at_side <= slack) & inner).any(1)


def suppress(counts: list[bytes], halves: np.ndarray, record: ImageRecord, limit: float) -> np.ndarray:
    """Rows that stay when of two masks that overlap by IoU over `limit` the later one goes, whatever its class.

    Masks that a tile cut, where `halves` (n,) bool holds, go before whole ones, and also where most of such a mask
    lies in another that stays: half an object has a small IoU with the whole.
    """
    if not counts:
        return np.zeros(0, int)
    rles = [{"size": [record.height, record.width], "counts": c} for c in counts]
    same = np.asarray(mask_util.iou(rles, rles, [0] * len(rles))) > limit
    cut_rows = np.flatnonzero(halves)
    if len(cut_rows):
        part = [rles[row] for row in cut_rows]
        same[:, cut_rows] |= np.asarray(mask_util.iou(part, rles, [1] * len(rles))).T > 0.5
    order = np.argsort(halves, kind="stable")
    keep = np.ones(len(counts), bool)
    for at, row in enumerate(order):
        if keep[row]:
            later = order[at + 1 :]
            keep[later] &= ~same[row, later]
    return np.flatnonzero(keep)
