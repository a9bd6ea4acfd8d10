"""When to stop asking for a promise: pure functions of what was frozen and answered."""

from __future__ import annotations

import numpy as np

from campaign.certification.passing import Passing
from campaign.certification.promise import Frozen, Promise, Voted, promise

OUTERMOST = 0.04  # below the target: as precise is the outermost set expected to be
GIVE_UP = 3000  # draws without any set certified
_LOOK_BACK = 0.8
_LEAST_BACK = 240


def is_worth_going_on(
    frozen: Frozen, verdict: np.ndarray, voted: Voted, passing: Passing, alpha: float, price: float, now: Promise
) -> bool:
    """Whether more draws are likely to bring `price` correct masks each, by what the last fifth of them brought.

    `now` is the promise on all of `verdict`. Nothing is left to do once the outermost set is certified, or all masks
    are drawn; without any certified set it goes on for `GIVE_UP` draws.
    """
    if now.draws >= len(frozen) or (now.met and now.size == len(frozen)):
        return False
    if not now.met:
        return now.draws < GIVE_UP
    before = int(min(now.draws * _LOOK_BACK, now.draws - _LEAST_BACK))
    if before <= 0:
        return True
    then_known = np.full(len(frozen), -1, np.int8)
    rows = frozen.order[:before]
    then_known[rows] = np.asarray(verdict)[rows]
    then = promise(frozen, then_known, voted, passing, alpha)
    if not then.met:
        return True
    gained = frozen.chance[: now.size].sum() - frozen.chance[: then.size].sum()
    return bool(gained + (now.masks - now.size) - (then.masks - then.size) >= price * (now.draws - before))
