"""Label Studio's brush RLE: bits that pack the run lengths of an RGBA picture, row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
    lengths = np.diff(edges) * _CHANNELS
    values = np.where(flat[edges[:-1]], 255, 0).astype(np.int64)
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
    header = f"{flat.size * _CHANNELS:032b}{_WORD - 1:05b}" + "".join(f"{w - 1:04b}" for w in _WIDTHS)
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
