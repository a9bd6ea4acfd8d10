"""Masks to ask about before a search wants them, so that annotators seldom wait for it at its end.

A search learns from answers, so it asks in turns, and the last clusters of a class want a few masks each, turn after
turn. What it will come to want is foreseen by carrying it on, some times, against answers drawn from what is believed
of its undecided clusters: the share of the times that a mask is asked about is the chance that it is not asked about in
vain. An answer that is there ahead of its cluster counts wherever the mask is drawn later, in a child of the cluster
too, and changes no decision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from campaign.records.verdict import Verdict
from campaign.search.policies.adaptive import Adaptive
from campaign.search.tree_search import Search

_TIMES = 8  # that a search is carried on
_LEAST_CHANCE = 0.4  # that a mask is wanted, to be asked about
_IN_VAIN = 0.03  # of a search's questions, at most


def ahead(search: Search, count: int) -> list[tuple[int, int]]:
    """Up to `count` masks that a search after `catch_up` will likely want, as (cluster, leaf), the likeliest first.

    The cluster is the one that is expected to want the mask: one without a decision, or a part of one. None of the
    masks was asked about or is among the `wishes`. There are fewer where they would likely be asked about in vain. The
    same facts return the same masks.
    """
    if count < 1 or not search.cases:
        return []
    rng = np.random.default_rng((search.seed & 0xFFFFFFFF, search.questions, len(search.verdicts)))
    wished = {leaf for ask in search.wishes() for leaf in ask.leaves}
    courses = [_carry_on(search, wished, count, rng) for _ in range(_TIMES)]
    times = Counter(leaf for course in courses for leaf in course.wanted)
    cluster_of = {leaf: cluster for course in reversed(courses) for leaf, cluster in course.wanted.items()}
    likely = sorted((-n, leaf) for leaf, n in times.items() if n >= _LEAST_CHANCE * _TIMES)[:count]
    allowed = _IN_VAIN * search.questions
    if search.policy.shared_draw:  # others draw a mask more than once, so what was in vain so far is not known
        idle = search.questions - search.samples + len(wished)
        allowed -= idle - sum(course.used for course in courses) / _TIMES
    in_vain = np.cumsum([1 + n / _TIMES for n, _ in likely])
    most = int(np.searchsorted(in_vain, max(allowed, 0), side="right"))
    return [(cluster_of[leaf], leaf) for _, leaf in likely[:most]]


def places_ahead(free: Mapping[int, int], pages: int, least: int, size: int) -> dict[int, int]:
    """How many masks each class may ask about ahead, {class: masks}.

    `free`: {class: places} that its last page leaves free, of all classes whose last page is not full. Where fewer than
    `least` `pages` of `size` places are open, these classes share what is missing evenly, the first ones more.
    """
    missing = max(0, least - pages)
    share, over = divmod(missing, len(free)) if free else (0, 0)
    return {key: places + size * (share + (i < over)) for i, (key, places) in enumerate(free.items())}


class _Course(NamedTuple):
    """One way for a search to go on: masks that it asks about, {leaf: cluster}; `used` ones were asked about before."""

    wanted: dict[int, int]
    used: int


def _carry_on(search: Search, wished: set[int], most: int, rng: np.random.Generator) -> _Course:
    """The course of a search against one draw of the answers, without what it `wished` for before.

    The best clusters come first, and it ends with the search or as soon as it wants more than `most` masks.
    """
    twin = search.fork()
    twin.budget = None
    believing = search.policy if isinstance(search.policy, Adaptive) else Adaptive()
    wanted: dict[int, int] = {}
    asks = None
    while asks != [] and len(wanted) <= most:
        twin.settle()
        while twin.next_priority is not None and len(wanted) <= most:
            ask = twin.advance()
            if ask is not None:
                wanted |= {leaf: ask.cluster for leaf in ask.leaves if leaf not in wished}
        asks = twin.open
        for ask in asks:
            chance = believing.chance_of_yes(twin.cases[ask.cluster].evidence, search.thresholds, rng)
            for leaf in ask.leaves:
                twin.answer(leaf, Verdict.YES if rng.random() < chance else Verdict.NO)
    return _Course(wanted, twin.samples - search.samples - len(wanted))
