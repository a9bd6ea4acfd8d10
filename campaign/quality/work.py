"""What annotators did, columnar: how long their pages took, what looks careless in them, and how far they agree.

Pure functions of two tables, `WORK` with a row for every page as one annotation answered it, and `VOTES` with a row
for every answer, so that a hundred thousand answers cost a few milliseconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FAST_PAGES, PATTERN_PAGES, UNTOUCHED_PAGES = 3, 5, 3  # pages before a flag is raised
RATIO = 3.0  # times the usual seconds of an answer are believed at most, and the same part of them at least
SHORT = 60.0  # seconds of a page that are believed whatever is usual
LONGEST_GAP = 60.0  # seconds between two pages; more is a break and no part of the work
PLACES = 64  # of a page that `marked` tells apart
STAMP = "S40"  # a time as Label Studio writes it

# `marked` has bit i set where the mask shown at place i has another answer than yes; `wrong_gold` counts gold masks
# known to be wrong; `questions` are the answers gold aside, `unsure` of them unsure. `seconds` from the page's showing
# to its submission and `time`, Unix time of that, are NaN where they are not known.
WORK = np.dtype(
    [
        ("page", np.int64), ("annotation", np.int64), ("user", np.int32), ("class_id", np.int32), ("round", np.int32),
        ("shown", np.int16), ("wrong_gold", np.int16), ("questions", np.int16), ("unsure", np.int16),
        ("marked", np.uint64), ("seconds", np.float64), ("time", np.float64), ("stamp", STAMP),
    ]
)  # fmt: skip
# Answers on questions, gold aside; `fact` orders what one user said of one mask.
VOTES = np.dtype(
    [
        ("page", np.int64), ("mask", np.int64), ("fact", np.int64), ("user", np.int32), ("class_id", np.int32),
        ("verdict", np.int8),
    ]
)  # fmt: skip


class Pace(NamedTuple):
    """Time that answers took: seconds on the pages, seconds between them, and how many answers that were."""

    answers: int
    seconds: float
    gap_seconds: float

    @property
    def total(self) -> float:
        """Seconds in all, gaps included."""
        return self.seconds + self.gap_seconds

    @property
    def per_answer(self) -> float | None:
        """Seconds per answer, gaps included; None without answers."""
        return self.total / self.answers if self.answers else None


class Agreement(NamedTuple):
    """How far users agree: Cohen's kappa with all others together, of `shared` pairs of answers."""

    kappa: float | None
    shared: int


def marks(places: Sequence[int]) -> int:
    """The bits of the places that were marked, as `WORK` holds them; those beyond the last share its bit."""
    bits = 0
    for place in places:
        bits |= 1 << min(place, PLACES - 1)
    return bits


def usual_seconds(seconds: np.ndarray, count: np.ndarray, user: np.ndarray) -> float | None:
    """The usual seconds of one answer: the median over users of the median of their pages; None without any.

    One user alone moves it no further than to what others state too. `seconds` (n,) are those of pages of `count`
    answers each (n,) by `user` (n,); pages without an answer, and times that are none, are left out.
    """
    sound = np.isfinite(seconds) & (seconds >= 0) & (count > 0)
    each, whose = seconds[sound] / count[sound], user[sound]
    medians = [float(np.median(each[whose == u])) for u in np.unique(whose)]
    return float(np.median(medians)) if medians else None


def believed_seconds(seconds: np.ndarray, count: np.ndarray, user: np.ndarray, least: float, most: float) -> np.ndarray:
    """The seconds that pages are believed to have taken, (n,): what annotators' programs state, within reason.

    Each page at least `least` and at most `most` seconds for each of its answers, and nothing that is `RATIO` times
    more or less than usual, see `usual_seconds`, unless it is less than a minute; NaN where it is not known.
    """
    usual = usual_seconds(seconds, count, user)
    if usual is None:
        return np.full(len(seconds), np.nan)
    usual = min(max(usual, least), most)
    low, high = max(least, usual / RATIO) * count, np.maximum(RATIO * usual * count, SHORT)
    sound = np.isfinite(seconds) & (seconds >= 0)
    return np.where(sound, np.clip(seconds, low, np.maximum(low, np.minimum(high, most * count))), np.nan)


def believed(work: np.ndarray, least: float, most: float) -> np.ndarray:
    """These rows of `WORK` with the seconds that they are believed to have taken, see `believed_seconds`."""
    rows = work.copy()
    rows["seconds"] = believed_seconds(work["seconds"], work["shown"].astype(float), work["user"], least, most)
    return rows


def work_pace(work: np.ndarray) -> Pace:
    """The time that these rows of `WORK` took; those whose time is not known are left out.

    The gap before a page is the time between the submission of the same user's page before and its own showing. A
    pause of more than a minute is no work.
    """
    timed = work[~np.isnan(work["seconds"])]
    at = timed[~np.isnan(timed["time"])]
    at = at[np.lexsort([at["annotation"], at["page"], at["time"], at["user"]])]
    gaps = np.diff(at["time"]) - at["seconds"][1:]
    counted = (np.diff(at["user"]) == 0) & (gaps > 0) & (gaps <= LONGEST_GAP)
    return Pace(int(timed["shown"].sum()), float(timed["seconds"].sum()), float(gaps[counted].sum()))


