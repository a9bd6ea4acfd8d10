"""An annotator's eye as a small plot: yes by true IoU, as seen and as estimated."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np

from campaign.derived.eyes import EyeFigures

WIDTH, HEIGHT = 200, 80  # of the plot, in its own units
POINTS = 101  # of the curve
LEAST, MOST = 1.5, 5.0  # radius of a dot


@dataclass(frozen=True)
class Dot:
    """What was said of the gold of one bin of IoU; larger where more was asked."""

    x: float
    y: float
    radius: float
    title: str


@dataclass(frozen=True)
class EyePlot:
    """The dots, and the points of the curve as SVG wants them."""

    dots: tuple[Dot, ...]
    line: str


def eye_plot(figures: EyeFigures) -> EyePlot:
    """The plot of one eye, IoU from 0 to 1 and the share of yes from 0 at the bottom to 1 at the top."""
    most = max(s.asked for s in figures.seen)
    dots = tuple(
        Dot(
            WIDTH * (s.low + s.high) / 2,
            HEIGHT * (1 - s.yes / s.asked),
            LEAST + (MOST - LEAST) * sqrt(s.asked / most),
            f"IoU {s.low:.2f} to {s.high:.2f}: {s.yes} yes of {s.asked}",
        )
        for s in figures.seen
    )
    iou = np.linspace(0, 1, POINTS)
    curve = zip(WIDTH * iou, HEIGHT * (1 - figures.eye.chance(iou)), strict=True)
    return EyePlot(dots, " ".join(f"{x:.1f},{y:.1f}" for x, y in curve))
