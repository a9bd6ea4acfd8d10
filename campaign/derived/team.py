"""What the annotators did, and how well: one row per user and class, from the facts in the store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from campaign.derived.answers import counted_answers
from campaign.derived.dataset import final_masks
from campaign.derived.live import live
from campaign.derived.pace import page_answers
from campaign.quality.answers import standing_answers
from campaign.quality.measures import (
    Agreement,
    GoldAnswer,
    Pace,
    Reliability,
    agreement,
    first_answers,
    flags,
    fleiss_kappa,
    pace,
    reliability,
    vote_counts,
)
from campaign.records.page import PageKind
from campaign.records.verdict import Verdict
from campaign.store import Store
from campaign.store import models as m
from campaign.store.answers import Fact
from ml_backend.errors import InputError

MODEL_MASKS = 30  # with three answers each, before annotators are estimated from each other
PUBLISHED_ANSWER, PUBLISHED_DRAWING = 1.5, 80.0  # seconds for an answer and for a drawn mask


@dataclass(frozen=True)
class AnnotatorFigures:
    """One user. `answers` are on questions, gold aside; `withdrawn` of them do not count.

    `pace` is that of the answers, gold among them, `drawn` that of masks corrected and painted by hand.
    `estimated` are sensitivity and specificity by Dawid and Skene's model, which needs no gold but masks that several
    users answered.
    """

    user: str
    name: str
    answers: int
    withdrawn: int
    pages: int
    unsure: int
    gold: Reliability
    gold_wrong: tuple[GoldAnswer, ...]
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
    """All annotators, by number of answers, and what the campaign cost. `wage` is that of an hour, where it is set."""

    users: tuple[AnnotatorFigures, ...]
    classes: tuple[ClassCost, ...]
    pace: Pace
    drawn: Pace
    masks: int
    kappa: float | None
    gold: Reliability
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
    return pace.seconds + pace.gap_seconds + drawn.seconds


def team(store: Store) -> Team:
    """The annotators of a campaign as it stands."""
    names = store.values.people()
    pages = page_answers(store)
    trust = live(store).trust
    gold = {user: first_answers(answers) for user in trust.users if (answers := trust.gold_answers(user))}
    real = {(q.page_key, q.mask_id) for q, p in store.questions.rows()}
    class_of = {p.key: p.class_id for p in store.pages.rows() if p.kind != PageKind.QUALIFY}
    standing = [a for a in standing_answers(store.answers.rows(class_of)) if (a.page_key, a.mask_id) in real]
    counted = {a.id for a in counted_answers(store, class_of)}
    votes = _votes(standing)
    agreed, estimated = agreement(votes), _estimated(votes)
    distrusted = {user for user, times in trust.intervals.items() if times[-1].until is None}
    known = trust.qualified if store.settings.quality.qualification else None
    of_user: dict[str, list[Fact]] = defaultdict(list)
    for a in standing:
        of_user[a.annotator].append(a)
    drawings = [d for d in store.drawings.standing() if d.page_key in class_of]
    rows = []
    for user in sorted(of_user.keys() | pages.keys() | gold.keys() | {d.annotator for d in drawings}):
        mine = of_user[user]
        told = gold.get(user, [])
        rows.append(
            AnnotatorFigures(
                user=user,
                name=names.get(user, f"user {user}"),
                answers=len(mine),
                withdrawn=sum(a.id not in counted for a in mine),
                pages=len(pages.get(user, [])),
                unsure=sum(a.verdict == "unsure" for a in mine),
                gold=reliability(told),
                gold_wrong=tuple(a for a in told if a.verdict == Verdict(1 - a.truth)),
                agreement=agreed.get(user, Agreement(None, 0)),
                estimated=estimated.get(user, (None, None)),
                pace=pace(pages.get(user, [])),
                drawn=_drawn(d for d in drawings if d.annotator == user),
                flags=tuple(flags(pages.get(user, []), store.settings.quality.seconds_least)),
                trusted=user not in distrusted,
                qualified=None if known is None else user in known,
            )
        )
    every = [page for given in pages.values() for page in given]
    masks = final_masks(store)
    costs = [
        ClassCost(
            name,
            pace(p for p in every if class_of.get(p.key) == class_id),
            _drawn(d for d in drawings if class_of[d.page_key] == class_id),
            int((masks.class_id == class_id).sum()),
            fleiss_kappa(vote_counts(_votes(a for a in standing if class_of[a.page_key] == class_id))),
        )
        for class_id, name in store.classes().items()
    ]
    return Team(
        users=tuple(sorted(rows, key=lambda r: (-r.answers, r.user))),
        classes=tuple(costs),
        pace=pace(every),
        drawn=_drawn(drawings),
        masks=len(masks),
        kappa=fleiss_kappa(vote_counts(votes)),
        gold=reliability(a for told in gold.values() for a in told),
        wage=store.settings.quality.wage_per_hour,
    )


def _drawn(drawings: Iterable[m.Drawing]) -> Pace:
    """Masks and parts of images drawn by hand, and the time they took where it is known."""
    found = list(drawings)
    return Pace(len(found), float(sum(d.lead_time or 0 for d in found)), 0.0)


def _votes(answers: Iterable[Fact]) -> dict[int, dict[str, Verdict]]:
    votes: dict[int, dict[str, Verdict]] = defaultdict(dict)
    for a in answers:
        votes[a.mask_id][a.annotator] = Verdict[a.verdict.upper()]
    return votes


def _estimated(votes: dict[int, dict[str, Verdict]]) -> dict[str, tuple[float | None, float | None]]:
    """Rates by Dawid and Skene's model, where enough masks have three answers and crowd-kit is installed."""
    from campaign.quality.aggregation import Opinion, aggregate

    if sum(len(given) >= 3 for given in votes.values()) < MODEL_MASKS:
        return {}
    opinions = [Opinion(mask, user, v) for mask, given in votes.items() if len(given) > 1 for user, v in given.items()]
    try:
        return {str(user): rates for user, rates in aggregate(opinions, "dawid-skene").annotators.items()}
    except InputError:  # an extra that is not installed leaves out a column
        return {}


