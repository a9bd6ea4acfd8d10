"""How large what comes from outside may be: checked before any native code sees it."""

from __future__ import annotations

import math
from typing import Any

# Pixels of an image, everywhere; 4000x3000 is 12 million.
MAX_PIXELS = 64_000_000
# Bytes of a mask's run lengths and of a brush mask. Noise over 4 million pixels takes as much.
MAX_MASK_BYTES = 1 << 22
# Polygons of one mask, and their points.
MAX_POLYGONS, MAX_POINTS = 1 << 12, 1 << 18
# Pixels that the outlines of one mask's polygons pass.
MAX_OUTLINE = 1 << 19


def is_number(value: Any) -> bool:
    """Whether a value from JSON is a finite number that a float can hold."""
    if type(value) is int:
        return value.bit_length() < 1000
    return type(value) is float and math.isfinite(value)


def is_id(value: Any) -> bool:
    """Whether a value from JSON is a whole number of 64 bits."""
    return type(value) is int and -(1 << 63) <= value < 1 << 63


def check_size(height: int, width: int) -> None:
    """Raises ValueError for an image without pixels or with more than `MAX_PIXELS`."""
    if height < 1 or width < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"an image of 1 to {MAX_PIXELS} pixels, got {width}x{height}")
