"""Columns of all masks gone through in portions: what is worked out on the way takes the memory of one portion."""

from __future__ import annotations

from collections.abc import Iterator

PORTION = 1 << 16  # masks


def portions(n: int) -> Iterator[slice]:
    """Slices that together are n rows, one after the other; none of no rows.

    >>> list(portions(70_000))
    [slice(0, 65536, None), slice(65536, 70000, None)]
    """
    return (slice(start, min(start + PORTION, n)) for start in range(0, n, PORTION))
