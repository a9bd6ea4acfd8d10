"""What came in when: answers by time, and masks by the decisions and answers that brought them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from campaign.derived.groups import NO_CLUSTER, NO_MASK, Outline
from campaign.derived.pace import counted_work, work
from campaign.records.decision import Kind
from campaign.report.estimates import Estimate, estimate, expected_correct
from campaign.report.records import Progress
from campaign.store import Store


@dataclass(frozen=True)
class AnsweredWork:
    """The answers that count, by page and annotation: Unix times, classes and how many questions, (n,) each.

    `answers` counts those on pages of every kind, and `annotators` who gave them. `mask_time` are the times of masks'
    answers, of rising `masks`.
    """

    time: np.ndarray
    class_id: np.ndarray
    questions: np.ndarray
    answers: int
    annotators: int
    masks: np.ndarray
    mask_time: np.ndarray

    @classmethod
    def of(cls, store: Store, kinds: Collection[str]) -> AnsweredWork:
        """The answers of a campaign; by time those on pages of these kinds."""
        rows, _ = counted_work(store)
        of_kinds = rows[np.isin(rows["page"], store.pages.numbers(kinds))]
        # A mask's time is that of the newest page on which it was answered.
        votes = work(store).votes
        pages = np.argsort(rows["page"], kind="stable")
        at = np.searchsorted(rows["page"][pages], votes["page"], side="right") - 1
        known = at >= 0
        times = np.where(known, rows["time"][pages][np.maximum(at, 0)], np.nan) if len(rows) else np.zeros(len(votes))
        order = np.lexsort([times, votes["mask"]])
        last = np.append(votes["mask"][order][1:] != votes["mask"][order][:-1], True)[: len(order)]
        chosen = order[last]
        return cls(
            of_kinds["time"], of_kinds["class_id"], of_kinds["questions"].astype(np.int64),
            int(rows["questions"].sum()), len(np.unique(rows["user"])),
            votes["mask"][chosen], times[chosen],
        )  # fmt: skip

    @property
    def first(self) -> datetime | None:
        """When the first of them was given, UTC."""
        known = self.time[~np.isnan(self.time)]
        return None if not len(known) else datetime.fromtimestamp(float(known.min()), timezone.utc).replace(tzinfo=None)

    @property
    def last(self) -> float:
        """When the last of them was given, as Unix time; 0 where there is none."""
        known = self.time[~np.isnan(self.time)]
        return float(known.max()) if len(known) else 0.0


@dataclass(frozen=True)
class Gains:
    """Masks that came in together: when, of what, how many, and mean and variance of how many are correct."""

    time: np.ndarray
    round: np.ndarray
    class_id: np.ndarray
    count: np.ndarray
    mean: np.ndarray
    variance: np.ndarray

    def of(self, round_number: int, class_id: int) -> Gains:
        """Those of one class in one round."""
        rows = (self.round == round_number) & (self.class_id == class_id)
        return Gains(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def masks(self) -> int:
        """How many masks they are."""
        return int(self.count.sum())

    def precision(self) -> Estimate | None:
        """The share of correct ones, estimated; None of no masks."""
        return estimate(float(self.mean.sum()), float(self.variance.sum()), self.masks)


def obtained(store: Store, dataset: Outline, answered: AnsweredWork) -> Gains:
    """The dataset by clusters: a cluster's masks came with its decision, a mask of its own with its answer.

    Others came with the last answer. A mask voted yes counts as correct; one chosen by its chance has that.
    """
    groups = dataset.groups
    mean, variance = groups["masks"].astype(np.float64), np.zeros(len(groups))
    time = np.full(len(groups), answered.last)
    likely = ~np.isnan(groups["chance"])
    mean[likely], variance[likely] = groups["chance"][likely], groups["spread"][likely]
    decided = store.decisions.evidence(Kind.ACCEPT) if (groups["cluster"] != NO_CLUSTER).any() else {}
    certain = groups["asked"].astype(np.int64)
    for n in np.flatnonzero(groups["cluster"] != NO_CLUSTER).tolist():
        decision = decided.get(tuple(int(groups[name][n]) for name in ("round", "class_id", "cluster")))  # type: ignore[arg-type]
        if decision is not None:
            yes, quality, at = decision
            # `asked` counts the unsure answers too; those that were yes or no follow from the quality.
            certain[n] = round(yes / quality) if quality else certain[n]
            time[n] = (at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp()
    by_sample = ~groups["voted"] & ~likely & (groups["masks"] > 0)
    mean[by_sample], variance[by_sample] = expected_correct(
        groups["masks"][by_sample], groups["yes"][by_sample], certain[by_sample]
    )
    alone = np.flatnonzero(groups["mask"] != NO_MASK)
    if len(alone) and len(answered.masks):
        place = np.minimum(np.searchsorted(answered.masks, groups["mask"][alone]), len(answered.masks) - 1)
        same = (answered.masks[place] == groups["mask"][alone]) & ~np.isnan(answered.mask_time[place])
        time[alone[same]] = answered.mask_time[place[same]]
    return Gains(time, groups["round"], groups["class_id"], groups["masks"], mean, variance)


def progress(gains: Gains, answered: AnsweredWork) -> Progress:
    """What was added when, from the first question on."""
    known = ~np.isnan(answered.time)
    if not known.any():
        return Progress(*(np.zeros(0, dtype) for dtype in _TYPES))
    asked, n = int(known.sum()), len(gains.time)
    time = np.concatenate([answered.time[known], gains.time])
    columns = (
        np.maximum(time - answered.time[known].min(), 0.0),
        np.concatenate([answered.class_id[known], gains.class_id]),
        np.concatenate([answered.questions[known], np.zeros(n, np.int64)]),
        *(np.concatenate([np.zeros(asked), own]) for own in (gains.count, gains.mean, gains.variance)),
    )
    order = np.lexsort([-columns[2], columns[1], time])
    return Progress(*(column[order].astype(dtype) for column, dtype in zip(columns, _TYPES, strict=True)))


_TYPES = (np.float64, np.int32, np.int32, np.int32, np.float64, np.float64)
