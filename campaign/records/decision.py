"""What was decided of a cluster."""

from __future__ import annotations

from dataclasses import dataclass

from campaign.records.names import Name


class Kind(Name):
    """The three decisions that there are."""

    ACCEPT = "accept"
    REJECT = "reject"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class Decision:
    """What was decided of a cluster, and on what evidence.

    `asked` counts the masks whose answers were weighed, unsure ones included, `yes` those voted yes. `quality` is
    Q̃, the estimate of the fraction of correct masks, and `lower_bound` its one-sided 95 % lower bound; both are None
    for a decision that rests on the mean score alone.
    """

    cluster: int
    kind: Kind
    rule: str
    asked: int
    yes: int
    quality: float | None
    mean_score: float
    lower_bound: float | None
