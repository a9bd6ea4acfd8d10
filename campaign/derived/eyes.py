"""The annotators' eyes: how likely they say yes to a mask of which true IoU, by all gold that they answered.

Whose gold counts? Answers of careless users are withdrawn, so their eyes are not those that the answers rest on. But
whose answers are withdrawn is decided by the same gold: with the unlucky ones' errors left out, the lucky ones would
stand for all, and the crowd would look better than it is. So nothing is left out. The gold of a withdrawn interval
counts as far as it was bad luck (`chances_of_luck`), and the gold that is answered while a user is not trusted goes on
to say whether it was. Who is careless soon weighs nothing, who was unlucky soon weighs in full.

Newcomers answer much gold and few questions. So each user's gold is weighted by the questions that the user answered:
what is estimated is the answer to a question, not that to a gold mask.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from campaign.derived.heldout import gold_ious as gold_ious
from campaign.derived.heldout import heldout
from campaign.derived.live import live
from campaign.derived.pace import work
from campaign.derived.trust import ended_rounds, is_withdrawn
from campaign.quality.eyes import Eye, Eyes, fit_eyes
from campaign.quality.measures import chances_of_luck, first_answers
from campaign.records.verdict import Verdict
from campaign.store import Store

UNEVEN = 4.0  # one user's gold weighs at most so many times as much as another's on the average, or as little
STEP = 0.05  # of IoU: what annotators said of gold is shown in such bins


@dataclass(frozen=True)
class GoldTable:
    """Answers on gold of known IoU, n rows: each user's first answer on each mask.

    `weight` says how much of the crowd's answers on questions each stands for; 0 where a user's answers do not count.
    """

    iou: np.ndarray
    yes: np.ndarray
    user: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Seen:
    """What was said of gold of an IoU from `low` to below `high`: so many `yes` of so many `asked`."""

    low: float
    high: float
    asked: int
    yes: int


@dataclass(frozen=True)
class EyeFigures:
    """One user's eye: the curve, the 90 % interval of its cut, and what was said of gold, by IoU."""

    eye: Eye
    low: float
    high: float
    seen: tuple[Seen, ...]

    @property
    def answers(self) -> int:
        """Gold answered, near the threshold and clear."""
        return sum(s.asked for s in self.seen)


class _Known:
    """The eyes as they were last worked out, with the mark of what they follow from, and how far facts were read."""

    def __init__(self) -> None:
        self.read: object = None
        self.mark = b""
        self.eyes: Eyes | None = None


def campaign_eyes(store: Store) -> Eyes:
    """The eyes of a campaign's annotators as its gold shows them; before any gold what is believed of people."""
    known: _Known = store.companions.setdefault(_Known, _Known())
    k_iou, quality = store.settings.search.k_iou, store.settings.quality
    ended = tuple(sorted(ended_rounds(store).items()))
    read = str(live(store).cursor), work(store).cursor, k_iou, store.settings.seed, repr(quality), ended
    if known.eyes is not None and known.read == read:
        return known.eyes
    table, known.read = gold_table(store), read
    columns = (table.iou, table.yes, table.user, table.weight)
    mark = hashlib.blake2b(repr((k_iou, store.settings.seed)).encode())
    for column in columns:
        mark.update(np.ascontiguousarray(column).tobytes())
    if known.eyes is None or known.mark != mark.digest():
        known.eyes = fit_eyes(table.iou, table.yes, table.user, k_iou, table.weight, seed=store.settings.seed)
        known.mark = mark.digest()
    return known.eyes


def gold_table(store: Store) -> GoldTable:
    """The answers that eyes are estimated from, by user, time and mask; those of tests are not among them."""
    trust, quality = live(store).trust, store.settings.quality
    answers = {user: first_answers(trust.gold_answers(user, near=True)) for user in sorted(trust.users)}
    shares = _shares({user: len(own) for user, own in answers.items() if own}, _questions(store))
    clear = {user: trust.gold_answers(user) for user in answers}
    luck = chances_of_luck(clear, trust.intervals, quality.error_accepted, quality.error_limit)
    ended, rows = ended_rounds(store), list[tuple[int, bool, str, float]]()
    for user, own in answers.items():
        counts, rounds = not quality.qualification or user in trust.qualified, trust.gold_rounds(user)
        for a in own:
            end, times = ended.get(rounds[a.mask_id]), luck.get(user, ())
            lucky = min((chance for interval, chance in times if is_withdrawn(interval, a.at, end)), default=1.0)
            rows.append((a.mask_id, a.verdict == Verdict.YES, user, counts * shares[user] * lucky))
    masks, yes, user_of, weight = zip(*rows, strict=True) if rows else ((), (), (), ())
    iou = heldout(store).ious(masks)
    known = ~np.isnan(iou)  # masks that users confirmed have none
    return GoldTable(
        iou[known], np.array(yes, bool)[known], np.array(user_of, np.str_)[known], np.array(weight, np.float64)[known]
    )


def eye_figures(store: Store) -> tuple[Eyes, dict[str, EyeFigures]]:
    """The eyes of all, and each user's with what it follows from."""
    eyes, table, k_iou = campaign_eyes(store), gold_table(store), store.settings.search.k_iou
    return eyes, {
        user: EyeFigures(eye, *eyes.cuts[user], seen_by_iou(table.iou[own], table.yes[own], k_iou))
        for user, eye in eyes.users.items()
        if (own := table.user == user).any()
    }


def seen_by_iou(iou: np.ndarray, yes: np.ndarray, k_iou: float) -> tuple[Seen, ...]:
    """What was said of gold, in bins of which `k_iou` is an edge; bins without any are left out."""
    step = np.floor((iou - k_iou) / STEP + 1e-6).astype(np.int64)
    return tuple(
        Seen(
            max(0.0, k_iou + n * STEP), min(1.0, k_iou + (n + 1) * STEP), int((step == n).sum()),
            int(yes[step == n].sum()),
        )
        for n in np.unique(step).tolist()
    )  # fmt: skip


def _questions(store: Store) -> dict[str, int]:
    """{user: questions answered}, gold aside."""
    view = work(store)
    counts = np.bincount(view.work["user"], view.work["questions"], len(view.users))
    return dict(zip(view.users, counts.astype(int).tolist(), strict=True))


def _shares(gold: Mapping[str, int], questions: Mapping[str, int]) -> dict[str, float]:
    """{user: questions for each gold answer}, by the average of all, and kept from being too uneven."""
    average = sum(questions.get(user, 0) for user in gold) / max(1, sum(gold.values()))
    return {
        user: min(UNEVEN, max(1 / UNEVEN, questions.get(user, 0) / count / average)) if average else 1.0
        for user, count in gold.items()
    }
