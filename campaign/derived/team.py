"""What the annotators did, and how well: one row per user and class, from the views of their work and their gold."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from campaign.derived.delivery import delivered
from campaign.derived.eyes import EyeFigures, eye_figures
from campaign.derived.live import live
from campaign.derived.pace import WorkView, work
from campaign.derived.trust import TrustView, ended_rounds
from campaign.quality.eyes import Eye, Eyes
from campaign.quality.measures import GoldAnswer, Rate, Reliability, first_answers, reliability
from campaign.quality.work import Agreement, Opinions, Pace, believed_seconds, work_flags, work_pace
from campaign.records.page import PageKind
from campaign.records.stage import Stage
from campaign.records.verdict import Verdict
from campaign.store import Store
from campaign.store import models as m
from campaign.store.answers import Fact
from campaign.store.pages import Asked
from ml_backend.errors import InputError

DRAWING_MOST = 3600.0  # seconds that a page of drawing is believed to take at most
MODEL_MASKS = 30  # with three answers each, before annotators are estimated from each other
PUBLISHED_ANSWER, PUBLISHED_DRAWING = 1.5, 80.0  # seconds for an answer and for a drawn mask


@dataclass(frozen=True)
class AnnotatorFigures:
    """One user. `answers` are on questions, gold aside; `withdrawn` of them do not count.

    `pace` is that of the answers, gold among them, `drawn` that of masks corrected and painted by hand.
    `estimated` are sensitivity and specificity by Dawid and Skene's model, which needs no gold but masks that several
    users answered. `gold` and `gold_wrong` are of clear gold; `eye` is by all of it, None where none was answered.
    """

    user: str
    name: str
    answers: int
    withdrawn: int
    pages: int
    unsure: int
    gold: Reliability
    gold_wrong: tuple[GoldAnswer, ...]
    eye: EyeFigures | None
    agreement: Agreement
    estimated: tuple[float | None, float | None]
    pace: Pace
    drawn: Pace
    flags: tuple[str, ...]
    trusted: bool
    qualified: bool | None

    @property
    def seconds(self) -> float:
        """All the time that the user worked: answering with the gaps between pages, and drawing."""
        return _total(self.pace, self.drawn)


@dataclass(frozen=True)
class ClassCost:
    """One class: how long its answers took and how many masks they brought."""

    name: str
    pace: Pace
    drawn: Pace
    masks: int
    kappa: float | None

    @property
    def seconds(self) -> float:
        """All the time that the class took."""
        return _total(self.pace, self.drawn)

    @property
    def seconds_per_mask(self) -> float | None:
        """None without masks."""
        return self.seconds / self.masks if self.masks else None


@dataclass(frozen=True)
class Team:
    """All annotators, by number of answers, and what the campaign cost. `wage` is that of an hour, where it is set.

    `masks` are those of the rounds that ended and those decided so far of the running one; of the latter duplicates
    are not dropped yet, which `provisional` says.
    """

    users: tuple[AnnotatorFigures, ...]
    classes: tuple[ClassCost, ...]
    pace: Pace
    drawn: Pace
    masks: int
    provisional: bool
    kappa: float | None
    gold: Reliability
    eyes: Eyes
    k_iou: float
    wage: float | None

    @property
    def seconds(self) -> float:
        """All the time that annotators worked."""
        return _total(self.pace, self.drawn)

    @property
    def seconds_per_mask(self) -> float | None:
        """None without masks."""
        return self.seconds / self.masks if self.masks else None

    def cost(self, seconds: float | None) -> float | None:
        """What so much time costs; None where no wage is set or the time is not known."""
        return None if self.wage is None or seconds is None else self.wage * seconds / 3600


def _total(pace: Pace, drawn: Pace) -> float:
    return pace.total + drawn.seconds


def team(store: Store, estimates: bool = True) -> Team:
    """The annotators of a campaign as it stands; without `estimates` Dawid and Skene's model is left out."""
    view, trust = work(store), live(store).trust
    opinions = Opinions.of(view.votes)
    people = _People(store, view, trust, opinions, _estimated(view, opinions) if estimates else {})
    drawings = _drawings(store)
    of_user: dict[str, list[m.Drawing]] = defaultdict(list)
    of_class: dict[int, list[m.Drawing]] = defaultdict(list)
    for class_id, drawing in drawings:
        of_user[drawing.annotator].append(drawing)
        of_class[class_id].append(drawing)
    rows = [people.figures(user, of_user[user]) for user in sorted(people.everybody() | of_user.keys())]
    masks, kappas, believed = dataset_counts(store), opinions.kappa_by_class(), view.believed()
    costs = [
        ClassCost(
            name,
            work_pace(believed[believed["class_id"] == class_id]),
            _drawn(of_class[class_id]),
            masks[class_id],
            kappas.get(class_id),
        )
        for class_id, name in store.classes().items()
    ]
    current = store.rounds.newest()
    return Team(
        users=tuple(sorted(rows, key=lambda r: (-r.answers, r.user))),
        classes=tuple(costs),
        pace=view.pace(),
        drawn=_drawn(drawing for _, drawing in drawings),
        masks=masks.total(),
        provisional=current is not None and current.stage in (Stage.VERIFY, Stage.PROPAGATE),
        kappa=opinions.kappa(),
        gold=reliability(a for answers in people.gold.values() for a in answers),
        eyes=people.eyes,
        k_iou=store.settings.search.k_iou,
        wage=store.settings.quality.wage_per_hour,
    )


