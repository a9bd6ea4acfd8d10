"""The state machine of rounds: which steps are due, how one is run, and where a round goes from there.

What is due is a pure function of what the store holds, so a crash is mended by planning again. Every step may be run
again at any time: one that is over, or late, does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, cast

from campaign.derived.outlook import all_wait, waiting_line
from campaign.derived.status import verification_progress
from campaign.records.names import Name
from campaign.records.stage import Stage
from campaign.search.least_score import KEPT
from campaign.settings import Split
from campaign.store import Store
from campaign.store import models as m
from ml_backend.detector import Progress as Report
from ml_backend.errors import InputError

Queue = Literal["gpu", "default"]

# A detection job loads the model, which takes seconds, so it takes several shards where there are many; still there
# are jobs enough for many workers.
DETECTION_JOBS = 64
MOST_SHARDS = 32
# One that is slower leaves its other shards to the next, long before RQ's limit for jobs.
DETECTION_SECONDS = 600


class StepName(Name):
    """The steps of a round, in their order; `join` and `follow` where images came while it is verified.

    `export` makes some files of an export, which is of no round.
    """

    TRAIN = "train"
    DETECT = "detect"
    BOUND = "bound"
    ASSESS = "assess"
    GATHER = "gather"
    CLUSTER = "cluster"
    JOIN = "join"
    FOLLOW = "follow"
    OPEN = "open"
    SYNC = "sync"
    PROPAGATE = "propagate"
    EXPORT = "export"


# Steps of which many are due together.
MANY = frozenset({StepName.DETECT, StepName.GATHER, StepName.CLUSTER, StepName.JOIN})
# Steps that are run for images that join, beside the turns of a round.
JOINING = frozenset({StepName.DETECT, StepName.GATHER, StepName.JOIN, StepName.FOLLOW})


@dataclass(frozen=True)
class Step:
    """One idempotent piece of work of a round, and what it works on."""

    name: StepName
    queue: Queue
    round_number: int
    args: tuple[str | int, ...] = ()

    def job_id(self, campaign_key: str) -> str:
        """The id of the step's job: the same step always has the same one."""
        return "-".join(str(part) for part in (campaign_key, f"r{self.round_number}", self.name, *self.args))


@dataclass(frozen=True)
class Progress:
    """What the store says of the running round."""

    round_number: int
    stage: str
    shards: dict[str, int]  # split -> how many there are to be
    finished_shards: frozenset[tuple[str, int]]
    classes: tuple[int, ...]
    finished_trees: frozenset[int]
    is_bounded: bool = True  # whether it is known which masks are worth keeping
    bundles: int = 0  # how many there are to be of the pool's masks by class; none but where trees are built
    finished_bundles: frozenset[int] = frozenset()
    joining: bool = False  # whether images came that are to join the trees of a round at verify
    joined_trees: frozenset[int] = frozenset()  # of which classes the tree with them is there


def progress_of(store: Store) -> Progress | None:
    """What the store says of the newest round; None before the first."""
    current = store.rounds.newest()
    if current is None:
        return None
    done = store.masks.finished(current.number)
    trees = frozenset(t.class_id for t in store.trees.rows(current.number))
    # Where a tree is built already, by an earlier release perhaps, the others are built from the shards as well.
    joining = current.stage == Stage.VERIFY and store.trees.joining(current.number) is not None
    builds = joining or (current.stage == Stage.CLUSTER and not trees)
    bundles = store.bundles.planned(current.number) if builds else []
    return Progress(
        current.number,
        current.stage,
        {split: shard_count(store, cast(Split, split), current.number) for split in ("pool", "heldout")},
        frozenset((split, number) for split, number, _ in done),
        tuple(store.classes()),
        trees,
        # A round whose pool an earlier version began to detect keeps all.
        bool((current.metrics.get(KEPT) or {}).get("applied")) or any(split == "pool" for split, _, _ in done),
        len(bundles),
        store.bundles.finished(current.number, bundles) if bundles else frozenset(),
        joining,
        frozenset(t.class_id for t in store.trees.prepared(current.number)) if joining else frozenset(),
    )


def shard_count(store: Store, split: Split, round_number: int) -> int:
    """How many shards a split's images make in a round."""
    return store.images.count_shards(split, store.settings.jobs.shard_images, round_number)


