"""Which steps are due: a pure function of what the store holds, so a crash is mended by planning again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Queue = Literal["gpu", "default"]

# A detection job loads the model, which takes seconds, so it takes several shards where there are many; still there
# are jobs enough for many workers.
DETECTION_JOBS = 64
MOST_SHARDS = 32


@dataclass(frozen=True)
class Step:
    """One idempotent step of a campaign: a station and what it works on."""

    station: str
    queue: Queue
    round_number: int
    args: tuple[str | int, ...] = ()

    def job_id(self, campaign_key: str) -> str:
        """The id of the step's job: the same step always has the same one."""
        return "-".join(str(part) for part in (campaign_key, f"r{self.round_number}", self.station, *self.args))


@dataclass(frozen=True)
class Progress:
    """What the store says of the running round."""

    round_number: int
    stage: str
    shards: dict[str, int]  # split -> how many there are to be
    finished_shards: frozenset[tuple[str, int]]
    classes: tuple[int, ...]
    finished_trees: frozenset[int]


def due(progress: Progress) -> list[Step]:
    """The steps that can be run now; none where the campaign has ended."""
    n, stage = progress.round_number, progress.stage
    if stage == "train":
        return [Step("train", "gpu", n)]
    if stage == "detect":
        todo = [
            Step("detect", "gpu", n, (split, first, end))
            for split in ("heldout", "pool")
            for first, end in detection_jobs(progress.shards.get(split, 0))
            if any((split, number) not in progress.finished_shards for number in range(first, end))
        ]
        return todo or [Step("assess", "gpu", n)]
    if stage == "cluster":
        todo_classes: Iterable[int] = (c for c in progress.classes if c not in progress.finished_trees)
        return [Step("cluster", "gpu", n, (c,)) for c in todo_classes] or [Step("open", "default", n)]
    if stage == "verify":
        return [Step("sync", "default", n)]
    if stage == "propagate":
        return [Step("propagate", "default", n)]
    return []


def detection_jobs(shards: int) -> list[tuple[int, int]]:
    """The shards [first, end) of each detection job, the same ones however many are finished."""
    together = min(max(shards // DETECTION_JOBS, 1), MOST_SHARDS)
    return [(first, min(first + together, shards)) for first in range(0, shards, together)]
