"""What an annotator said, checked at the door."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ml_backend.errors import InputError
from ml_backend.interactive.segmenter import Click, Prompt


@dataclass(frozen=True)
class Said:
    """A prompt that is known to be sound: the box lies in the picture, clicks too, and the mask is not empty."""

    box: tuple[float, float, float, float] | None
    clicks: tuple[Click, ...]
    previous: np.ndarray | None


def checked(prompt: Prompt, height: int, width: int) -> Said:
    """The prompt, its box cut to the picture; an empty previous mask is none.

    Raises InputError where nothing says where the object is, a place is outside of the picture, the box has no size or
    the mask is not of the picture's shape.
    """
    for click in prompt.clicks:
        if not (math.isfinite(click.x) and math.isfinite(click.y)):
            raise InputError("click", "a place in the picture", f"({click.x}, {click.y})")
        if not (0 <= click.x <= width and 0 <= click.y <= height):
            raise InputError(
                "click", f"a place in the picture of {width}x{height} pixels", f"({click.x:g}, {click.y:g})"
            )
    box = None if prompt.box is None else _box(prompt.box, height, width)
    previous = prompt.previous
    if previous is not None:
        if previous.shape != (height, width):
            raise InputError("previous mask", f"the picture's shape {(height, width)}", previous.shape)
        previous = previous.astype(bool) if previous.any() else None
    if box is None and previous is None and not any(c.positive for c in prompt.clicks):
        got = f"{len(prompt.clicks)} negative clicks alone" if prompt.clicks else "nothing"
        raise InputError("prompt", "a box, a positive click or a mask to correct", got)
    return Said(box, prompt.clicks, previous)


def _box(box: tuple[float, float, float, float], height: int, width: int) -> tuple[float, float, float, float]:
    if len(box) != 4 or not all(math.isfinite(v) for v in box):
        raise InputError("box", "x0, y0, x1, y1 in pixels", box)
    x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
    if x1 <= x0 or y1 <= y0:
        raise InputError(
            "box", f"a size within the picture of {width}x{height} pixels", tuple(round(v, 1) for v in box)
        )
    return x0, y0, x1, y1
