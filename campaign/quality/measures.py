"""How far an annotator can be trusted, by gold. Pure functions of answers.

Hidden gold shows most. Each user's gold answers, in the order in which they came, run through a cumulative sum
test (Page 1954, "Continuous inspection schemes") of the accepted share of errors against the limit. It finds a user
who was careless from the start as well as one who grew tired, and it says since when: the answers since then are the
ones not to trust. A user counts again once as strong evidence speaks for them.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from campaign.records.verdict import Verdict

ALARM = 2.5  # log likelihood ratio at which a user counts as careless; the same the other way makes up for it
CREDIT = 3.0  # the most that right answers of long ago speak for a user


class Rate(NamedTuple):
    """A share with its exact 95 % interval (Clopper and Pearson 1934)."""

    value: float
    low: float
    high: float
    asked: int


def rate(right: int, asked: int) -> Rate | None:
    """The share `right` of `asked`; None where nothing was asked."""
    from scipy.special import betaincinv

    if asked == 0:
        return None
    low = float(betaincinv(right, asked - right + 1, 0.025)) if right else 0.0
    high = float(betaincinv(right + 1, asked - right, 0.975)) if right < asked else 1.0
    return Rate(right / asked, low, high, asked)


@dataclass(frozen=True)
class GoldAnswer:
    """One user's answer on one gold mask; `truth` is its known verdict, `at` orders a user's answers."""

    user: str
    mask_id: int
    truth: Verdict
    verdict: Verdict
    at: str


@dataclass(frozen=True)
class Reliability:
    """A user on gold: of the correct masks the share voted yes, of the wrong ones the share voted no.

    Unsure answers are in neither; `unsure` is their share of all.
    """

    sensitivity: Rate | None
    specificity: Rate | None
    unsure: Rate | None

    @property
    def asked(self) -> int:
        """Gold answered, unsure included."""
        return self.unsure.asked if self.unsure else 0


def reliability(answers: Iterable[GoldAnswer]) -> Reliability:
    """How reliable a user is on gold, or all users together."""
    count = Counter((a.truth, a.verdict) for a in answers)
    yes, no = count[Verdict.YES, Verdict.YES], count[Verdict.NO, Verdict.NO]
    unsure = count[Verdict.YES, Verdict.UNSURE] + count[Verdict.NO, Verdict.UNSURE]
    return Reliability(
        rate(yes, yes + count[Verdict.YES, Verdict.NO]),
        rate(no, no + count[Verdict.NO, Verdict.YES]),
        rate(unsure, count.total()),
    )


def first_answers(answers: Iterable[GoldAnswer]) -> list[GoldAnswer]:
    """Of each user and mask the first answer alone: who sees a mask again may remember it."""
    first: dict[tuple[str, int], GoldAnswer] = {}
    for answer in sorted(answers, key=lambda a: (a.at, a.mask_id)):
        first.setdefault((answer.user, answer.mask_id), answer)
    return list(first.values())


def passed(answers: Sequence[GoldAnswer], limit: float) -> bool:
    """Whether a test is passed: the share that was right, an unsure answer being none, reaches the limit."""
    right = sum(a.verdict == a.truth for a in answers)
    return len(answers) > 0 and right >= limit * len(answers)


# Withdrawal


class WithdrawnInterval(NamedTuple):
    """A user's answers after `since` up to `until` do not count; the test noticed at `noticed`.

    `since` "" is from their first answer on, `until` None is until further notice. `wrong` of `asked` gold answers
    after `since` were wrong by then.
    """

    since: str
    noticed: str
    until: str | None
    wrong: int
    asked: int

    def holds(self, at: str) -> bool:
        """Whether an answer of that time is among those withdrawn."""
        return self.since < at and (self.until is None or at <= self.until)


def watch(
    answers: Sequence[GoldAnswer], accepted: float, limit: float, alarm: float = ALARM
) -> list[WithdrawnInterval]:
    """When a user's answers were not to be trusted, from their gold answers.

    The score is the log likelihood ratio of an error share of `limit` to one of `accepted`, never below `-CREDIT`. At
    `alarm` the answers since its last lowest point are withdrawn, and those to come until the score has fallen by
    twice as much. Answers count once per mask; unsure ones say nothing.
    """
    wrong_step, right_step = math.log(limit / accepted), math.log((1 - limit) / (1 - accepted))
    intervals: list[WithdrawnInterval] = []
    score, lowest, since, wrong, asked = 0.0, 0.0, "", 0, 0
    distrusted = False
    for answer in first_answers(answers):
        if answer.verdict == Verdict.UNSURE:
            continue
        error = answer.verdict != answer.truth
        score += wrong_step if error else right_step
        wrong, asked = wrong + error, asked + 1
        if distrusted:
            score = min(score, alarm)
            if score <= -alarm:
                intervals[-1] = intervals[-1]._replace(until=answer.at)
                distrusted, score, lowest, since, wrong, asked = False, 0.0, 0.0, answer.at, 0, 0
            continue
        score = max(score, -CREDIT)
        if score <= lowest:
            lowest, since, wrong, asked = score, answer.at, 0, 0
        elif score >= alarm:
            intervals.append(WithdrawnInterval(since, answer.at, None, wrong, asked))
            distrusted, score = True, alarm
    return intervals


CARELESS = 0.1  # share of users who are careless, before anything is known of one
CROWD_WEIGHT, LUCK_STEPS = 30, 5


def chances_of_luck(
    answers: Mapping[str, Sequence[GoldAnswer]],
    intervals: Mapping[str, Sequence[WithdrawnInterval]],
    accepted: float,
    limit: float,
) -> dict[str, list[tuple[WithdrawnInterval, float]]]:
    """For every withdrawn interval of each user the chance that the user was no worse than the others: bad luck.

    `answers` is the gold of every user. The others' share of errors, `accepted` at least, is estimated with it: each
    interval's gold counts as far as it was bad luck, over and over (Dempster, Laird and Rubin 1977).
    """
    said = {user: [a for a in first_answers(own) if a.verdict != Verdict.UNSURE] for user, own in answers.items()}
    inside = {u: [[a for a in said.get(u, ()) if t.holds(a.at)] for t in times] for u, times in intervals.items()}
    chances: dict[str, list[float]] = {}
    crowd = accepted
    for _ in range(LUCK_STEPS):
        chances = {user: [_luck(own, crowd, limit) for own in parts] for user, parts in inside.items()}
        wrong, asked = CROWD_WEIGHT * accepted, float(CROWD_WEIGHT)
        for user, own in said.items():
            times = intervals.get(user, ())
            for a in own:
                weight = min((c for t, c in zip(times, chances.get(user, ()), strict=True) if t.holds(a.at)), default=1)
                wrong, asked = wrong + weight * (a.verdict != a.truth), asked + weight
        crowd = min(max(accepted, wrong / asked), 0.9 * limit)
    return {user: list(zip(times, chances[user], strict=True)) for user, times in intervals.items()}


def _luck(answers: Sequence[GoldAnswer], accepted: float, limit: float) -> float:
    """The chance that errors are accepted ones, by the likelihood ratio that withdraws answers."""
    wrong = sum(a.verdict != a.truth for a in answers)
    score = wrong * math.log(limit / accepted) + (len(answers) - wrong) * math.log((1 - limit) / (1 - accepted))
    return 1 / (1 + CARELESS / (1 - CARELESS) * math.exp(min(score, 700.0)))


# Gold among the questions


CLEAR_YES, CLEAR_NO = 0.05, 0.15  # a mask this far above or below `k_iou` is beyond dispute
# Gold near the threshold shows where eyes cut. It is spread evenly over this band, and this much of all.
BAND_BELOW, BAND_ABOVE, BAND_STEP = 0.15, 0.10, 0.05
NEAR_SHARE = 0.4


class GoldMask(NamedTuple):
    """A mask with a known verdict, its IoU with the true mask where there is one, and the image it lies in.

    `near`: so near to `k_iou` that careful people may answer it wrong. It shows where their eyes cut and never that
    they were careless.
    """

    mask_id: int
    class_id: int
    truth: Verdict
    iou: float = math.nan
    image_id: int = 0
    near: bool = False


def is_near(iou: np.ndarray, k_iou: float) -> np.ndarray:
    """Which masks are not beyond dispute by their IoU with the true masks: too near to `k_iou`."""
    iou = np.asarray(iou)
    return (iou < min(k_iou + CLEAR_YES, 1.0)) & (iou > k_iou - CLEAR_NO)


def gold_quota(size: int, page_number: int, share: float, opening: bool) -> int:
    """How many masks of a page of `size` are to be gold: half of an opening page, else `share` on average."""
    if share <= 0:
        return 0
    if opening:
        return (size + 1) // 2
    return math.floor((page_number + 1) * share * size + 1e-9) - math.floor(page_number * share * size + 1e-9)


def opening_wanted(answered: Mapping[str, int], waiting: int, opening: int, newcomers: int = 1) -> bool:
    """Whether the next page should be an opening page: some users are not known yet, and too little gold waits.

    `answered` counts the gold that each user has answered, `waiting` the gold on pages that nobody has.
    """
    return waiting < sum(max(0, opening - n) for n in answered.values()) + newcomers * opening


def draw_gold(
    supply: Iterable[GoldMask], used: Mapping[int, GoldMask], class_id: int, count: int, seed: int, k_iou: float
) -> list[GoldMask]:
    """At most `count` masks of a class from the supply, none used before.

    In the end as many are correct as wrong, and of all, `NEAR_SHARE` lie near the threshold, evenly spread over the
    band around it, as far as the supply has them. `used` holds the gold of this class so far. The order of the supply
    does not matter.
    """
    free: dict[tuple[Verdict, int], list[GoldMask]] = defaultdict(list)
    for mask in supply:
        if mask.class_id == class_id and mask.mask_id not in used:
            free[mask.truth, _step(mask, k_iou)].append(mask)
    for masks in free.values():
        masks.sort(key=lambda m: _place_of(seed, m.mask_id), reverse=True)
    so_far = Counter((mask.truth, _step(mask, k_iou)) for mask in used.values())
    drawn: list[GoldMask] = []
    while len(drawn) < count and any(free.values()):
        kinds = {truth: [kind for kind in _kinds(truth) if free[kind]] for truth in (Verdict.YES, Verdict.NO)}
        of = {truth: sum(n for (known, _), n in so_far.items() if known == truth) for truth in kinds}
        want = Verdict.YES if of[Verdict.YES] <= of[Verdict.NO] else Verdict.NO
        if not kinds[want]:
            # A hundred correct ones in a row are no test: one kind never gets far ahead of the other.
            want = Verdict(1 - want)
            if of[want] > 2 * of[Verdict(1 - want)] + 5:
                break
        kind = max(kinds[want], key=lambda k: (_kinds(want)[k] * (of[want] + 1) - so_far[k], k[1]))
        so_far[kind] += 1
        drawn.append(free[kind].pop())
    return drawn


@lru_cache(maxsize=1 << 18)
def _place_of(seed: int, mask_id: int) -> int:
    """The place of gold in the order in which it is drawn: remembered, for every page looks at all of it."""
    return stable_hash(seed, mask_id)


@lru_cache(maxsize=2)
def _kinds(truth: Verdict) -> dict[tuple[Verdict, int], float]:
    """{(truth, step of the band): share among the gold of this truth}; step 0 is clear gold."""
    band = BAND_BELOW + BAND_ABOVE
    steps = (BAND_ABOVE if truth == Verdict.YES else BAND_BELOW) / BAND_STEP
    each = 2 * NEAR_SHARE * BAND_STEP / band  # correct gold is half of all
    sign = 1 if truth == Verdict.YES else -1
    near = {(truth, sign * n): each for n in range(1, round(steps) + 1)}
    return {(truth, 0): 1 - sum(near.values()), **near}


def _step(mask: GoldMask, k_iou: float) -> int:
    """The step of the band that a mask lies in: 1, 2 and so on above the threshold, -1, -2 below, 0 outside."""
    if math.isnan(mask.iou):
        return 0
    step = math.floor((mask.iou - k_iou) / BAND_STEP + 1e-6)  # IoUs are of single precision
    if mask.truth == Verdict.YES:
        return step + 1 if 0 <= step < round(BAND_ABOVE / BAND_STEP) else 0
    return step if -round(BAND_BELOW / BAND_STEP) <= step < 0 else 0


def page_order(key: str, masks: Iterable[tuple[int, bool]]) -> list[int]:
    """The masks of a page, (mask id, whether it is gold), in the order in which pages were shown that have no names.

    Masks of neighbouring images stay together, with gold among them: whoever sees the breaks may find it, so pages are
    shuffled as a whole now.
    """
    rows = sorted(masks)
    shown = [mask for mask, gold in rows if not gold]
    for mask, gold in rows:
        if gold:
            shown.insert(stable_hash(key, mask) % (len(shown) + 1), mask)
    return shown


def shuffled(key: str, masks: Iterable[int]) -> list[int]:
    """Masks in an order that follows from the key and tells nothing of them."""
    return sorted(masks, key=lambda mask: stable_hash("order", key, mask))


def is_chosen(key: str, share: float) -> bool:
    """Whether a page is among the `share` of pages that two users answer."""
    return stable_hash("overlap", key) < share * 2**64


def stable_hash(*parts: object) -> int:
    """A number below 2**64 that follows from the parts alone, and from nothing else."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
