"""The square part of a picture that a prompt is about, seen on a grid of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from ml_backend.interactive.segmenter import Click, Proposal
from ml_backend.masks.pasting import resampled

# Sides of windows, in pixels, below which nothing is to be seen.
LEAST_SIDE = 8.0


@dataclass(frozen=True)
class Window:
    """A square of a picture, in pixels; it may reach out of the picture."""

    x0: float
    y0: float
    side: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1."""
        return self.x0, self.y0, self.x0 + self.side, self.y0 + self.side

    def on_grid(self, points: np.ndarray, grid: int) -> np.ndarray:
        """Points (n, 2) of the picture in cells of a grid of `grid` by `grid` over the window."""
        return (np.asarray(points, np.float64).reshape(-1, 2) - (self.x0, self.y0)) * (grid / self.side)

    def in_picture(self, points: np.ndarray, grid: int) -> np.ndarray:
        """Points (n, 2) in cells of a grid over the window as points of the picture."""
        return np.asarray(points, np.float64).reshape(-1, 2) * (self.side / grid) + (self.x0, self.y0)


def extent_of(mask: np.ndarray) -> tuple[float, float, float, float] | None:
    """The box x0, y0, x1, y1 of a mask (height, width); None where it is empty.

    >>> extent_of(np.array([[0, 0, 0], [0, 1, 1]], bool))
    (1.0, 1.0, 3.0, 2.0)
    """
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def joined(extents: Sequence[tuple[float, float, float, float] | None]) -> tuple[float, float, float, float]:
    """The box around boxes, of which at least one is not None."""
    boxes = np.array([e for e in extents if e is not None])
    low, high = boxes[:, :2].min(0), boxes[:, 2:].max(0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def window_around(extent: tuple[float, float, float, float], margin: float, least: float = LEAST_SIDE) -> Window:
    """The window in the middle of which a box lies; its side is `margin` times the longer side of the box.

    >>> window_around((10, 10, 30, 20), margin=2.0)
    Window(x0=0.0, y0=-5.0, side=40.0)
    """
    x0, y0, x1, y1 = extent
    side = max(max(x1 - x0, y1 - y0) * margin, least)
    return Window((x0 + x1) / 2 - side / 2, (y0 + y1) / 2 - side / 2, side)


def seen(picture: Tensor, windows: Sequence[Window], cells: int, scale: float = 1.0) -> Tensor:
    """What a picture (c, h, w) shows in windows, (n, c, cells, cells): the mean over each cell, 0 outside of it.

    Args:
        picture: any channels, of which a cell of `1 / scale` pixels is one value.
        windows: in pixels.
        cells: of a side of the grid.
        scale: values per pixel of the windows.
    """
    if not windows:
        return picture.new_zeros((0, picture.shape[0], cells, cells))
    boxes = torch.tensor([w.box for w in windows], dtype=picture.dtype, device=picture.device)
    return roi_align(picture[None], [boxes], cells, spatial_scale=scale, sampling_ratio=0, aligned=True)


def mask_on_grid(mask: np.ndarray, window: Window, grid: int) -> np.ndarray:
    """The share of each cell of a window that a mask (height, width) covers, (grid, grid) float32."""
    # The part of the mask under the window: the whole of a large picture need not become floats.
    x0, y0 = max(int(np.floor(window.x0)) - 1, 0), max(int(np.floor(window.y0)) - 1, 0)
    x1, y1 = int(np.ceil(window.x0 + window.side)) + 1, int(np.ceil(window.y0 + window.side)) + 1
    part = mask[y0 : max(y1, 0), x0 : max(x1, 0)]
    if not part.size:
        return np.zeros((grid, grid), np.float32)
    moved = Window(window.x0 - x0, window.y0 - y0, window.side)
    return seen(torch.from_numpy(np.ascontiguousarray(part, np.float32))[None], [moved], grid)[0, 0].numpy()


def in_picture(values: np.ndarray, window: Window, height: int, width: int) -> tuple[np.ndarray, slice, slice]:
    """Values (grid, grid) of a window at the pixels of the picture: (values (h, w), rows, columns)."""
    part, left, top = resampled(values, np.array(window.box), height, width)
    return part, slice(top, top + part.shape[0]), slice(left, left + part.shape[1])


def pixels_in(
    pixels: np.ndarray, mean: np.ndarray, deviation: float | np.ndarray, window: Window, cells: int
) -> Tensor:
    """What a picture (h, w, 3) uint8 shows in a window, normalised, (1, 3, cells, cells); its mean outside of it."""
    x0, y0 = max(int(np.floor(window.x0)) - 1, 0), max(int(np.floor(window.y0)) - 1, 0)
    x1, y1 = (int(np.ceil(v + window.side)) + 1 for v in (window.x0, window.y0))
    part = pixels[y0 : max(y1, 0), x0 : max(x1, 0)]
    if not part.size:
        return torch.zeros(1, 3, cells, cells)
    normal = ((part.astype(np.float32) - mean) / deviation).astype(np.float32)
    moved = Window(window.x0 - x0, window.y0 - y0, window.side)
    return seen(torch.from_numpy(np.ascontiguousarray(normal.transpose(2, 0, 1))), [moved], cells)


def clicks_on_grid(clicks: Sequence[Click], window: Window, grid: int) -> list[Click]:
    """Clicks of the picture in cells of a grid over the window."""
    places = window.on_grid(np.array([(c.x, c.y) for c in clicks]), grid)
    return [Click(float(x), float(y), c.positive) for (x, y), c in zip(places, clicks, strict=True)]


def proposal_of(probability: np.ndarray, window: Window, height: int, width: int, predicted_iou: float) -> Proposal:
    """The proposal in the picture of probabilities (grid, grid) in a window."""
    part, rows, columns = in_picture(probability, window, height, width)
    mask = np.zeros((height, width), bool)
    mask[rows, columns] = part > 0.5
    stability = float((part > 0.6).sum() / max(int((part > 0.4).sum()), 1))
    return Proposal(mask, predicted_iou, stability)
