"""Whose answers count: a view of the gold that every user answered, and of when their answers were withdrawn.

What is said of users rests on clear gold alone. Gold near the threshold is kept beside it: it shows where eyes cut
(`derived/eyes.py`), and a careful user may answer it wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np

from campaign.derived.heldout import heldout
from campaign.quality.answers import standing_answers
from campaign.quality.measures import GoldAnswer, WithdrawnInterval, passed, watch
from campaign.records.page import PageKind
from campaign.records.stage import Stage
from campaign.records.verdict import Verdict
from campaign.search.policies import AnnotatorQuality
from campaign.store import Store
from campaign.store.answers import Fact
from campaign.store.pages import Asked
from ml_backend.mask_ids import DRAWN_ROUND, is_heldout

BELIEVED, WEIGHT = 0.99, 30  # sensitivity and specificity before any gold, and how many gold answers that is worth
# Shares of errors that decisions reckon with. So few that an estimate seldom moves from one to the next: each move
# turns every search of the round over.
ERROR_LEVELS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.18, 0.26, 0.37, 0.49)
NO_ROUND = DRAWN_ROUND  # of gold on pages of audits: later than every round, so that no round's decisions rest on it

# `work`: on a page of questions, rather than of a qualification test; `near`: not clear, see `GoldMask`.
_ANSWERS = np.dtype(
    [
        ("page", np.int64), ("mask", np.int64), ("annotation", np.int64), ("user", np.int32), ("truth", np.int8),
        ("verdict", np.int8), ("work", np.bool_), ("near", np.bool_), ("round", np.int32), ("at", "S32"),
    ]
)  # fmt: skip
_QUESTIONS = np.dtype(
    [
        ("page", np.int64), ("mask", np.int64), ("class_id", np.int32), ("truth", np.int8), ("work", np.bool_),
        ("near", np.bool_),
    ]
)  # fmt: skip


class TrustView:
    """Gold questions and the standing answers on them, and what follows for each user.

    `intervals` are the times whose answers do not count, `qualified` the users who passed a test; both by user.
    """

    def __init__(self, store: Store):
        self.store = store
        self.questions: np.ndarray = np.zeros(0, _QUESTIONS)
        self.answers: np.ndarray = np.zeros(0, _ANSWERS)
        self.users: list[str] = []
        self.intervals: dict[str, list[WithdrawnInterval]] = {}
        self.qualified: set[str] = set()
        self._tally: dict[str, dict[int, list[int]]] = {}

    # what it says

    def counts(self, fact: Fact, asked: Asked, ended: Mapping[int, str]) -> bool:
        """Whether decisions may rest on an answer.

        Left out are answers on gold and on qualification tests, those withdrawn from users who answered gold wrong,
        and, where only qualified users count, everyone else's. They stay stored. `ended` are the ends of rounds that
        are over: their answers stay where the user was found out later, for their dataset was trained on.
        """
        if asked.gold is not None:
            return False
        if self.store.settings.quality.qualification and fact.annotator not in self.qualified:
            return False
        times = self.intervals.get(fact.annotator, ())
        return not any(is_withdrawn(t, fact.answered_at, ended.get(asked.round)) for t in times)

    def holds(self, user: str, at: str) -> bool:
        """Whether what a user did at that time is withdrawn."""
        return any(t.holds(at) for t in self.intervals.get(user, ()))

    def gold_answers(self, user: str, near: bool = False) -> list[GoldAnswer]:
        """A user's standing answers on the clear gold of pages of questions; with `near`, on all gold there."""
        if user not in self.users:
            return []
        rows = self.answers[(self.answers["user"] == self.users.index(user)) & self.answers["work"]]
        rows = rows if near else rows[~rows["near"]]
        return [
            GoldAnswer(user, mask, Verdict(truth), Verdict(verdict), at.decode())
            for mask, truth, verdict, at in zip(
                rows["mask"].tolist(), rows["truth"].tolist(), rows["verdict"].tolist(), rows["at"].tolist(),
                strict=True,
            )
        ]  # fmt: skip

    def gold_rounds(self, user: str) -> dict[int, int]:
        """{mask: round} of the gold that a user answered."""
        own = self.answers[self.answers["user"] == self.users.index(user)] if user in self.users else self.answers[:0]
        return dict(zip(own["mask"].tolist(), own["round"].tolist(), strict=True))

    def answered(self) -> dict[str, int]:
        """How much clear gold each user has answered, on pages of any kind."""
        clear = self.answers["user"][~self.answers["near"]]
        counts = np.bincount(clear, minlength=len(self.users)).tolist()
        return dict(zip(self.users, counts, strict=True))

    def waiting(self) -> int:
        """How much clear gold lies on pages of questions on which nobody has answered any gold."""
        lying = self.questions[self.questions["work"] & ~self.questions["near"]]
        return int((~np.isin(lying["page"], self.answers["page"])).sum())

    def used(self, class_id: int) -> dict[int, Verdict]:
        """The gold of one class so far with its verdicts, on pages of any kind."""
        rows = self.questions[self.questions["class_id"] == class_id]
        return {m: Verdict(t) for m, t in zip(rows["mask"].tolist(), rows["truth"].tolist(), strict=True)}

    def gold_tally(self, up_to_round: int | None = None) -> np.ndarray:
        """[correct, of them yes, of them no, wrong, of them no, of them yes] over the clear gold that was answered.

        Answers of users while they were not trusted are left out, as are rounds after `up_to_round` and then audits.
        """
        total = np.zeros(6, np.int64)
        for by_round in self._tally.values():
            for number, counts in by_round.items():
                if up_to_round is None or number <= up_to_round:
                    total += counts
        return total

    def annotator_quality(self, round_number: int) -> AnnotatorQuality:
        """Sensitivity and specificity that a round's decisions reckon with, unsure answers left aside.

        Gold of later rounds does not count: what was decided of a round stays decided when the next is under way.
        """
        _, yes_right, yes_wrong, _, no_right, no_wrong = self.gold_tally(round_number).tolist()
        return AnnotatorQuality(_share(yes_right, yes_right + yes_wrong), _share(no_right, no_right + no_wrong))

    # the fold

    def add_questions(self, asked: Iterable[Asked]) -> None:
        """Takes in gold on new pages; other questions are passed over."""
        gold = [a for a in asked if a.gold is not None]
        near = self._near(a.mask_id for a in gold)
        rows = [
            (a.number, a.mask_id, a.class_id, Verdict.parse(str(a.gold)), a.kind != PageKind.QUALIFY, near[a.mask_id])
            for a in gold
        ]
        if rows:
            self.questions = np.concatenate([self.questions, np.array(rows, _QUESTIONS)])

    def update(self, asked: Sequence[Asked]) -> set[str]:
        """Takes in new facts about these questions; returns the users whose other answers count differently now.

        All facts about the masks are read again, so that it does not matter which of them were seen before.
        """
        confirmed = self.questions["mask"][~is_heldout(self.questions["mask"])] if len(self.questions) else ()
        masks = {a.mask_id for a in asked if a.gold is not None or a.mask_id in confirmed}
        touched = self._replace(masks) if masks else set()
        before = {user: self.intervals.get(user, []) for user in touched}
        for user in touched:
            self._judge(user)
        changed = {user for user in touched if self.intervals.get(user, []) != before[user]}
        if self.store.settings.quality.qualification and any(a.kind == PageKind.QUALIFY for a in asked):
            qualified = qualified_users(self.store)
            changed |= qualified ^ self.qualified
            self.qualified = qualified
        return changed

    def _replace(self, masks: Collection[int]) -> set[str]:
        """Reads the standing answers on gold masks again; returns the users who have or had any."""
        truth = {(a.page_key, a.mask_id): a for a in self.store.questions.on_masks(masks) if a.gold is not None}
        standing = standing_answers(self.store.answers.on_masks(masks))
        # Who answered a mask before it was gold, or made it gold, may remember it.
        remembered = {
            (f.annotator, f.mask_id)
            for f in standing
            if not is_heldout(f.mask_id) and (f.page_key, f.mask_id) not in truth
        }
        gone = np.isin(self.answers["mask"], np.array(sorted(masks), np.int64))
        touched = {self.users[u] for u in np.unique(self.answers["user"][gone]).tolist()}
        near = self._near(mask for _, mask in truth)
        rows = []
        for f in standing:
            asked = truth.get((f.page_key, f.mask_id))
            if asked is None or asked.gold is None or (f.annotator, f.mask_id) in remembered:
                continue
            touched.add(f.annotator)
            rows.append(
                (
                    asked.number, f.mask_id, f.annotation_id, self._user(f.annotator), Verdict.parse(asked.gold),
                    Verdict.parse(f.verdict), asked.kind != PageKind.QUALIFY, near[f.mask_id],
                    asked.round if asked.kind == PageKind.VERIFY else NO_ROUND, f.answered_at.encode(),
                )
            )  # fmt: skip
        self.answers = np.concatenate([self.answers[~gone], np.array(rows, _ANSWERS)])
        # One order, whatever the order in which answers were read.
        self.answers = self.answers[np.lexsort([self.answers[n] for n in ("annotation", "mask", "page")])]
        return touched

    def _near(self, masks: Iterable[int]) -> dict[int, bool]:
        """Which of these gold masks are near the threshold; those that users confirmed are taken to be clear."""
        ids = sorted(set(masks))
        return dict(zip(ids, heldout(self.store).near(ids).tolist(), strict=True))

    def _user(self, annotator: str) -> int:
        if annotator not in self.users:
            self.users.append(annotator)
        return self.users.index(annotator)

    def _judge(self, user: str) -> None:
        """Works out a user's withdrawn intervals, and the tally of clear gold answers outside them."""
        quality = self.store.settings.quality
        intervals = watch(self.gold_answers(user), quality.error_accepted, quality.error_limit)
        self.intervals.pop(user, None)
        if intervals:
            self.intervals[user] = intervals
        tally: dict[int, list[int]] = defaultdict(lambda: [0] * 6)
        own = self.answers[self.answers["user"] == self.users.index(user)]
        rows = own[own["work"] & ~own["near"]]
        for number, truth, verdict, at in zip(
            rows["round"].tolist(), rows["truth"].tolist(), rows["verdict"].tolist(), rows["at"].tolist(), strict=True
        ):
            if intervals and self.holds(user, at.decode()):
                continue
            counts, offset = tally[number], 0 if truth == Verdict.YES else 3
            counts[offset] += 1
            counts[offset + 1] += verdict == truth
            counts[offset + 2] += verdict == 1 - truth
        self._tally[user] = dict(tally)

    # snapshots

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The view as arrays and values, for `restore`."""
        return {"questions": self.questions, "answers": self.answers}, {
            "users": self.users,
            "intervals": {user: [list(t) for t in times] for user, times in self.intervals.items()},
            "qualified": sorted(self.qualified),
            "tally": {user: {str(n): c for n, c in by_round.items()} for user, by_round in self._tally.items()},
        }

    @classmethod
    def restore(cls, store: Store, arrays: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> TrustView:
        """The view that `state` was taken of."""
        view = cls(store)
        view.questions, view.answers, view.users = arrays["questions"], arrays["answers"], list(values["users"])
        view.intervals = {u: [WithdrawnInterval(*t) for t in times] for u, times in values["intervals"].items()}
        view.qualified = set(values["qualified"])
        view._tally = {u: {int(n): c for n, c in by_round.items()} for u, by_round in values["tally"].items()}
        return view


def is_withdrawn(interval: WithdrawnInterval, at: str, round_ended: str | None) -> bool:
    """Whether an answer of that time is withdrawn; `round_ended` is when its round ended, None while it runs."""
    return interval.holds(at) and not (round_ended is not None and round_ended <= interval.noticed)


def qualified_users(store: Store) -> set[str]:
    """Users who passed a qualification test: every page of it answered, and enough of them right."""
    limit = store.settings.quality.qualification_limit
    return {
        user
        for (user, _), (answers, size) in test_answers(store).items()
        if len(answers) == size and passed(answers, limit)
    }


def test_answers(store: Store) -> dict[tuple[str, str], tuple[list[GoldAnswer], int]]:
    """{(user, test): (the user's standing answers, how many masks the test has)} of all qualification tests."""
    asked = {(q.page_key, q.mask_id): q for q, _ in store.questions.gold(PageKind.QUALIFY)}
    sizes: dict[str, int] = defaultdict(int)
    for key, _ in asked:
        sizes[attempt_of(key)] += 1
    tests: dict[tuple[str, str], list[GoldAnswer]] = defaultdict(list)
    for f in standing_answers(store.answers.rows({key for key, _ in asked})):
        question = asked.get((f.page_key, f.mask_id))
        if question is not None:
            truth = Verdict.parse(str(question.gold))
            answer = GoldAnswer(f.annotator, f.mask_id, truth, Verdict.parse(f.verdict), f.answered_at)
            tests[f.annotator, attempt_of(f.page_key)].append(answer)
    return {key: (answers, sizes[key[1]]) for key, answers in tests.items()}


def attempt_of(page_key: str) -> str:
    """Which qualification test a page belongs to, from its key."""
    return page_key.rsplit("-", 1)[0]


def ended_rounds(store: Store) -> dict[int, str]:
    """{round: when it ended, in Label Studio's format} of the rounds that are over."""
    return {r.number: _stamp(r.ended_at) for r in store.rounds.all() if r.ended_at and r.stage == Stage.DONE}


def _stamp(time: datetime) -> str:
    utc = time.replace(tzinfo=timezone.utc) if time.tzinfo is None else time.astimezone(timezone.utc)
    return utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _share(right: int, asked: int) -> float:
    """A share of right answers, drawn towards what is believed and moved to the nearest level of errors."""
    error = 1 - (right + BELIEVED * WEIGHT) / (asked + WEIGHT)
    return 1 - min(ERROR_LEVELS, key=lambda level: abs(level - error))