def dataset_counts(store: Store) -> Counter[int]:
    """{class: masks} of the rounds that ended, and of the running one by its decisions, duplicates included."""
    if store.settings.search.policy == "target" and (known := delivered(store)) is not None:
        return Counter(known["classes"])
    counts: Counter[int] = Counter()
    for row in store.rounds.all():
        if row.stage in (Stage.VERIFY, Stage.PROPAGATE):
            counts.update({c: figures["masks"] for c, figures in live(store).summaries(row.number).items()})
        elif (path := store.datasets.file(row.number)) is not None:
            counts.update(_classes_in(path, path.stat().st_mtime_ns))
    return counts


@lru_cache(maxsize=32)
def _classes_in(path: Path, _written: int) -> dict[int, int]:
    """{class: masks} of a stored dataset, of which one column is read."""
    import pyarrow.parquet as pq

    column = pq.ParquetFile(path).read(columns=["class_id"])["class_id"].to_numpy()
    classes, counts = np.unique(column, return_counts=True)
    return dict(zip(classes.tolist(), counts.tolist(), strict=True))


class _People:
    """Everyone who worked on a campaign, and what is known of each."""

    def __init__(
        self, store: Store, view: WorkView, trust: TrustView, opinions: Opinions, estimated: dict[str, _Rates]
    ):
        self.store, self.view, self.trust, self.estimated = store, view, trust, estimated
        self.gold = {user: first_answers(answers) for user in trust.users if (answers := trust.gold_answers(user))}
        self.eyes, self._eye_of = eye_figures(store)
        self._names = store.values.people()
        self._agreed = opinions.agreement(len(view.users))
        self._ended = ended_rounds(store)
        self._number = {user: number for number, user in enumerate(view.users)}
        self._of_user = _grouped(view.work, len(view.users))
        self._believed_of = _grouped(view.believed(), len(view.users))

    def everybody(self) -> set[str]:
        """All who answered a page or gold."""
        present = {user for user, number in self._number.items() if len(self._of_user[number])}
        return present | self.gold.keys()

    def figures(self, user: str, drawings: list[m.Drawing]) -> AnnotatorFigures:
        """One user's row."""
        number = self._number.get(user)
        rows = self.view.work[:0] if number is None else self._of_user[number]
        gold = self.gold.get(user, [])
        times = self.trust.intervals.get(user)
        quality = self.store.settings.quality
        return AnnotatorFigures(
            user=user,
            name=self._names.get(user, f"user {user}"),
            answers=int(rows["questions"].sum()),
            withdrawn=self._withdrawn(user, rows),
            pages=len(rows),
            unsure=int(rows["unsure"].sum()),
            gold=reliability(gold),
            gold_wrong=tuple(a for a in gold if a.verdict == Verdict(1 - a.truth)),
            eye=self._eye_of.get(user),
            agreement=Agreement(None, 0) if number is None else self._agreed[number],
            estimated=self.estimated.get(user, (None, None)),
            pace=work_pace(self.view.work[:0] if number is None else self._believed_of[number]),
            drawn=_drawn(drawings),
            flags=tuple(work_flags(rows, quality.seconds_least)),
            trusted=not times or times[-1].until is not None,
            qualified=user in self.trust.qualified if quality.qualification else None,
        )

    def _withdrawn(self, user: str, rows: np.ndarray) -> int:
        """How many of a user's answers on questions do not count."""
        if user not in self.trust.intervals and not self.store.settings.quality.qualification:
            return 0
        columns = (rows[name].tolist() for name in ("page", "class_id", "round", "stamp", "questions"))
        return sum(
            questions
            for page, class_id, number, stamp, questions in zip(*columns, strict=True)
            if not self.trust.counts(
                Fact(0, "", 0, 0, user, "", stamp.decode(), None),
                Asked("", page, 0, None, PageKind.VERIFY, number, class_id),
                self._ended,
            )
        )


_Rates = tuple[float | None, float | None]


def _grouped(table: np.ndarray, users: int) -> list[np.ndarray]:
    """The rows of each user."""
    order = np.argsort(table["user"], kind="stable")
    ends = np.cumsum(np.bincount(table["user"], minlength=users))
    return np.split(table[order], ends[:-1]) if users else []


