"""Label Studio's brush RLE: bits that pack the run lengths of an RGBA picture, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ml_backend.masks.limits import MAX_MASK_BYTES, check_size
from ml_backend.masks.rle import decode_window

_CHANNELS = 4
_WORD = 8
# Widths in bits in which the length of a run may be written; the shortest that fits is taken.
_WIDTHS = (3, 4, 8, 16)
# Bits that are looked at together in reading.
_WINDOW = 24
_HEADER_BITS = 32 + 5 + 4 * len(_WIDTHS)
# What follows the number of values: bits of a value less one, then those of each width less one.
_SETTINGS = int(f"{_WORD - 1:05b}" + "".join(f"{w - 1:04b}" for w in _WIDTHS), 2)


# An opacity of brushes through which Label Studio lets clicks pass to the picture: only full pixels are hit. It is so
# much less because a browser that enlarges the mask may overshoot at its edges.
CLICKED_THROUGH = 200


def encode_brush(mask: np.ndarray, opacity: int = 255) -> list[int]:
    """The brush RLE of `mask` (height, width) bool: byte values as Label Studio stores them. Exact.

    `opacity` of its pixels, 128 to 255; `decode_brush` reads any of these the same.
    """
    flat = np.ascontiguousarray(mask, dtype=bool).ravel()
    if flat.size == 0:
        raise ValueError("mask: expected at least one pixel, got none")
    edges = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1, [flat.size]))
    return _pack([(edges, np.where(flat[edges[:-1]], opacity, 0))])[0]


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

    Raises ValueError where it is malformed or of another size. Linear in its length and the pixels.
    """
    check_size(height, width)
    raw = _bytes(rle)
    bits = np.unpackbits(raw)
    total, word = _number(bits[:32]), _number(bits[32:37]) + 1
    widths = [_number(bits[37 + 4 * i : 41 + 4 * i]) + 1 for i in range(4)]
    if total != height * width * _CHANNELS or word != _WORD:
        raise ValueError(f"brush RLE: expected {height * width * _CHANNELS} values of 8 bits, got {total} of {word}")
    words = _words(raw)
    starts, counts = _walk(words, widths, len(bits), total)
    kinds = _bits_at(words, starts, 1) == 1
    values_at = starts + 3 + np.array(widths)[_bits_at(words, starts + 1, 2)]
    ends = np.cumsum(counts)
    begins, ends = ends - counts, np.minimum(ends, total)
    # Of a pixel's four values the last one says how opaque it is.
    first, last = begins // _CHANNELS, ends // _CHANNELS
    steps = np.zeros(height * width + 1, np.int8)
    full = kinds & (last > first)
    full[full] = _bits_at(words, values_at[full], _WORD) >= 128
    steps[first[full]] = 1
    steps[last[full]] -= 1
    opaque = np.cumsum(steps, dtype=np.int8).view(bool)[:-1]
    each = np.flatnonzero(~kinds & (last > first))
    for part in np.array_split(each, len(each) // 65536 + 1):
        size = last[part] - first[part]
        pixel = np.repeat(first[part], size) + np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        place = np.repeat(values_at[part], size) + _WORD * (
            pixel * _CHANNELS + _CHANNELS - 1 - np.repeat(begins[part], size)
        )
        opaque[pixel] = _bits_at(words, place, _WORD) >= 128
    return opaque.reshape(height, width)


def _bytes(rle: Any) -> np.ndarray:
    """A brush RLE as uint8. Raises ValueError where it is no list of bytes, or a longer one than a mask can be."""
    if not isinstance(rle, Sequence) or isinstance(rle, str) or not 7 <= len(rle) <= MAX_MASK_BYTES:
        raise ValueError(f"brush RLE: expected 7 to {MAX_MASK_BYTES} bytes, got something else")
    if not all(type(value) is int and 0 <= value < 256 for value in rle):
        raise ValueError("brush RLE: expected a list of bytes that starts with its sizes, got something else")
    return np.frombuffer(bytes(rle), np.uint8)


def _walk(words: np.ndarray, widths: Sequence[int], end: int, total: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the codes of a brush RLE begin, in bits, and how many values each stands for, until there are `total`.

    Where a code ends follows from the code, so they are followed one by one; what would follow is worked out for all
    bits together, a stretch at a time. Raises ValueError where they end too early.
    """
    known = np.array(widths)
    at, values = _HEADER_BITS, 0
    starts: list[int] = []
    counts: list[int] = []
    stretch = 1 << 14
    while values < total:
        places = np.arange(at, min(at + stretch, end))
        width = known[_bits_at(words, places + 1, 2)]
        count = (_windows(words, places + 3) >> (_WINDOW - width)) + 1
        span = 3 + width + np.where(_bits_at(words, places, 1) == 1, 1, count) * _WORD
        sizes, spans = count.tolist(), span.tolist()
        begin, here = at, 0
        while here < len(spans) and values < total:
            starts.append(at)
            counts.append(sizes[here])
            values += sizes[here]
            at += spans[here]
            here = at - begin
        stretch = min(2 * stretch, 1 << 20)
        # The values of a literal beyond the last one wanted need not be there.
        if at >= end and (values < total or at - _WORD * (values - total) * (not _is_run(words, starts[-1])) > end):
            raise ValueError(f"brush RLE: expected {total} values, got fewer")
    return np.array(starts, np.int64), np.array(counts, np.int64)


def _words(raw: np.ndarray) -> np.ndarray:
    """The four bytes from each byte on as one number, and zeros beyond the end."""
    padded = np.concatenate((raw, np.zeros(8, np.uint8))).astype(np.uint32)
    return padded[:-3] << 24 | padded[1:-2] << 16 | padded[2:-1] << 8 | padded[3:]


def _windows(words: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The `_WINDOW` bits from each place on, as a number."""
    index = np.minimum(places >> 3, len(words) - 1)
    return (words[index].astype(np.int64) >> (8 - (places & 7))) & ((1 << _WINDOW) - 1)


def _bits_at(words: np.ndarray, places: np.ndarray, count: int) -> np.ndarray:
    """The `count` bits from each place on, as a number."""
    return _windows(words, places) >> (_WINDOW - count)


def _is_run(words: np.ndarray, place: int) -> bool:
    return bool(_bits_at(words, np.array([place]), 1)[0])


def _number(bits: np.ndarray) -> int:
    return int("".join(map(str, bits.tolist())), 2)
