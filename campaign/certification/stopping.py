"""When to stop asking for a promise: a pure function of what was frozen and answered."""

from __future__ import annotations

import numpy as np

from campaign.certification.passing import Passing
from campaign.certification.promise import Frozen, Promise, Test, Voted

OUTERMOST = 0.04  # below the target: as precise is the outermost set expected to be
GIVE_UP = 3000  # draws without any set certified
LEARNING_SHARE = 0.7  # of a budget, for questions before the order is frozen; the rest is for the promise
_LEAST = 240  # draws before anything is said


def is_worth_going_on(
    frozen: Frozen, verdict: np.ndarray, voted: Voted, passing: Passing, alpha: float, price: float, now: Promise
) -> bool:
    """Whether some larger set is likely to be certified by so few draws that each brings `price` correct masks.

    `now` is the promise on all of `verdict`. What betting has won against a set so far says how many more draws it
    takes to refute the doubts about it, if it goes on like that. Nothing is left to do once the outermost set is
    certified, or all masks are drawn; without any certified set it goes on for `GIVE_UP` draws.
    """
    if now.draws >= len(frozen) or (now.met and now.size == len(frozen)):
        return False
    if now.draws < _LEAST:
        return True
    if not now.met:
        return now.draws < GIVE_UP
    test = Test(frozen, verdict, voted, passing, alpha)
    correct = np.cumsum(frozen.chance)
    for size in frozen.sizes[frozen.sizes > now.size].tolist():
        state = test.at(size)
        allowed = state.allowed(frozen.target)
        won = float(test.wealth(state, allowed + 1)[-1]) if allowed >= 0 else 0.0
        if won <= 0:
            return False  # the larger ones have more against them
        more = now.draws * max(test.limit / won - 1, 0.0)
        if correct[size - 1] - correct[now.size - 1] >= price * max(more, 1.0):
            return True
    return False
