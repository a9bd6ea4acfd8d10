"""The square part of a picture that a prompt is about, seen on a grid of cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ml_backend.interactive.segmenter import Click, Proposal
from ml_backend.masks.pasting import resampled

if TYPE_CHECKING:
    from torch import Tensor

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
    import torch  # by those alone who have tensors: a turn asks for the extent of a mask
    from torchvision.ops import roi_align

    if not windows:
        return picture.new_zeros((0, picture.shape[0], cells, cells))
    boxes = torch.tensor([w.box for w in windows], dtype=picture.dtype, device=picture.device)
    return roi_align(picture[None], [boxes], cells, spatial_scale=scale, sampling_ratio=0, aligned=True)


def cell_weights(low: float, side: float, cells: int, length: int) -> np.ndarray:
    """What each of `length` values along an axis counts in each cell of a window there, (cells, length) float32.

    `seen` is the rows' weights times the picture times the columns': its samples lie on a grid, and so the mean over
    them is one of means. That takes a tenth of the time where a window is large.
    """
    samples = max(int(np.ceil(side / cells)), 1)
    places = low - 0.5 + (np.arange(cells * samples) + 0.5) * (side / (cells * samples))
    known = (places >= -1) & (places <= length)
    places = np.clip(places, 0, length - 1)
    first = np.minimum(places.astype(np.int64), max(length - 2, 0))
    second = np.minimum(first + 1, length - 1)
    share = places - first
    weights, cell = np.zeros((cells, length), np.float64), np.arange(cells * samples) // samples
    np.add.at(weights, (cell, first), known * (1 - share) / samples)
    np.add.at(weights, (cell, second), known * share / samples)
    return weights.astype(np.float32)


def _part(picture: np.ndarray, window: Window) -> tuple[np.ndarray, Window]:
    """The part of a picture (h, w, ...) under a window, and the window in it: the whole need not become floats."""
    x0, y0 = max(int(np.floor(window.x0)) - 1, 0), max(int(np.floor(window.y0)) - 1, 0)
    x1, y1 = int(np.ceil(window.x0 + window.side)) + 1, int(np.ceil(window.y0 + window.side)) + 1
    return picture[y0 : max(y1, 0), x0 : max(x1, 0)], Window(window.x0 - x0, window.y0 - y0, window.side)


def mask_on_grid(mask: np.ndarray, window: Window, grid: int) -> np.ndarray:
    """The share of each cell of a window that a mask (height, width) covers, (grid, grid) float32."""
    part, moved = _part(mask, window)
    if not part.size:
        return np.zeros((grid, grid), np.float32)
    rows = cell_weights(moved.y0, moved.side, grid, part.shape[0])
    columns = cell_weights(moved.x0, moved.side, grid, part.shape[1])
    return rows @ part.astype(np.float32) @ columns.T


def in_picture(values: np.ndarray, window: Window, height: int, width: int) -> tuple[np.ndarray, slice, slice]:
    """Values (grid, grid) of a window at the pixels of the picture: (values (h, w), rows, columns)."""
    part, left, top = resampled(values, np.array(window.box), height, width)
    return part, slice(top, top + part.shape[0]), slice(left, left + part.shape[1])


def pixels_in(
    pixels: np.ndarray, mean: np.ndarray, deviation: float | np.ndarray, window: Window, cells: int
) -> Tensor:
    """What a picture (h, w, 3) uint8 shows in a window, normalised, (1, 3, cells, cells); its mean outside of it."""
    import torch

    part, moved = _part(pixels, window)
    if not part.size:
        return torch.zeros(1, 3, cells, cells)
    rows = cell_weights(moved.y0, moved.side, cells, part.shape[0])
    columns = cell_weights(moved.x0, moved.side, cells, part.shape[1])
    lines = (rows @ part.reshape(len(part), -1).astype(np.float32)).reshape(cells, -1, 3)
    shown = (columns @ lines).transpose(2, 0, 1)
    # Outside of the picture nothing counts, which is its mean.
    counted = np.outer(rows.sum(1), columns.sum(1))
    normal = (shown - np.reshape(mean, (-1, 1, 1)) * counted) / np.reshape(deviation, (-1, 1, 1))
    return torch.from_numpy(normal.astype(np.float32))[None]


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
