"""Jobs that may be run: the known steps of one campaign, as JSON.

Whoever can write to Redis can put any bytes on a queue. So nothing from there is unpickled, imported by name or called
back: a job says which step is meant, and this module knows what that is.
"""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError
from rq import Queue, Worker
from rq.exceptions import DeserializationError, NoSuchJobError
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from campaign.steps.rounds import Step, StepName
from campaign.store import Store

logger = logging.getLogger(__name__)

PERFORM = "campaign.jobs.tasks.perform"
QUEUES = ("gpu", "default")
# Bytes of a job's data; a step's take some hundred.
MOST_DATA = 1 << 16
# Seconds; a training may take days.
MOST_TIMEOUT = 30 * 86400
# What a job may have beside its step: other functions, addresses that are told, jobs that follow. Steps need none.
_DROPPED = (
    b"success_callback_name", b"failure_callback_name", b"stopped_callback_name", b"webhooks", b"dependency_ids",
    b"dependency_id", b"group_id", b"repeats_left", b"repeat_intervals", b"result", b"exc_info",
)  # fmt: skip
# What the steps work on, by position; all others take nothing.
_ARGUMENTS: dict[StepName, tuple[type, ...]] = {
    StepName.DETECT: (str, int, int),
    StepName.GATHER: (int,),
    StepName.CLUSTER: (int,),
    StepName.JOIN: (int,),
    StepName.EXPORT: (str, int),
}


class StepJob(Job):
    """A job of RQ whose content is JSON and which names no function; a worker's jobs have theirs."""

    def __init__(self, id: str | None = None, connection: Redis | None = None, serializer: object = None):
        super().__init__(id, connection, JSONSerializer)

    @property
    def func(self) -> Callable:
        """None: a name from Redis is never looked up."""
        raise TypeError(f"job {self.id}: expected a worker's job, got one that is looked at only")

    def refresh(self) -> None:
        """Reads the job from Redis. Raises NoSuchJobError where there is none, or none that can be read."""
        try:
            super().refresh()
        except ResponseError:
            logger.warning("job %r: expected a job of this campaign, got another kind of value; removed", self.id)
            self.connection.delete(self.key)
            raise NoSuchJobError(self.id) from None

    def restore(self, raw_data: dict[bytes, bytes]) -> None:
        """Takes the job's fields from Redis. Raises NoSuchJobError where they are not those of a job, and removes it.

        Never unpickles, and drops what a step has no need of.
        """
        try:
            fields = {name: value for name, value in raw_data.items() if name not in _DROPPED}
            fields[b"data"] = _unpacked(fields[b"data"])
            super().restore(fields)
        except Exception as error:  # RQ raises whatever its parsers do, and none of them asks Redis
            logger.warning("job %r: expected a job of this campaign, got %r; removed", self.id, error)
            self.connection.delete(self.key)
            raise NoSuchJobError(self.id) from None

    def latest_result(self, timeout: int = 0) -> Result | None:
        """What came of the job last; None where there is nothing, or nothing that can be read."""
        try:
            return super().latest_result(timeout)
        except (ValueError, TypeError, LookupError, zlib.error) as error:
            logger.warning("job %r: expected the result of a job, got %r", self.id, error)
            return None


class StepQueue(Queue):
    """A queue of RQ that passes over whatever cannot be the id of a job."""

    @classmethod
    def lpop(cls, queue_keys: Sequence[str], timeout: int | None, connection: Redis | None = None) -> Any:
        """The next (queue key, job id), or None; see RQ."""
        while (result := super().lpop(queue_keys, timeout, connection)) is not None and not _is_id(result[1]):
            pass
        return result

    @classmethod
    def lmove(cls, connection: Redis, queue_key: str, timeout: int | None) -> Any:
        """The next (queue key, job id), or None; see RQ."""
        while (result := super().lmove(connection, queue_key, timeout)) is not None and not _is_id(result[1]):
            connection.lrem(f"{queue_key}:intermediate", 0, result[1])
        return result


def step_queue(store: Store, name: str, connection: Redis) -> StepQueue:
    """The campaign's own queue `name`, gpu or default: two campaigns on one Redis do not take each other's jobs."""
    return StepQueue(f"{store.key}-{name}", connection=connection, job_class=StepJob, serializer=JSONSerializer)


def step_workers(connection: Redis) -> list[BaseWorker]:
    """The workers that Redis knows of, those of other campaigns too."""
    return Worker.all(connection=connection, job_class=StepJob, queue_class=StepQueue, serializer=JSONSerializer)


def refusal(job: Job, place: str, key: str) -> str | None:
    """What a job is instead of a step of the campaign `key` at `place`; None where it is one and may be run."""
    try:
        named, instance, args, kwargs = job.func_name, job.instance, job.args, job.kwargs
    except DeserializationError:
        return "data that is no JSON"
    if named != PERFORM or instance is not None or kwargs != {}:
        return f"function {_brief(named)}"
    if not isinstance(args, list) or len(args) < 3 or args[0] != place:
        return f"arguments {_brief(args)}"
    if args[1] not in list(StepName):
        return f"step {_brief(args[1])}"
    name, numbers = StepName(args[1]), args[2:]
    if [type(value) for value in numbers] != [int, *_ARGUMENTS.get(name, ())]:
        return f"arguments {_brief(numbers)} of step {name}"
    if job.id != Step(name, "default", args[2], tuple(args[3:])).job_id(key):
        return f"step {name} under a foreign id"
    if not isinstance(job.timeout, int) or not 0 < job.timeout <= MOST_TIMEOUT:
        return f"timeout {_brief(job.timeout)}"
    return None


def _is_id(name: bytes) -> bool:
    if re.fullmatch(rb"[\w-]{1,200}", name):
        return True
    logger.warning("queue: expected the id of a job, got %s; removed", _brief(name))
    return False


def _unpacked(data: bytes) -> bytes:
    """A job's data, which RQ packs. Raises ValueError where they are too long to be those of a step."""
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(data, MOST_DATA + 1)
    except zlib.error:
        plain = data
    if len(plain) > MOST_DATA:
        raise ValueError(f"more than {MOST_DATA} bytes")
    return plain


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
