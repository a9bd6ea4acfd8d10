"""What the report shows, as plain values and arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

import numpy as np

from campaign.quality.work import Pace
from campaign.records.course import Point
from campaign.report.estimates import Estimate
from campaign.search.thresholds import Curves

Kind = Literal["accept", "split", "reject"]
KINDS: tuple[Kind, ...] = ("accept", "split", "reject")


@dataclass(frozen=True)
class RoundFigures:
    """One round: how it went and how good its detector was on the held-out images.

    `ap` holds COCO average precision by name ("ap", "ap50", "ap75" of masks, "box_ap"), 0 to 1; names may be missing.
    """

    number: int
    model_version: str
    stage: str
    ap: Mapping[str, float]


@dataclass(frozen=True)
class ClassFigures:
    """One class in one round.

    `masks` obtained, a share `precision` of them correct by estimate, out of `predictions` found, of which `known`
    showed what the dataset held already. `clusters` and `questions` count decided clusters and the questions asked in
    them, by the kind of the decision; questions of clusters that are not decided yet are under "open". `unseen`
    clusters were decided by their mean score alone. `decided` counts predictions in accepted and in rejected clusters.
    """

    round: int
    class_id: int
    predictions: int
    known: int
    masks: int
    clusters: Mapping[Kind, int]
    decided: Mapping[Kind, int]
    questions: Mapping[str, int]
    unseen: int
    precision: Estimate | None
    k_pr: float
    k_pa: float
    note: str = ""
    curves: Curves | None = None


@dataclass(frozen=True)
class Progress:
    """What was added when; row i of every column is one addition, in the order of time.

    | column | shape, type | meaning |
    | --- | --- | --- |
    | seconds | (n,) float64 | since the first question |
    | class_id | (n,) int32 | |
    | questions | (n,) int32 | answers given |
    | masks | (n,) int32 | masks obtained |
    | correct | (n,) float64 | how many of these masks are correct, estimated |
    | variance | (n,) float64 | variance of that estimate |
    """

    seconds: np.ndarray
    class_id: np.ndarray
    questions: np.ndarray
    masks: np.ndarray
    correct: np.ndarray
    variance: np.ndarray

    def select(self, class_id: int) -> Progress:
        """The additions to one class."""
        chosen = self.class_id == class_id
        return Progress(*(getattr(self, name)[chosen] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class Crop:
    """A picture of one mask; `verdict` is "yes", "no", "unsure" or None for a mask nobody was asked about."""

    jpeg: bytes
    verdict: str | None


@dataclass(frozen=True)
class ExampleCluster:
    """A decided cluster with some of its masks."""

    kind: Kind
    round: int
    class_id: int
    cluster: int
    size: int
    asked: int
    yes: int
    mean_score: float
    lower_bound: float | None
    rule: str
    crops: tuple[Crop, ...]


@dataclass(frozen=True)
class FreeStart:
    """Pool masks of a class that look most like held-out ones known to be correct.

    Of the `nearest` ones `obtained` are in the dataset and `refused` were voted no; the others were left undecided or
    in clusters that were not accepted. `crops` show the first few.
    """

    class_id: int
    nearest: int
    obtained: int
    refused: int
    crops: tuple[Crop, ...]


@dataclass(frozen=True)
class ReportData:
    """Everything on the page.

    `answers` counts the answers given, without gold; `pace` is the time annotators spent on all answers, gold among
    them, as measured by Label Studio (of no answers where it is not known). `by_cluster` says whether masks were
    obtained by clusters, not each by its chance as under the policy of a target; only then `precision` estimates the
    share of correct masks, and `basis` says in a few sentences what it rests on. `truth` holds figures against ground
    truth where there is one, by name.
    `certificate` is the certificate of the export where there is one, by name. `recall` is what people who looked for
    what is missing say of it, by class, and of "all" in the first row: estimate, bound, masks, objects clicked.
    `forecast` is what was expected before the first question, in the same way: correct masks, objects, recall,
    questions, hours.
    """

    name: str
    made: datetime
    started: datetime | None
    detector: str
    classes: Mapping[int, str]
    images: Mapping[str, int]
    labelled_masks: int
    masks: int
    voted: int
    questions: int
    answers: int
    annotators: int
    pace: Pace
    precision: Estimate | None
    basis: str
    by_cluster: bool
    rounds: tuple[RoundFigures, ...]
    figures: tuple[ClassFigures, ...]
    progress: Progress
    examples: tuple[ExampleCluster, ...]
    settings: Mapping[str, str]
    truth: Mapping[str, float] = field(default_factory=dict)
    certificate: Mapping[str, str] = field(default_factory=dict)
    recall: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    recall_note: str = ""
    forecast: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    course: tuple[Point, ...] = ()
    free_start: tuple[FreeStart, ...] = ()
    gold: int = 0  # masks of known verdict among the questions, in none of the counts
    cut: tuple[float, float, float] | None = None  # IoU at which the annotators' eyes cut, with its 90 % interval
    k_iou: float = 0.75
    duplicates: str = ""  # images that are there more than once, in a line
    provisional: bool = False  # of the masks of the running round some may be of the same object
