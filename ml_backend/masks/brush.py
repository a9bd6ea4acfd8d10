"""Label Studio's brush RLE: bits that pack the run lengths of an RGBA picture, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as mask_util

from ml_backend.masks.rle import decode_window

_CHANNELS = 4
_WORD = 8
# Widths in bits in which the length of a run may be written; the shortest that fits is taken.
_WIDTHS = (3, 4, 8, 16)
_HEADER_BITS = 32 + 5 + 4 * len(_WIDTHS)
# What follows the number of values: bits of a value less one, then those of each width less one.
_SETTINGS = int(f"{_WORD - 1:05b}" + "".join(f"{w - 1:04b}" for w in _WIDTHS), 2)


def encode_brush(mask: np.ndarray) -> list[int]:
    """The brush RLE of `mask` (height, width) bool: byte values as Label Studio stores them. Exact."""
    flat = np.ascontiguousarray(mask, dtype=bool).ravel()
    if flat.size == 0:
        raise ValueError("mask: expected at least one pixel, got none")
    edges = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
    return _pack([(edges, np.where(flat[edges[:-1]], 255, 0))])[0]


def encode_brush_rles(rles: Sequence[dict]) -> list[list[int]]:
    """The same as `encode_brush` of each COCO compressed RLE, without ever unfolding a whole image.

    Many masks together cost far less than one at a time.
    """
    boxes = mask_util.toBbox(list(rles)).astype(int) if rles else ()
    return _pack([_row_runs(rle, *box) for rle, box in zip(rles, boxes, strict=True)])


def _row_runs(rle: dict, x: int, y: int, w: int, h: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges (k + 1,) and values (k,) of the runs along the rows of the mask, whose box is given."""
    height, width = (int(v) for v in rle["size"])
    part = np.zeros((h, w + 2), np.int8)
    part[:, 1:-1] = decode_window(rle, x, y, x + w, y + h)
    # Along a row starts and ends take turns.
    rows, columns = np.nonzero(part[:, 1:] != part[:, :-1])
    places = (rows + y) * width + columns + x
    starts, ends = places[0::2], places[1::2]
    # A run that reaches the border of the image goes on in the next row.
    apart = starts[1:] != ends[:-1]
    if not apart.all():
        starts, ends = starts[np.concatenate(([True], apart))], ends[np.concatenate((apart, [True]))]
    edges = np.zeros(2 * len(starts) + 2, np.int64)
    edges[1:-1:2], edges[2:-1:2], edges[-1] = starts, ends, height * width
    kept = np.concatenate((edges[1:] > edges[:-1], [True]))
    return edges[kept], np.where(np.arange(len(edges) - 1) % 2, 255, 0)[kept[:-1]]


def _pack(masks: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[list[int]]:
    """The bytes of each mask, given as edges (k + 1,) that rise from 0 and values (k,) of the pixels between them."""
    if not masks:
        return []
    codes: list[np.ndarray] = []
    sizes: list[np.ndarray] = []
    lengths = []
    for edges, values in masks:
        code, size = _codes(np.diff(edges) * _CHANNELS, values)
        total = int(size.sum()) + _HEADER_BITS
        # Header and padding are codes like any other.
        codes += [np.array([edges[-1] * _CHANNELS, _SETTINGS]), code, np.zeros(1, np.int64)]
        sizes += [np.array([32, _HEADER_BITS - 32]), size, np.array([-total % 8])]
        lengths.append(-(-total // 8))
    size = np.concatenate(sizes)
    bits = np.unpackbits(np.concatenate(codes).astype(">u4").view(np.uint8).reshape(-1, 4), axis=1)
    # Of the 32 bits of a code the last ones count.
    packed = np.packbits(bits[np.arange(32) >= 32 - size[:, None]])
    return [part.tolist() for part in np.split(packed, np.cumsum(lengths)[:-1])]


def _codes(lengths: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each run as a number and the bits that it takes: a bit for "a run", two for the width, length less one, value."""
    longest = 1 << _WIDTHS[-1]
    if len(lengths) and lengths.max() > longest:
        # A run longer than 16 bits can hold is written in several.
        pieces = -(-lengths // longest)
        values = np.repeat(values, pieces)
        split = np.full(int(pieces.sum()), longest, np.int64)
        split[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * longest
        lengths = split
    kind = np.searchsorted([1 << w for w in _WIDTHS], lengths)
    width = np.array(_WIDTHS, np.int64)[kind]
    return ((((1 << 2) | kind) << width | (lengths - 1)) << _WORD) | values, 3 + width + _WORD


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
