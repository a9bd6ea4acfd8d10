"""What a worker runs: one step of one campaign."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from rq import get_current_job

from campaign.store import Store
from ml_backend.errors import InputError

logger = logging.getLogger(__name__)

LAST_TROUBLE = "trouble"
# A detection job that is slower leaves its other shards to the next one, long before RQ's limit for jobs.
DETECTION_SECONDS = 600


def perform(folder: str, station: str, round_number: int, *args: str | int) -> None:
    """Runs one step and puts those on the queues that it makes due.

    Bad input fails at once, because trying again cannot help; anything else is tried again by RQ. A Label Studio that
    does not answer is waited for: the next poll tries again.
    """
    from campaign.jobs.queues import enqueue_due
    from campaign.label_studio.client import LabelStudioUnavailable

    store = Store.open(folder)
    job = get_current_job()
    try:
        run_step(store, station, round_number, *args)
        store.values.set(LAST_TROUBLE, {"text": None})
    except LabelStudioUnavailable as error:
        logger.warning("%s", error)
        store.values.set(LAST_TROUBLE, {"text": str(error)})
        return
    except InputError:
        if job is not None:
            job.retries_left = 0
            job.save()
        raise
    if job is not None and station != "sync":
        enqueue_due(store, job.connection)


def run_step(store: Store, station: str, round_number: int, *args: str | int) -> None:
    """Runs one step in this process."""
    current = store.rounds.newest()
    if current is None or current.number != round_number:
        return  # a late copy of a job whose round is over
    if station == "train":
        from campaign.steps.train import train

        train(store, round_number, report_progress())
        store.rounds.update(round_number, stage="detect")
    elif station == "detect":
        from campaign.steps.detect import detect

        split, first, end = args
        started = time.monotonic()
        for number in range(int(first), int(end)):
            detect(store, round_number, split, number, report_progress())  # type: ignore[arg-type]
            if time.monotonic() - started > DETECTION_SECONDS:
                return
    elif station == "assess" and current.stage == "detect":
        from campaign.steps.detect import assess

        assess(store, round_number)
    elif station == "cluster":
        from campaign.steps.cluster import cluster

        cluster(store, round_number, int(args[0]), report_progress())
    elif station == "open" and current.stage == "cluster":
        store.rounds.update(round_number, stage="verify")
    elif station == "sync":
        from campaign.steps.verify import turn

        turn(store)
    elif station == "propagate" and current.stage == "propagate":
        from campaign.steps.propagate import finish_round

        finish_round(store, round_number)


def report_progress(every: float = 0.5):
    """A progress callback that keeps the newest state in the running job, at most twice a second."""
    job = get_current_job()
    last = 0.0

    def progress(name: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if job is not None and (now - last >= every or done >= total):
            last = now
            job.meta["progress"] = [name, done, total]
            job.save_meta()

    return progress


def log_file(store: Store, name: str) -> Path:
    """Where a process of the campaign writes its log."""
    folder = store.folder / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.log"
