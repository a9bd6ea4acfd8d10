"""A worker: takes jobs from the queues of the campaign's Redis, each in a process of its own."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError
from rq import Queue, Worker
from rq.job import Job, JobStatus
from rq.serializers import JSONSerializer

from campaign.jobs.broker import connect
from campaign.jobs.processes import ask_to_stop, die_with_parent, is_asked_to_stop
from campaign.jobs.releases import check_release
from campaign.jobs.step_jobs import StepJob, StepQueue, refusal, step_queue
from campaign.jobs.tasks import perform
from campaign.store import Store
from ml_backend.logs import configure_logs, process_about

logger = logging.getLogger(__name__)

HEARTBEAT = 10  # seconds; a job whose worker's machine died is found after this and RQ's own minute
GRACE = 20  # seconds that a step has to leave off when its worker is to end; all is over within 30


class RunnableJob(StepJob):
    """A job whose function is `tasks.perform`, whatever name Redis holds."""

    @property
    def func(self) -> Callable:
        """The one function that jobs run."""
        return perform


class CampaignWorker(Worker):
    """RQ's worker, whose jobs die with it: two copies of a training must not run beside each other.

    It runs the steps of `store`, and of other jobs nothing.
    """

    store: Store
    leaving = False  # it was asked to end: the step that runs goes back on its queue

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Runs a job where it is a step of the campaign; removes it with a line in the log where it is not."""
        if (got := refusal(job, self.store.place, self.store.key)) is None:
            super().execute_job(job, queue)
            return
        logger.warning("job %r: expected a step of campaign %s, got %s; not run", job.id, self.store.key, got)
        self.connection.delete(job.key)
        self.connection.lrem(queue.intermediate_queue_key, 0, job.id)

    def main_work_horse(self, *args: Any, **kwargs: Any) -> None:
        """Runs one job in its process, which ends with this worker."""
        die_with_parent()
        gc.freeze()  # what the worker has loaded: looking for garbage in it takes half a second and copies its memory
        super().main_work_horse(*args, **kwargs)

    def setup_work_horse_signals(self) -> None:
        """SIGTERM has a step leave off at its next safe point."""
        super().setup_work_horse_signals()
        signal.signal(signal.SIGTERM, ask_to_stop)

    def handle_warm_shutdown_request(self) -> None:
        """Asks the step that runs to leave off, and ends it after `GRACE` seconds: what it had begun is begun again."""
        self.leaving = True
        if self.horse_pid:
            logger.warning("worker %s is to end: its step leaves off, or is ended after %d s", self.name, GRACE)
            self.kill_horse(signal.SIGTERM)
            timer = threading.Timer(GRACE, self._end_step)
            timer.daemon = True
            timer.start()

    def _end_step(self) -> None:
        if self.horse_pid:  # 0 once it is over, which would name the group of this process
            self.kill_horse(signal.SIGKILL)

    def handle_work_horse_killed(self, job: Job, *rest: Any) -> None:
        """Says in the log what becomes of a step whose process was killed."""
        super().handle_work_horse_killed(job, *rest)
        if not self.leaving:
            what = (
                "it is tried again"
                if job.should_retry
                else f"`campaign jobs {self.store.place} --retry` tries it again"
            )
            logger.warning("step %s was killed, perhaps for want of memory; %s", job.id, what)

    def handle_job_failure(self, job: Job, queue: Queue, *rest: Any, **more: Any) -> None:
        """A step that left off because the worker ends has not failed: it goes back on its queue, the first there."""
        if not (self.leaving or (self.is_horse and is_asked_to_stop())):
            super().handle_job_failure(job, queue, *rest, **more)
            return
        with self.connection.pipeline() as pipeline:
            self.cleanup_execution(job, pipeline=pipeline)
            job.set_status(JobStatus.QUEUED, pipeline=pipeline)
            queue.push_job_id(job.id, pipeline=pipeline, at_front=True)
            pipeline.execute()
        logger.warning("step %s goes back on its queue: its worker ends", job.id)


def _one_line(record: logging.LogRecord) -> bool:
    """Has a Redis that is away be said in a line, without where in the code it was noticed."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, RedisError):
        record.msg, record.args = "Redis: expected an answer, got %s; the worker ends, and is started again", (error,)
        record.exc_info = record.exc_text = None
    return True


def work(place: str | Path, queues: list[str], name: str | None = None, burst: bool = False) -> None:
    """Works until it is stopped, or with `burst` until the queues are empty."""
    check_release(place)
    store = Store.open(place)
    configure_logs(store.settings.jobs.json_logs)
    process_about(campaign=store.settings.name)
    connection = connect(store)
    if "gpu" in queues:
        import campaign.steps.cluster
        import campaign.steps.detect
        import campaign.steps.export_plan
        import ml_backend.detectors.torchvision.detector  # noqa: F401  # loaded once, not in each job's process
    if "default" in queues:
        import httpx  # noqa: F401
        import label_studio_sdk.client  # noqa: F401  # takes a second, more than all else of a turn

        import campaign.steps.verify  # noqa: F401  # likewise
    logging.getLogger("rq.worker").addFilter(_one_line)
    worker = CampaignWorker(
        [step_queue(store, queue, connection) for queue in queues],
        connection=connection, name=name, job_class=RunnableJob, queue_class=StepQueue,
        serializer=JSONSerializer, job_monitoring_interval=HEARTBEAT,
    )  # fmt: skip
    worker.store = store
    worker.work(burst=burst, with_scheduler=False, logging_level="WARNING")


if __name__ == "__main__":
    die_with_parent()
    work(sys.argv[1], sys.argv[2].split(","), name=f"{sys.argv[3]}-{os.getpid()}")
