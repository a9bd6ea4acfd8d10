"""The learning curve of a training: what held-out AP was on the way, whether it still rises, and by how much.

A curve is a list of points, dicts as they are stored:

| key | meaning |
| --- | --- |
| step, minutes | training steps and minutes of training until then |
| ap | mask AP on the held-out images that are measured on the way |
| ap50, classes | the same at IoU 0.5; AP and AP50 of each class by its id |
| loss | mean of each loss, by name, since the point before |
| decaying | whether the learning rate was decaying, which raises AP by itself |

How much more training would bring shows in the points before the decay alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Point = dict[str, Any]

# A smaller rise, as a share of the best AP so far, is none: AP on some dozens of images moves by as much.
LEAST_RISE = 0.01
# Below it a detector has not begun to find objects, and that AP does not rise yet says nothing.
LEAST_AP = 0.01


def has_stopped_rising(curve: Sequence[Point], patience: int) -> bool:
    """Whether the last `patience` measurements at the full learning rate brought no rise of AP.

    >>> curve = [{"ap": ap, "decaying": False} for ap in (0.1, 0.3, 0.301, 0.302)]
    >>> has_stopped_rising(curve, patience=2), has_stopped_rising(curve[:3], patience=2)
    (True, False)
    """
    best, since = 0.0, 0
    for point in _before_decay(curve):
        rises = point["ap"] > best * (1 + LEAST_RISE)
        best, since = (point["ap"], 0) if rises else (best, since + 1)
    return best >= LEAST_AP and since >= patience


def gained_last(curve: Sequence[Point], share: float = 0.25) -> float | None:
    """What AP gained over the last `share` of the steps at the full learning rate; None where too little is known.

    Between measurements AP is taken to go straight. A clear gain says that longer training would help.

    >>> gained_last([{"step": s, "ap": s / 1000, "decaying": False} for s in (100, 300, 400)])
    0.1
    """
    points = _before_decay(curve)
    if len(points) < 2 or points[0]["step"] > (1 - share) * points[-1]["step"]:
        return None
    steps, ap = [p["step"] for p in points], [p["ap"] for p in points]
    return round(ap[-1] - float(np.interp((1 - share) * steps[-1], steps, ap)), 6)


def _before_decay(curve: Sequence[Point]) -> list[Point]:
    return [point for point in curve if not point["decaying"]]
