"""Mask ids: where a mask lies, in one whole number below 2^53, so that JavaScript keeps it exactly.

An id holds a round (13 bits), a shard of that round (20 bits) and a row of the shard (20 bits). Shards of held-out
images are numbered from the far end. Masks that annotators drew have the last round, which no campaign reaches, and
the number of their drawing instead of shard and row.

All functions take whole numbers or integer arrays of them.

>>> split_mask_id(mask_id(2, 5, 7))
(2, 5, 7)
>>> is_drawn(drawn_id(41)), drawing_of(drawn_id(41))
(True, 41)
"""

from __future__ import annotations

from typing import Any

ROUND_BITS, SHARD_BITS, ROW_BITS = 13, 20, 20
DRAWN_ROUND = (1 << ROUND_BITS) - 1
LAST_SHARD, LAST_ROW = (1 << SHARD_BITS) - 1, (1 << ROW_BITS) - 1
_HELDOUT_FROM = 1 << (SHARD_BITS - 1)
_ROUND_SHIFT = SHARD_BITS + ROW_BITS
_DRAWING = (1 << _ROUND_SHIFT) - 1


def mask_id(round_number: int, shard: int, row: int) -> int:
    """The id of one mask, unique in a campaign."""
    return (round_number << _ROUND_SHIFT) | (shard << ROW_BITS) | row


def split_mask_id(mask: int) -> tuple[int, int, int]:
    """(round, shard, row) of a mask id: the inverse of `mask_id`."""
    return round_of(mask), shard_of(mask), row_of(mask)


def round_of(mask: Any) -> Any:
    """The round in a mask id, or in each of an array."""
    return mask >> _ROUND_SHIFT


def shard_of(mask: Any) -> Any:
    """The shard in a mask id, as it stands there."""
    return mask >> ROW_BITS & LAST_SHARD


def row_of(mask: Any) -> Any:
    """The row in a mask id."""
    return mask & LAST_ROW


def place_of(mask: Any) -> Any:
    """Round and shard of a mask id in one number: masks of one shard have the same."""
    return mask >> ROW_BITS


def first_of_place(place: int) -> int:
    """The id of the first mask of a place, see `place_of`."""
    return int(place) << ROW_BITS


def shard_number(split_is_pool: bool, number: int) -> int:
    """How a split's shard is numbered in ids: held-out shards from the far end. Its own inverse."""
    return number if split_is_pool else LAST_SHARD - number


def is_heldout(mask: Any) -> Any:
    """Whether a mask id names a prediction on a held-out image."""
    return (round_of(mask) != DRAWN_ROUND) & (shard_of(mask) >= _HELDOUT_FROM)


def is_drawn(mask: Any) -> Any:
    """Whether a mask id names a mask that an annotator drew."""
    return round_of(mask) == DRAWN_ROUND


def drawn_id(drawing: int) -> int:
    """The id of the mask that a drawing made of another."""
    return DRAWN_ROUND << _ROUND_SHIFT | drawing


def drawing_of(mask: int) -> int:
    """The drawing behind the id of a drawn mask."""
    return mask & _DRAWING
