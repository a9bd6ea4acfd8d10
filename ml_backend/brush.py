"""Label Studio's brush RLE: bits that pack the run lengths of an RGBA picture, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_util

from ml_backend.rle import decode_window

_CHANNELS = 4
_WORD = 8
# Widths in bits in which the length of a run may be written; the shortest that fits is taken.
_WIDTHS = (3, 4, 8, 16)
_HEADER_BITS = 32 + 5 + 4 * len(_WIDTHS)


def encode_brush(mask: np.ndarray) -> list[int]:
    """The brush RLE of `mask` (height, width) bool: byte values as Label Studio stores them. Exact."""
    flat = np.ascontiguousarray(mask, dtype=bool).ravel()
    if flat.size == 0:
        raise ValueError("mask: expected at least one pixel, got none")
    edges = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
    return _pack(edges, np.where(flat[edges[:-1]], 255, 0).astype(np.int64))


def encode_brush_rle(rle: dict) -> list[int]:
    """The same as `encode_brush` of a COCO compressed RLE, without ever unfolding the whole image."""
    height, width = (int(v) for v in rle["size"])
    x, y, w, h = (int(v) for v in mask_util.toBbox(rle))
    part = np.zeros((h, w + 2), np.int8)
    part[:, 1:-1] = decode_window(rle, x, y, x + w, y + h)
    steps = np.diff(part, axis=1)
    (rows, columns), (end_rows, end_columns) = np.nonzero(steps > 0), np.nonzero(steps < 0)
    starts, ends = (rows + y) * width + columns + x, (end_rows + y) * width + end_columns + x
    # A run that reaches the border of the image goes on in the next row.
    apart = starts[1:] != ends[:-1]
    starts, ends = (
        starts[np.concatenate(([True], apart))[: len(starts)]],
        ends[np.concatenate((apart, [True]))[: len(ends)]],
    )
    edges = np.concatenate(([0], np.column_stack((starts, ends)).ravel(), [height * width]))
    kept = np.concatenate((edges[1:] > edges[:-1], [True]))
    values = np.where(np.arange(len(edges) - 1) % 2, 255, 0)[kept[:-1]]
    return _pack(edges[kept], values)


def _pack(edges: np.ndarray, values: np.ndarray) -> list[int]:
    """The bytes for pixels of `values` (k,), each from edges[i] to edges[i + 1]; edges (k + 1,) rise from 0."""
    pixels, lengths = int(edges[-1]), np.diff(edges) * _CHANNELS
    # A run longer than 16 bits can tell is written in several.
    longest = 1 << _WIDTHS[-1]
    pieces = -(-lengths // longest)
    values = np.repeat(values, pieces)
    last = np.cumsum(pieces) - 1
    split = np.full(int(pieces.sum()), longest, np.int64)
    split[last] = lengths - (pieces - 1) * longest
    kind = np.searchsorted([1 << w for w in _WIDTHS], split)
    width = np.array(_WIDTHS, np.int64)[kind]
    # One bit for "a run", two for the width, the length less one, the value.
    code = (((((1 << 2) | kind) << width) | (split - 1)) << _WORD) | values
    size = 3 + width + _WORD
    start = _HEADER_BITS + np.cumsum(size) - size
    bits = np.zeros(_HEADER_BITS + int(size.sum()), np.uint8)
    header = f"{pixels * _CHANNELS:032b}{_WORD - 1:05b}" + "".join(f"{w - 1:04b}" for w in _WIDTHS)
    bits[:_HEADER_BITS] = np.frombuffer(header.encode(), np.uint8) - ord("0")
    for place in range(int(size.max())):
        held = place < size
        bits[start[held] + place] = (code[held] >> (size[held] - 1 - place)) & 1
    return np.packbits(bits).tolist()


def decode_brush(rle: Sequence[int], height: int, width: int) -> np.ndarray:
    """The mask in a brush RLE, (height, width) bool: where it is more than half opaque.

    Raises ValueError where it is malformed or of another size.
    """
    try:
        raw = np.asarray(rle)
        if raw.ndim != 1 or raw.size < 7 or raw.dtype.kind not in "iu" or raw.min() < 0 or raw.max() > 255:
            raise ValueError("bytes")
        bits = (np.unpackbits(raw.astype(np.uint8)) + ord("0")).tobytes()
        total, word = int(bits[:32], 2), int(bits[32:37], 2) + 1
        widths = [int(bits[37 + 4 * i : 41 + 4 * i], 2) + 1 for i in range(4)]
    except (ValueError, TypeError):
        raise ValueError("brush RLE: expected a list of bytes that starts with its sizes, got something else") from None
    if total != height * width * _CHANNELS or word != _WORD:
        raise ValueError(f"brush RLE: expected {height * width * _CHANNELS} values of 8 bits, got {total} of {word}")
    out = np.empty(total, np.uint8)
    at, i = _HEADER_BITS, 0
    while i < total:
        head = bits[at : at + 3]
        if len(head) < 3:
            raise ValueError(f"brush RLE: expected {total} values, got {i}")
        size = widths[int(head[1:], 2)]
        count = int(bits[at + 3 : at + 3 + size] or b"0", 2) + 1
        at += 3 + size
        stop = min(i + count, total)
        span = _WORD if head[0] == ord("1") else _WORD * (stop - i)
        part = bits[at : at + span]
        if len(part) < span:
            raise ValueError(f"brush RLE: expected {total} values, got {i}")
        if head[0] == ord("1"):
            out[i:stop] = int(part, 2)
        else:
            out[i:stop] = np.packbits(np.frombuffer(part, np.uint8) - ord("0"))
        at, i = at + span, stop
    return out.reshape(height, width, _CHANNELS)[..., 3] >= 128
