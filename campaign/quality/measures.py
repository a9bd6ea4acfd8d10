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
from typing import NamedTuple

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


# Gold among the questions


class GoldMask(NamedTuple):
    """A mask with a known verdict, its IoU with the true mask where there is one, and the image it lies in."""

    mask_id: int
    class_id: int
    truth: Verdict
    iou: float = math.nan
    image_id: int = 0


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
    supply: Iterable[GoldMask], used: Mapping[int, Verdict], class_id: int, count: int, seed: int
) -> list[GoldMask]:
    """At most `count` masks of a class from the supply, none used before, as many correct as wrong ones in the end.

    `used` holds the gold of this class so far with its verdicts. The order of the supply does not matter.
    """
    free: dict[Verdict, list[GoldMask]] = defaultdict(list)
    for mask in supply:
        if mask.class_id == class_id and mask.mask_id not in used:
            free[mask.truth].append(mask)
    for masks in free.values():
        masks.sort(key=lambda m: stable_hash(seed, m.mask_id), reverse=True)
    so_far = Counter(used.values())
    drawn: list[GoldMask] = []
    while len(drawn) < count and (free[Verdict.YES] or free[Verdict.NO]):
        want = Verdict.YES if so_far[Verdict.YES] <= so_far[Verdict.NO] else Verdict.NO
        if not free[want]:
            # A hundred correct ones in a row are no test: one kind never gets far ahead of the other.
            want = Verdict(1 - want)
            if so_far[want] > 2 * so_far[Verdict(1 - want)] + 5:
                break
        so_far[want] += 1
        drawn.append(free[want].pop())
    return drawn


def page_order(key: str, masks: Iterable[tuple[int, bool]]) -> list[int]:
    """The masks of a page, (mask id, whether it is gold), in the order in which they are shown.

    Masks of neighbouring images stay together; gold lies among them where nobody can see it.
    """
    rows = sorted(masks)
    shown = [mask for mask, gold in rows if not gold]
    for mask, gold in rows:
        if gold:
            shown.insert(stable_hash(key, mask) % (len(shown) + 1), mask)
    return shown


def is_chosen(key: str, share: float) -> bool:
    """Whether a page is among the `share` of pages that two users answer."""
    return stable_hash("overlap", key) < share * 2**64


def stable_hash(*parts: object) -> int:
    """A number below 2**64 that follows from the parts alone, and from nothing else."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "big")
