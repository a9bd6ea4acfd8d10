"""Reading on from where the last turn stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from campaign.store import Store

T = TypeVar("T")


def read_on(
    store: Store, name: str, read: Callable[[str | None], tuple[T, str | None]], keep: Callable[[T], int]
) -> int:
    """What is new since the cursor `name`: `read` gives it with the next cursor, `keep` stores it and counts.

    The cursor moves after the facts are stored: a turn that is killed between reads them again, and none is lost.
    """
    known = store.values.get(name)
    found, cursor = read(known["value"] if known else None)
    new = keep(found)
    if known is None or known["value"] != cursor:
        store.values.set(name, {"value": cursor})
    return new
