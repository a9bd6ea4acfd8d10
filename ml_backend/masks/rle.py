"""COCO run lengths read without decoding the whole image."""

from __future__ import annotations

import numpy as np

from ml_backend.masks.limits import MAX_MASK_BYTES, check_size

# Bytes of one number. pycocotools goes on shifting after more, and then says something else.
_LONGEST = 6


def run_lengths(counts: bytes) -> np.ndarray:
    """The run lengths in the counts of a COCO compressed RLE, int64; runs alternate, background first.

    Each number lies in bytes of five bits, low bits first, and from the fourth on is the difference to the
    number two before it. Raises ValueError where the counts are malformed.

    >>> run_lengths(b"142").tolist()
    [1, 4, 2]
    """
    if len(counts) > MAX_MASK_BYTES:
        raise ValueError(f"expected the counts of a compressed RLE, at most {MAX_MASK_BYTES} bytes, got {len(counts)}")
    raw = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    if len(raw) == 0:
        return raw
    if raw.min() < 0 or raw.max() > 63 or raw[-1] & 0x20:
        raise ValueError("expected the counts of a compressed RLE, got other bytes")
    ends = np.flatnonzero((raw & 0x20) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1))
    if (ends - starts).max() >= _LONGEST:
        raise ValueError(f"expected the counts of a compressed RLE, got a number of more than {_LONGEST} bytes")
    place = np.arange(len(raw)) - np.repeat(starts, ends - starts + 1)
    values = np.add.reduceat((raw & 0x1F) << (5 * place), starts)
    negative = (raw[ends] & 0x10) != 0
    values[negative] -= np.int64(1) << (5 * (ends - starts + 1))[negative]
    # From the third number on odd and even runs add up separately; the first stands alone.
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    if len(values) and values.min() < 0:
        raise ValueError("expected run lengths of at least 0, got a negative one")
    return values


def checked(counts: bytes, height: int, width: int) -> bytes:
    """The counts of a compressed RLE from elsewhere, as pycocotools reads them right.

    Raises ValueError where they are malformed or those of another size. Linear in their length.
    """
    check_size(height, width)
    try:
        runs = run_lengths(counts)
    except ValueError as error:
        raise ValueError(f"a compressed RLE of {height * width} pixels ({error})") from None
    if runs.sum() != height * width:
        raise ValueError(f"a compressed RLE of {height * width} pixels")
    # Within a mask pycocotools takes a run of no pixels for the end, or for a part of its box.
    return counts if (runs[1:] > 0).all() else packed(runs, height, width)


def packed(runs: np.ndarray, height: int, width: int) -> bytes:
    """Counts of the compressed RLE of these run lengths, background first; those of no pixels are left out.

    Raises ValueError where they do not sum to the pixels of the image.
    """
    from pycocotools import mask as mask_util

    check_size(height, width)
    if len(runs) > MAX_MASK_BYTES:
        raise ValueError(f"at most {MAX_MASK_BYTES} run lengths")
    if len(runs) == 0 or runs.min() < 0 or runs.max() > height * width or runs.sum() != height * width:
        raise ValueError(f"run lengths that sum to {height * width}")
    if not (runs[1:] > 0).all():
        solid, value = runs[runs > 0], np.flatnonzero(runs > 0) % 2
        first = np.flatnonzero(np.r_[True, value[1:] != value[:-1]])
        joined = np.add.reduceat(solid, first)
        return packed(np.concatenate(([0], joined)) if value[0] else joined, height, width)
    return mask_util.frPyObjects({"size": [height, width], "counts": runs.tolist()}, height, width)["counts"]


def areas(rles: list[dict]) -> np.ndarray:
    """Pixels of each mask, (n,) int64. pycocotools 2.0.11 fails where it is given more than 255 at once."""
    from pycocotools import mask as mask_util

    parts = [mask_util.area(rles[start : start + 255]) for start in range(0, len(rles), 255)]
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def decode_window(rle: dict, x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    """The mask inside columns x0 to x1 and rows y0 to y1, (y1 - y0, x1 - x0) bool; outside the image it is False.

    The cost depends on the runs and the window only, not on the size of the image.
    """
    height, width = (int(v) for v in rle["size"])
    counts = rle["counts"]
    runs = run_lengths(counts.encode("ascii") if isinstance(counts, str) else bytes(counts))
    left, right = max(x0, 0), min(x1, width)
    top, bottom = max(y0, 0), min(y1, height)
    window = np.zeros((y1 - y0, x1 - x0), bool)
    if left >= right or top >= bottom:
        return window
    edges = np.cumsum(runs)
    starts, ends = edges[0:-1:2], edges[1::2]
    inside = (ends > left * height) & (starts < right * height)
    starts, ends = starts[inside], ends[inside]
    first, last = starts // height, (ends - 1) // height
    # A run that goes on in the next column is one run in each.
    span = last - first + 1
    column = np.repeat(first, span) + np.arange(span.sum()) - np.repeat(np.cumsum(span) - span, span)
    low = np.maximum(np.repeat(starts, span) - column * height, top) - top
    high = np.minimum(np.repeat(ends, span) - column * height, bottom) - top
    seen = (low < high) & (column >= left) & (column < right)
    low, high, column = low[seen], high[seen], column[seen] - left
    # One row more than there are: a run may end below the last one.
    steps = np.zeros((right - left, bottom - top + 1), np.int8)
    steps[column, low] = 1
    steps[column, high] -= 1
    window[top - y0 : bottom - y0, left - x0 : right - x0] = np.cumsum(steps, axis=1, dtype=np.int8)[:, :-1].T
    return window
