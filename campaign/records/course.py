"""The course of a campaign: what it delivered and could say of precision and recall, after how many questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from campaign.records.figure import Figure

MOST_SHOWN = 200  # points of a course that people and programs are shown
DIGITS = 5


@dataclass(frozen=True)
class Point:
    """What was known at one moment.

    `questions` that people answered, gold included, took them `seconds`; `masks` would be delivered. `precision` and
    `recall` are what is expected of them, each with its 90 % interval, None where too little is held out. Once an order
    was frozen, `attempt` says which, and `promised` is the bound on precision at the campaign's confidence. Once
    images were `looked` through for what is missing, `recall_looked` is the estimate by them, and `recall_promised` the
    bound, None without a certified precision. `true_precision` and `true_recall` are known of simulated campaigns.
    """

    questions: int
    seconds: float
    masks: int
    precision: Figure | None = None
    promised: float | None = None
    recall: Figure | None = None
    looked: int = 0
    recall_looked: float | None = None
    recall_promised: float | None = None
    attempt: int | None = None
    round: int = 1
    target: float = 0.9
    true_precision: float | None = None
    true_recall: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For programs: `precision` and `recall` as {value, low, high}, time in hours; truth where it is known."""
        known: dict[str, Any] = {
            "round": self.round, "questions": self.questions, "hours": round(self.seconds / 3600, DIGITS),
            "masks": self.masks, "target": self.target, "attempt": self.attempt, "precision": _shown(self.precision),
            "promised": _rounded(self.promised), "recall": _shown(self.recall), "looked": self.looked,
            "recall_looked": _rounded(self.recall_looked), "recall_promised": _rounded(self.recall_promised),
        }  # fmt: skip
        truth = {"true_precision": _rounded(self.true_precision), "true_recall": _rounded(self.true_recall)}
        return known | {name: value for name, value in truth.items() if value is not None}


def thinned(points: Sequence[Point], most: int = MOST_SHOWN) -> list[Point]:
    """At most about `most` points, spread over the questions: of those that lie close the last, and what changed kind.

    The first and the last point stay, and so do the ones at which an order was frozen.
    """
    if len(points) <= most:
        return list(points)
    step = max(1, points[-1].questions - points[0].questions) / most
    kept: list[Point] = []
    for point, after in zip(points, [*points[1:], None], strict=True):
        place = int(point.questions / step)
        changes = after is None or not kept or after.attempt != point.attempt or kept[-1].attempt != point.attempt
        if changes or int(after.questions / step) != place:  # type: ignore[union-attr]
            kept.append(point)
    return kept


def frozen_at(points: Sequence[Point]) -> list[Point]:
    """The first point of every attempt: when its order was frozen."""
    found: list[Point] = []
    for point in points:
        if point.attempt is not None and (not found or found[-1].attempt != point.attempt):
            found.append(point)
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def _shown(figure: Figure | None) -> dict[str, float] | None:
    if figure is None:
        return None
    return {"value": round(figure.value, DIGITS), "low": round(figure.low, DIGITS), "high": round(figure.high, DIGITS)}