def as_json(found: Team) -> dict:
    """For programs: shares 0 to 1 and seconds."""

    def share(value) -> dict | None:
        return None if value is None else value._asdict()

    def trust(gold: Reliability) -> dict:
        return {
            "gold": gold.asked, "sensitivity": share(gold.sensitivity), "specificity": share(gold.specificity),
        }  # fmt: skip

    return {
        "users": [
            {
                "user": u.user, "name": u.name, "answers": u.answers, "withdrawn": u.withdrawn, "pages": u.pages,
                "unsure": u.unsure, **trust(u.gold), "kappa": u.agreement.kappa, "shared": u.agreement.shared,
                "dawid_skene": {"sensitivity": u.estimated[0], "specificity": u.estimated[1]},
                "seconds_per_answer": u.pace.per_answer, "seconds": u.seconds, "cost": found.cost(u.seconds),
                "drawn": u.drawn.answers, "seconds_per_drawing": u.drawn.per_answer,
                "flags": list(u.flags), "trusted": u.trusted, "qualified": u.qualified,
            }
            for u in found.users
        ],
        "classes": [
            {
                "class": c.name, "masks": c.masks, "answers": c.pace.answers, "kappa": c.kappa,
                "seconds_per_answer": c.pace.per_answer, "seconds_per_mask": c.seconds_per_mask,
                "hours": c.seconds / 3600, "cost": found.cost(c.seconds),
                "cost_per_mask": found.cost(c.seconds_per_mask),
            }
            for c in found.classes
        ],
        "masks": found.masks, "kappa": found.kappa, **trust(found.gold),
        "hours": found.seconds / 3600, "cost": found.cost(found.seconds),
        "cost_per_mask": found.cost(found.seconds_per_mask), "wage_per_hour": found.wage,
        "drawn": found.drawn.answers, "seconds_per_drawing": found.drawn.per_answer,
        "published_cost_per_drawn_mask": found.cost(PUBLISHED_DRAWING),
        "published_cost_per_answer": found.cost(PUBLISHED_ANSWER),
        "seconds_per_answer": found.pace.per_answer, "seconds_per_mask": found.seconds_per_mask,
        "published_seconds_per_answer": PUBLISHED_ANSWER, "published_seconds_per_drawn_mask": PUBLISHED_DRAWING,
    }  # fmt: skip


def money(value: float | None) -> str:
    """An amount in the currency of the wage: two digits, more of them where it is small."""
    return "–" if value is None else f"{value:,.2f}" if value >= 0.1 else f"{value:.2g}"