def due(progress: Progress) -> list[Step]:
    """The steps that can be run now; none where the campaign has ended."""
    n = progress.round_number
    if progress.stage == Stage.TRAIN:
        return [Step(StepName.TRAIN, "gpu", n)]
    if progress.stage == Stage.DETECT:
        return _due_in_detection(progress)
    if progress.stage == Stage.CLUSTER:
        if missing := _due_bundles(progress):
            return missing
        classes = [c for c in progress.classes if c not in progress.finished_trees]
        return [Step(StepName.CLUSTER, "gpu", n, (c,)) for c in classes] or [Step(StepName.OPEN, "default", n)]
    if progress.stage == Stage.VERIFY:
        return [Step(StepName.SYNC, "default", n), *(_due_to_join(progress) if progress.joining else [])]
    if progress.stage == Stage.PROPAGATE:
        return [Step(StepName.PROPAGATE, "default", n)]
    return []


def _due_bundles(progress: Progress) -> list[Step]:
    missing = [b for b in range(progress.bundles) if b not in progress.finished_bundles]
    return [Step(StepName.GATHER, "gpu", progress.round_number, (b,)) for b in missing]


def _due_to_join(progress: Progress) -> list[Step]:
    """New images are detected, all masks gathered by class, the trees of all classes made, and these count together."""
    n = progress.round_number
    if missing := _due_shards(progress, "pool") or _due_bundles(progress):
        return missing
    classes = [c for c in sorted(progress.finished_trees) if c not in progress.joined_trees]
    return [Step(StepName.JOIN, "gpu", n, (c,)) for c in classes] or [Step(StepName.FOLLOW, "default", n)]


def _due_in_detection(progress: Progress) -> list[Step]:
    """Held-out shards first; what they say bounds what is stored of the pool's, which come next."""
    n = progress.round_number
    if heldout := _due_shards(progress, "heldout"):
        return heldout
    if progress.shards.get("heldout") and not progress.is_bounded:
        return [Step(StepName.BOUND, "gpu", n)]
    return _due_shards(progress, "pool") or [Step(StepName.ASSESS, "gpu", n)]


def _due_shards(progress: Progress, split: Split) -> list[Step]:
    return [
        Step(StepName.DETECT, "gpu", progress.round_number, (split, first, end))
        for first, end in detection_jobs(progress.shards.get(split, 0))
        if any((split, number) not in progress.finished_shards for number in range(first, end))
    ]


