"""Which steps are due: a table of states and steps."""

import pytest

from campaign.jobs.plan import Progress, Step, due


def progress(stage, shards=(), trees=()):
    return Progress(2, stage, {"pool": 2, "heldout": 1}, frozenset(shards), (1, 5), frozenset(trees))


ALL = [("heldout", 0), ("pool", 0), ("pool", 1)]
TABLE = {
    "train": (progress("train"), [Step("train", "gpu", 2)]),
    "nothing detected": (progress("detect"), [Step("detect", "gpu", 2, shard) for shard in ALL]),
    "one shard left": (progress("detect", ALL[:2]), [Step("detect", "gpu", 2, ("pool", 1))]),
    "all detected": (progress("detect", ALL), [Step("assess", "gpu", 2)]),
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
    assert Step("detect", "gpu", 2, ("pool", 1)).job_id("abc") == "abc-r2-detect-pool-1"
