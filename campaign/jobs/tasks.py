"""What a worker runs: one step of one campaign."""

from __future__ import annotations

import logging
import time
from contextlib import suppress

from rq import get_current_job
from rq.job import Job

from campaign.jobs.processes import safe_point
from campaign.jobs.trouble import advice, forget_trouble, note_trouble, pause_before
from campaign.steps.rounds import StepName, run_step
from campaign.store import Store
from ml_backend.detector import Progress
from ml_backend.errors import InputError, Unavailable
from ml_backend.logs import log_about

logger = logging.getLogger(__name__)


def perform(place: str, name: str, round_number: int, *args: str | int) -> None:
    """Runs one step and puts those on the queues that it makes due.

    What is away just now, a Label Studio, a database or room on the disk, is waited for, as long as it takes. Other bad
    input fails at once, because trying again cannot help; anything else is tried again by RQ.
    """
    from campaign.jobs.measures import measured
    from campaign.jobs.queues import enqueue_after

    job = get_current_job()
    try:
        store = Store.open(place)
        about = {"round": round_number, "step": str(name), "job": job.id if job is not None else None}
        with (
            log_about(campaign=store.settings.name, **about),
            measured(store, job.connection if job else None, str(name)),
        ):
            logger.info("begins")
            run_step(store, name, round_number, *args, report=report_progress())
            logger.info("is done")
        forget_trouble(store)
    except Unavailable as error:
        wait_for(place, name, job, error)
        return
    except InputError:
        if job is not None:
            job.retries_left = 0
            job.save()
        raise
    if job is not None and name not in (StepName.SYNC, StepName.EXPORT):
        enqueue_after(store, job.connection, name)


def wait_for(place: str, name: str, job: Job | None, error: Unavailable) -> None:
    """Says what a step waits for. A turn is tried again by the next poll, another step after a pause, however often.

    Raises the error where RQ is to try it again.
    """
    text = f"{error}; waiting, {advice(error, place)}"
    logger.warning("step %s: %s", name, text)
    with suppress(InputError):  # the database may be what is away
        note_trouble(Store.open(place), text)
    if name == StepName.SYNC:
        return
    if job is not None:
        waited = int(job.meta.get("waited", 0))
        job.meta["waited"] = waited + 1
        # One try more than it had, and this is the pause before it.
        job.retries_left, job.retry_intervals = (job.retries_left or 0) + 1, [pause_before(waited)]
        job.save()
    raise error


def report_progress(every: float = 0.5) -> Progress:
    """Returns a progress callback that keeps the newest state in the running job, at most twice a second."""
    job = get_current_job()
    last = 0.0

    def progress(name: str, done: int, total: int) -> None:
        nonlocal last
        safe_point()
        now = time.monotonic()
        if job is not None and (now - last >= every or done >= total):
            last = now
            job.meta["progress"] = [name, done, total]
            job.save_meta()

    return progress
