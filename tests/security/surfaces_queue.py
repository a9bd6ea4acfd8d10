"""What lies in Redis in the place of a job."""

from __future__ import annotations

import json
import pickle
import random
import zlib
from typing import Any, cast

from redis import Redis
from rq.exceptions import NoSuchJobError

from campaign.jobs.step_jobs import PERFORM, StepJob, refusal
from campaign.steps.rounds import StepName
from tests.security.mutation import junk, mutated, mutated_bytes

FOLDER, KEY = "/campaign", "key"
EXPLODED: list[int] = []


class Bomb:
    """Leaves a trace where it is unpickled."""

    def __reduce__(self) -> tuple:
        return EXPLODED.append, (1,)


class Deleting:
    """All that a job asks of Redis when it cannot be read."""

    def delete(self, *_: Any) -> int:
        """As if it were there."""
        return 1


def job(rng: random.Random) -> None:
    """A job is a step of the campaign, or is not run."""
    name = rng.choice(list(StepName))
    args: list[Any] = [FOLDER, str(name), 1]
    args += {
        StepName.DETECT: ["pool", 0, 1],
        StepName.CLUSTER: [3],
        StepName.GATHER: [3],
        StepName.EXPORT: ["0f", 3],
    }.get(name, [])
    job_id = "-".join([KEY, "r1", str(name), *map(str, args[3:])])
    whole = [PERFORM, None, args, {}]
    value = mutated(rng, whole, rng.choice([0.0, 0.05, 0.2]))
    data = rng.choice([json.dumps(value).encode(), pickle.dumps(Bomb()), json.dumps(junk(rng)).encode()])
    fields = {
        b"data": zlib.compress(data) if rng.random() < 0.9 else data, b"created_at": b"2026-01-01T00:00:00Z",
        b"status": b"queued", b"timeout": b"60", b"meta": rng.choice([b"{}", pickle.dumps(Bomb()), b"[]"]),
        b"result": pickle.dumps(Bomb()), b"retry_intervals": b"[1]", b"success_callback_name": b"os.getcwd",
    }  # fmt: skip
    for field in list(fields):
        if rng.random() < 0.05:
            fields[field] = mutated_bytes(rng, fields[field])
    one = StepJob(job_id, connection=cast(Redis, Deleting()))
    try:
        one.restore(fields)
    except NoSuchJobError:
        return
    got = refusal(one, FOLDER, KEY)
    assert not EXPLODED and one.success_callback is None
    assert got is None or ("\n" not in got and len(got) < 300)
    if got is None:
        assert json.loads(data) == whole


SURFACES = {"job": job}