def detection_jobs(shards: int) -> list[tuple[int, int]]:
    """The shards [first, end) of each detection job, the same ones however many are finished."""
    together = min(max(shards // DETECTION_JOBS, 1), MOST_SHARDS)
    return [(first, min(first + together, shards)) for first in range(0, shards, together)]


def stage_progress(store: Store, progress: Progress) -> tuple[str, int, int]:
    """(what is under way, done, total) of the running round, as far as the store knows."""
    if progress.stage == Stage.DETECT:
        return "detecting masks, shards of images", len(progress.finished_shards), sum(progress.shards.values())
    if progress.stage == Stage.CLUSTER:
        if len(progress.finished_bundles) < progress.bundles:
            return "gathering masks by class, bundles", len(progress.finished_bundles), progress.bundles
        return "clustering, classes", len(progress.finished_trees), len(progress.classes)
    if progress.stage == Stage.VERIFY:
        if all_wait(store, progress.round_number):
            return f"{waiting_line(store)}; campaign run --go-on overrides", 0, 0
        return ("verifying, answers", *verification_progress(store, progress.round_number))
    names = {Stage.TRAIN: "training the detector", Stage.PROPAGATE: "propagating", Stage.DONE: "finished"}
    return names[Stage(progress.stage)], 0, 0


def start_campaign(store: Store) -> None:
    """Starts the first round where none is."""
    if store.rounds.newest() is None:
        store.rounds.start(1, Stage.TRAIN)


def running_round(store: Store, stage: Stage) -> int:
    """The number of the newest round. Raises InputError where it is not at that stage."""
    current = store.rounds.newest()
    if current is None or current.stage != stage:
        got = "no round" if current is None else f"stage {current.stage}"
        raise InputError(f"campaign {store.place}", f"a round at stage {stage}", got)
    return current.number


def run_step(store: Store, name: str, round_number: int, *args: str | int, report: Report | None = None) -> None:
    """Runs one step in this process. A late copy of one whose round or stage is over does nothing.

    A step that has two copies, because Redis lost what was running, runs once: the other waits, and finds it done.
    Raises InputError where what it needs is missing or wrong.
    """
    step = Step(StepName(name), "default", round_number, args)
    with store.step_locked(step.job_id(store.key)):
        current = store.rounds.newest()
        if step.name == StepName.EXPORT or (
            current is not None and current.number == round_number and _is_time(store, current, step.name)
        ):
            _RUN[step.name](store, round_number, args, report)


def _is_time(store: Store, current: m.Round, name: StepName) -> bool:
    """Whether a step of the running round is neither early nor late."""
    if current.stage == Stage.VERIFY and name in JOINING:
        return store.trees.joining(current.number) is not None
    return current.stage == _STAGE[name]


def _train(store: Store, round_number: int, _args: tuple, report: Report | None) -> None:
    from campaign.steps.train import train

    train(store, round_number, report)
    store.rounds.advance(round_number, Stage.TRAIN, Stage.DETECT)


def _detect(store: Store, round_number: int, args: tuple, report: Report | None) -> None:
    from campaign.steps.detect import detect

    split, first, end = args
    started = time.monotonic()
    for number in range(int(first), int(end)):
        detect(store, round_number, cast(Split, split), number, report)
        if time.monotonic() - started > DETECTION_SECONDS:
            return


def _bound(store: Store, round_number: int, _args: tuple, _report: Report | None) -> None:
    from campaign.steps.detect import bound

    bound(store, round_number)


def _assess(store: Store, round_number: int, _args: tuple, _report: Report | None) -> None:
    from campaign.steps.detect import assess

    assess(store, round_number)
    store.rounds.advance(round_number, Stage.DETECT, Stage.CLUSTER)


def _gather(store: Store, round_number: int, args: tuple, report: Report | None) -> None:
    store.bundles.gather(round_number, int(args[0]), report)


def _cluster(store: Store, round_number: int, args: tuple, report: Report | None) -> None:
    from campaign.steps.cluster import cluster

    cluster(store, round_number, int(args[0]), report)


def _join(store: Store, round_number: int, args: tuple, report: Report | None) -> None:
    from campaign.steps.join import join

    join(store, round_number, int(args[0]), report)


def _follow(store: Store, round_number: int, _args: tuple, _report: Report | None) -> None:
    from campaign.steps.join import follow

    follow(store, round_number)


def _open(store: Store, round_number: int, _args: tuple, _report: Report | None) -> None:
    from campaign.derived.forests import prepare
    from campaign.steps.forecast import forecast

    forecast(store, round_number)
    if store.settings.search.policy == "target":
        prepare(store, round_number)
    store.rounds.advance(round_number, Stage.CLUSTER, Stage.VERIFY)
    store.bundles.drop(round_number)


def _sync(store: Store, _round_number: int, _args: tuple, _report: Report | None) -> None:
    from campaign.steps.verify import turn

    turn(store)


def _propagate(store: Store, round_number: int, _args: tuple, _report: Report | None) -> None:
    from campaign.steps.propagate import finish_round

    finish_round(store, round_number)


def _export(store: Store, _round_number: int, args: tuple, report: Report | None) -> None:
    from campaign.steps.export_plan import make_parts

    export_id, job = str(args[0]), int(args[1])
    make_parts(store, export_id, job, None if report is None else lambda done, total: report("masks", done, total))


# Imported when they run: a worker that publishes pages need not load a detector.
_RUN: dict[StepName, Callable[[Store, int, tuple, Report | None], None]] = {
    StepName.TRAIN: _train,
    StepName.DETECT: _detect,
    StepName.BOUND: _bound,
    StepName.ASSESS: _assess,
    StepName.GATHER: _gather,
    StepName.CLUSTER: _cluster,
    StepName.JOIN: _join,
    StepName.FOLLOW: _follow,
    StepName.OPEN: _open,
    StepName.SYNC: _sync,
    StepName.PROPAGATE: _propagate,
    StepName.EXPORT: _export,
}
_STAGE = {
    StepName.TRAIN: Stage.TRAIN,
    StepName.DETECT: Stage.DETECT,
    StepName.BOUND: Stage.DETECT,
    StepName.ASSESS: Stage.DETECT,
    StepName.GATHER: Stage.CLUSTER,
    StepName.CLUSTER: Stage.CLUSTER,
    StepName.JOIN: Stage.VERIFY,
    StepName.FOLLOW: Stage.VERIFY,
    StepName.OPEN: Stage.CLUSTER,
    StepName.SYNC: Stage.VERIFY,
    StepName.PROPAGATE: Stage.PROPAGATE,
}
