"""A worker: takes jobs from the queues of the campaign's Redis, each in a process of its own."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from campaign.jobs.broker import connect
from campaign.jobs.processes import die_with_parent
from campaign.jobs.step_jobs import StepJob, StepQueue, refusal, step_queue
from campaign.store import Store

logger = logging.getLogger(__name__)

HEARTBEAT = 10  # seconds; a job whose worker's machine died is found after this and RQ's own minute


class CampaignWorker(Worker):
    """RQ's worker, whose jobs die with it: two copies of a training must not run beside each other.

    It runs the steps of `store`, and of other jobs nothing.
    """

    store: Store

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Runs a job where it is a step of the campaign; removes it with a line in the log where it is not."""
        if (got := refusal(job, str(self.store.folder), self.store.key)) is None:
            super().execute_job(job, queue)
            return
        logger.warning("job %r: expected a step of campaign %s, got %s; not run", job.id, self.store.key, got)
        self.connection.delete(job.key)
        self.connection.lrem(queue.intermediate_queue_key, 0, job.id)

    def main_work_horse(self, *args: Any, **kwargs: Any) -> None:
        """Runs one job in its process, which ends with this worker."""
        die_with_parent()
        super().main_work_horse(*args, **kwargs)


def work(folder: Path, queues: list[str], name: str | None = None, burst: bool = False) -> None:
    """Works until it is stopped, or with `burst` until the queues are empty."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    store = Store.open(folder)
    connection = connect(store)
    if "gpu" in queues:
        import ml_backend.detectors.torchvision.detector  # noqa: F401  # loaded once, not in each job's process
    if "default" in queues:
        import campaign.steps.verify  # noqa: F401  # likewise
    worker = CampaignWorker(
        [step_queue(store, queue, connection) for queue in queues],
        connection=connection, name=name, job_class=StepJob, queue_class=StepQueue,
        serializer=JSONSerializer, job_monitoring_interval=HEARTBEAT,
    )  # fmt: skip
    worker.store = store
    worker.work(burst=burst, with_scheduler=False, logging_level="WARNING")


if __name__ == "__main__":
    die_with_parent()
    work(Path(sys.argv[1]), sys.argv[2].split(","), name=f"{sys.argv[3]}-{os.getpid()}")
