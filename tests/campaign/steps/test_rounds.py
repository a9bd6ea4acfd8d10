"""Which steps are due: a table of states and steps."""

import pytest

from campaign.steps.rounds import Progress, Step, detection_jobs, due


def progress(stage, shards=(), trees=(), is_bounded=True):
    return Progress(2, stage, {"pool": 2, "heldout": 1}, frozenset(shards), (1, 5), frozenset(trees), is_bounded)


ALL = [("heldout", 0), ("pool", 0), ("pool", 1)]
TABLE = {
    "train": (progress("train"), [Step("train", "gpu", 2)]),
    "nothing detected": (progress("detect", is_bounded=False), [Step("detect", "gpu", 2, ("heldout", 0, 1))]),
    "held-out images detected": (progress("detect", ALL[:1], is_bounded=False), [Step("bound", "gpu", 2)]),
    "bounded": (progress("detect", ALL[:1]), [Step("detect", "gpu", 2, ("pool", i, i + 1)) for i in range(2)]),
    "one shard left": (progress("detect", ALL[:2]), [Step("detect", "gpu", 2, ("pool", 1, 2))]),
    "all detected": (progress("detect", ALL), [Step("assess", "gpu", 2)]),
    "two bundles left": (
        Progress(2, "cluster", {}, frozenset(), (1, 5), frozenset(), bundles=3, finished_bundles=frozenset([1])),
        [Step("gather", "gpu", 2, (0,)), Step("gather", "gpu", 2, (2,))],
    ),
    "all gathered": (
        Progress(2, "cluster", {}, frozenset(), (1, 5), frozenset(), bundles=1, finished_bundles=frozenset([0])),
        [Step("cluster", "gpu", 2, (1,)), Step("cluster", "gpu", 2, (5,))],
    ),
    "one class left": (progress("cluster", ALL, [1]), [Step("cluster", "gpu", 2, (5,))]),
    "all clustered": (progress("cluster", ALL, [1, 5]), [Step("open", "default", 2)]),
    "verify": (progress("verify", ALL, [1, 5]), [Step("sync", "default", 2)]),
    "propagate": (progress("propagate", ALL, [1, 5]), [Step("propagate", "default", 2)]),
    "done": (progress("done", ALL, [1, 5]), []),
}


@pytest.mark.parametrize(("state", "steps"), TABLE.values(), ids=TABLE.keys())
def test_due_steps(state, steps):
    assert due(state) == steps


def test_job_ids_name_the_step_in_letters_that_rq_takes():
    assert Step("detect", "gpu", 2, ("pool", 1, 2)).job_id("abc") == "abc-r2-detect-pool-1-2"


@pytest.mark.parametrize(
    ("shards", "jobs", "largest"), [(0, 0, 0), (1, 1, 1), (20, 20, 1), (150, 75, 2), (3125, 98, 32), (31250, 977, 32)]
)
def test_detection_jobs_take_every_shard_once(shards, jobs, largest):
    found = detection_jobs(shards)
    assert [number for first, end in found for number in range(first, end)] == list(range(shards))
    assert len(found) == jobs
    assert max((end - first for first, end in found), default=0) == largest


def test_a_detection_job_is_due_until_its_last_shard_is_finished():
    shards = frozenset(("pool", number) for number in range(200) if number != 4)
    state = Progress(1, "detect", {"pool": 200}, shards, (1,), frozenset())
    assert due(state) == [Step("detect", "gpu", 1, ("pool", 3, 6))]
