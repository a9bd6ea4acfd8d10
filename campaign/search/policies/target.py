"""The policy of a target for all masks together: it decides no cluster by itself.

What is asked and delivered under it is chosen over the masks of all classes at once (`campaign.search.selection`), so
the search of a class only keeps its facts, and the orders of the lead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from campaign.records.decision import Kind
from campaign.search.evidence import Evidence, Outcome
from ml_backend.errors import InputError

if TYPE_CHECKING:
    from campaign.clustering import Tree
    from campaign.search.thresholds import Thresholds


@dataclass(frozen=True)
class Target:
    """Asks nothing and decides what the lead ordered, {cluster: kind}: to accept or to reject it as a whole.

    An order to split says no more than that the masks go by their own chances, which they do.
    """

    orders: tuple[tuple[int, str], ...] = ()
    rule: str = ""
    name: str = "target"
    shared_draw: bool = True

    def start(self, tree: Tree) -> list[int]:
        """The clusters that the lead wants accepted or rejected."""
        return [cluster for cluster, kind in self.orders if kind != Kind.SPLIT]

    def priority(self, evidence: Evidence, thresholds: Thresholds) -> float:
        """The mean score."""
        return evidence.mean_score

    def draw_limit(self, size: int) -> int:
        """No mask is drawn."""
        return 0

    def consider(self, evidence: Evidence, thresholds: Thresholds) -> Outcome | int:
        """What the lead ordered. Raises InputError for any other cluster."""
        kind = dict(self.orders).get(evidence.cluster)
        if kind is None:
            raise InputError("cluster", "one that the lead decided", evidence.cluster)
        return Outcome(kind, self.rule)