def _drawings(store: Store) -> list[tuple[int, m.Drawing]]:
    """What stands of the masks drawn by hand, each with the class of its page."""
    standing = store.drawings.standing()
    class_of = {page.key: page.class_id for page in store.pages.some({d.page_key for d in standing}).values()}
    return [(class_of[d.page_key], d) for d in standing if d.page_key in class_of]


def _drawn(drawings: Iterable[m.Drawing]) -> Pace:
    """Masks and parts of images drawn by hand, and the time they took where it is known."""
    drawn = list(drawings)
    _, user = np.unique([d.annotator for d in drawn], return_inverse=True)
    stated = np.array([np.nan if d.lead_time is None else d.lead_time for d in drawn], float)
    seconds = believed_seconds(stated, np.ones(len(drawn)), user, 0.0, DRAWING_MOST)
    return Pace(len(drawn), float(np.nansum(seconds)), 0.0)


def _estimated(view: WorkView, opinions: Opinions) -> dict[str, _Rates]:
    """Rates by Dawid and Skene's model, where enough masks have three answers and crowd-kit is installed."""
    from campaign.quality.aggregation import Opinion, aggregate

    if int((opinions.counts.sum(1) >= 3).sum()) < MODEL_MASKS:
        return {}
    columns = (opinions.votes[name].tolist() for name in ("mask", "user", "verdict"))
    said = [Opinion(mask, view.users[user], Verdict(verdict)) for mask, user, verdict in zip(*columns, strict=True)]
    try:
        return {str(user): rates for user, rates in aggregate(said, "dawid-skene").annotators.items()}
    except InputError:  # an extra that is not installed leaves out a column
        return {}


def as_json(figures: Team) -> dict[str, Any]:
    """For programs: shares 0 to 1 and seconds."""

    def share(value: Rate | None) -> dict[str, float] | None:
        return None if value is None else value._asdict()

    def trust(gold: Reliability) -> dict[str, Any]:
        return {
            "gold": gold.asked, "sensitivity": share(gold.sensitivity), "specificity": share(gold.specificity),
        }  # fmt: skip

    def eye(curve: Eye, low: float, high: float, answers: int) -> dict[str, Any]:
        return {
            "cut": curve.cut, "cut_low": low, "cut_high": high, "width": curve.width, "pass_rate": curve.pass_rate,
            "miss_rate": curve.miss_rate, "answers": answers,
        }  # fmt: skip

    return {
        "users": [
            {
                "user": u.user, "name": u.name, "answers": u.answers, "withdrawn": u.withdrawn, "pages": u.pages,
                "unsure": u.unsure, **trust(u.gold),
                "eye": u.eye and eye(u.eye.eye, u.eye.low, u.eye.high, u.eye.answers),
                "kappa": u.agreement.kappa, "shared": u.agreement.shared,
                "dawid_skene": {"sensitivity": u.estimated[0], "specificity": u.estimated[1]},
                "seconds_per_answer": u.pace.per_answer, "seconds": u.seconds, "cost": figures.cost(u.seconds),
                "drawn": u.drawn.answers, "seconds_per_drawing": u.drawn.per_answer,
                "flags": list(u.flags), "trusted": u.trusted, "qualified": u.qualified,
            }
            for u in figures.users
        ],
        "classes": [
            {
                "class": c.name, "masks": c.masks, "answers": c.pace.answers, "kappa": c.kappa,
                "seconds_per_answer": c.pace.per_answer, "seconds_per_mask": c.seconds_per_mask,
                "hours": c.seconds / 3600, "cost": figures.cost(c.seconds),
                "cost_per_mask": figures.cost(c.seconds_per_mask),
            }
            for c in figures.classes
        ],
        "eyes": eye(figures.eyes.crowd, *figures.eyes.cut_interval, figures.eyes.answers), "k_iou": figures.k_iou,
        "masks": figures.masks, "masks_provisional": figures.provisional, "kappa": figures.kappa, **trust(figures.gold),
        "hours": figures.seconds / 3600, "cost": figures.cost(figures.seconds),
        "cost_per_mask": figures.cost(figures.seconds_per_mask), "wage_per_hour": figures.wage,
        "drawn": figures.drawn.answers, "seconds_per_drawing": figures.drawn.per_answer,
        "published_cost_per_drawn_mask": figures.cost(PUBLISHED_DRAWING),
        "published_cost_per_answer": figures.cost(PUBLISHED_ANSWER),
        "seconds_per_answer": figures.pace.per_answer, "seconds_per_mask": figures.seconds_per_mask,
        "published_seconds_per_answer": PUBLISHED_ANSWER, "published_seconds_per_drawn_mask": PUBLISHED_DRAWING,
    }  # fmt: skip


def money(value: float | None) -> str:
    """An amount in the currency of the wage: two digits, more of them where it is small."""
    return "–" if value is None else f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"
