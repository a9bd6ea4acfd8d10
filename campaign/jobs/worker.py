"""A worker: takes jobs from the queues of the campaign's Redis, each in a process of its own."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

from rq import Worker

from campaign.jobs.broker import connect
from campaign.jobs.processes import die_with_parent
from campaign.store import Store

HEARTBEAT = 10  # seconds; a job whose worker's machine died is found after this and RQ's own minute


class CampaignWorker(Worker):
    """RQ's worker, whose jobs die with it: two copies of a training must not run beside each other."""

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
    worker = CampaignWorker(queues, connection=connection, name=name, job_monitoring_interval=HEARTBEAT)
    worker.work(burst=burst, with_scheduler=False, logging_level="WARNING")


if __name__ == "__main__":
    die_with_parent()
    work(Path(sys.argv[1]), sys.argv[2].split(","), name=f"{sys.argv[3]}-{os.getpid()}")
