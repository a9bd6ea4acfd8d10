"""What a worker runs: one step of one campaign."""

from __future__ import annotations

import logging
import time

from rq import get_current_job

from campaign.steps.rounds import StepName, run_step
from campaign.store import Store
from campaign.store.values import Key
from ml_backend.detector import Progress
from ml_backend.errors import InputError

logger = logging.getLogger(__name__)


def perform(folder: str, name: str, round_number: int, *args: str | int) -> None:
    """Runs one step and puts those on the queues that it makes due.

    Bad input fails at once, because trying again cannot help; anything else is tried again by RQ. A Label Studio that
    does not answer is waited for: the next poll tries again.
    """
    from campaign.jobs.queues import enqueue_due
    from campaign.label_studio.client import LabelStudioUnavailable

    store = Store.open(folder)
    job = get_current_job()
    try:
        run_step(store, name, round_number, *args, report=report_progress())
        store.values.set(Key.TROUBLE, {"text": None})
    except LabelStudioUnavailable as error:
        logger.warning("%s", error)
        store.values.set(Key.TROUBLE, {"text": str(error)})
        return
    except InputError:
        if job is not None:
            job.retries_left = 0
            job.save()
        raise
    if job is not None and name != StepName.SYNC:
        enqueue_due(store, job.connection)


def report_progress(every: float = 0.5) -> Progress:
    """Returns a progress callback that keeps the newest state in the running job, at most twice a second."""
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