def work_flags(work: np.ndarray, seconds_least: float) -> list[str]:
    """What looks careless in the rows of one user, one line each; `seconds_least` is the least time for an answer."""
    return [
        line
        for line in (_too_fast(work, seconds_least), _same_places(work), _wrong_gold_passed(work))
        if line is not None
    ]


def _too_fast(work: np.ndarray, seconds_least: float) -> str | None:
    timed = work[~np.isnan(work["seconds"]) & (work["shown"] > 0)]
    fast = int((timed["seconds"] < seconds_least * timed["shown"]).sum())
    if fast < FAST_PAGES or fast * 10 < len(timed):
        return None
    return f"{fast} of {len(timed)} pages answered in less than {seconds_least:g} s per mask"


def _same_places(work: np.ndarray) -> str | None:
    touched = work[(work["marked"] > 0) & (work["shown"] > 2)]
    if not len(touched):
        return None
    patterns = Counter(touched["marked"].tolist())
    # Of patterns as frequent as each other always the same one, whatever the order of the rows.
    pattern, times = min(patterns.items(), key=lambda p: (-p[1], p[0]))
    if times < PATTERN_PAGES or times * 2 <= len(touched):
        return None
    places = ", ".join(str(place + 1) for place in range(PLACES) if pattern >> place & 1)
    return f"the same places marked on {times} of {len(touched)} pages: {places}"


def _wrong_gold_passed(work: np.ndarray) -> str | None:
    checked = work[work["wrong_gold"] > 0]
    passed = int((checked["marked"] == 0).sum())
    if passed < UNTOUCHED_PAGES or passed * 2 < len(checked):
        return None
    return f"{passed} of {len(checked)} pages that hold a wrong gold mask submitted untouched"


@dataclass(frozen=True)
class Opinions:
    """Masks that several users answered, with one opinion of each user: what they said last.

    `votes` are rows of `VOTES` by mask and user, `group` says which of the n masks each row is about, and `counts` are
    their no, yes and unsure, (n, 3).
    """

    votes: np.ndarray
    group: np.ndarray
    counts: np.ndarray

    @classmethod
    def of(cls, votes: np.ndarray) -> Opinions:
        """The shared opinions among rows of `VOTES`."""
        masks, inverse, answers = np.unique(votes["mask"], return_inverse=True, return_counts=True)
        votes = votes[answers[inverse] > 1] if len(masks) else votes
        votes = votes[np.lexsort([votes["fact"], votes["user"], votes["mask"]])]
        mask, user = votes["mask"], votes["user"]
        if len(votes):
            votes = votes[np.append((mask[1:] != mask[:-1]) | (user[1:] != user[:-1]), True)]
        _, raters = np.unique(votes["mask"], return_counts=True)
        votes = votes[np.repeat(raters, raters) > 1]
        raters = raters[raters > 1]
        group = np.repeat(np.arange(len(raters)), raters)
        counts = np.zeros((len(raters), 3), np.int64)
        np.add.at(counts, (group, votes["verdict"]), 1)
        return cls(votes, group, counts)

    def agreement(self, users: int) -> list[Agreement]:
        """Each of so many users against all others together on the masks that several answered."""
        table = np.zeros((users, 3, 3), np.int64)
        verdict = self.votes["verdict"].astype(np.int64)
        others = self.counts[self.group] - np.eye(3, dtype=np.int64)[verdict]
        np.add.at(table, (self.votes["user"], verdict), others)
        return [Agreement(cohen_kappa(t), int(t.sum())) for t in table]

    def kappa(self) -> float | None:
        """Fleiss' kappa of all users."""
        return fleiss_kappa(self.counts)

    def kappa_by_class(self) -> dict[int, float | None]:
        """Fleiss' kappa of each class of which several users answered some mask."""
        first = np.searchsorted(self.group, np.arange(len(self.counts)))
        class_id = self.votes["class_id"][first]
        return {int(c): fleiss_kappa(self.counts[class_id == c]) for c in np.unique(class_id)}


def cohen_kappa(table: np.ndarray) -> float | None:
    """Cohen's kappa (Cohen 1960) of two raters; None where they rated nothing.

    `table` counts the pairs of their answers, (categories, categories). Raters who both choose one and the same
    category throughout agree fully, and kappa is 1.
    """
    n = int(table.sum())
    if n == 0:
        return None
    chance = int((table.sum(1) * table.sum(0)).sum()) / n**2
    return 1.0 if chance == 1 else (int(np.trace(table)) / n - chance) / (1 - chance)


def fleiss_kappa(counts: np.ndarray) -> float | None:
    """Fleiss' kappa (Fleiss 1971) of `counts`, (things, categories); None where none was rated twice.

    Things may have different numbers of raters; those with one are left out and each weighs by its pairs of raters.
    """
    counts = np.asarray(counts, float)
    raters = counts.sum(1)
    counts, raters = counts[raters > 1], raters[raters > 1]
    if not len(counts):
        return None
    pairs = (raters * (raters - 1)).sum()
    observed = float((counts * (counts - 1)).sum() / pairs)
    share = counts.sum(0) / counts.sum()
    chance = float((share**2).sum())
    return 1.0 if chance == 1 else (observed - chance) / (1 - chance)
