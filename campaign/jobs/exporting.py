"""An export in parts that the campaign's workers share: its jobs are put on the queues, and waited for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from campaign.dataset.choice import Choice
from campaign.jobs.broker import connect
from campaign.jobs.health import Watch, gone_workers, release_scheduled
from campaign.jobs.queues import clear_failures, enqueue, recover
from campaign.jobs.step_jobs import step_queue, step_workers
from campaign.steps.export import Exported
from campaign.steps.export_files import Form
from campaign.steps.export_plan import PlannedExport
from campaign.steps.export_target import Target
from campaign.steps.rounds import Queue, Step, StepName
from campaign.store import Store
from ml_backend.errors import InputError

logger = logging.getLogger(__name__)

QUEUE: Queue = "gpu"  # of all that takes long: annotators wait for the other one
PAUSE = 0.5  # seconds between two looks at what is done
REMINDER = 60.0  # seconds after which it is said again that nobody works


@dataclass(frozen=True)
class Shared:
    """An export that workers made, and where it is."""

    written: Exported
    target: Target


@contextmanager
def shared_export(
    store: Store, out: str | Path | None, choice: Choice, form: Form, report: Callable[[int, int], None] | None = None
) -> Iterator[Shared]:
    """An export that was made by workers, all of it, when the block begins; with the block its plan is over.

    Called again after it was broken off it goes on where it was. `report` is called with the masks that were written
    and all of them. Raises InputError where there is no Redis, or a job failed for good.
    """
    connection = connect(store)
    planned = PlannedExport(store, out, choice, form)
    _wait(store, connection, planned, report)
    yield Shared(planned.outcome(), planned.plan.target)
    planned.forget()


def _wait(
    store: Store, connection: Redis, planned: PlannedExport, report: Callable[[int, int], None] | None
) -> None:  # fmt: skip
    """Has all jobs be done, also those of workers that die."""

    def steps(jobs: list[int]) -> list[Step]:
        return [Step(StepName.EXPORT, QUEUE, 0, (planned.plan.id, job)) for job in jobs]

    watch, said = Watch(), -REMINDER
    clear_failures(store, connection, steps(planned.missing()))
    while missing := planned.missing():
        recover(store, connection, gone_workers(connection))
        release_scheduled(store, connection)
        watch.unstick(store, connection, steps(missing))
        for step in steps(missing):
            if (failure := enqueue(store, connection, step)) is not None:
                raise InputError(f"export, job {step.args[1]}", "to succeed", failure.reason.partition(": ")[2])
        if time.monotonic() - said >= REMINDER and not _has_workers(store, connection):
            logger.warning("nobody works on the queue %s: start `campaign worker %s`", QUEUE, store.place)
            said = time.monotonic()
        if report:
            report(planned.plan.masks - sum(planned.plan.jobs[job][2] for job in missing), planned.plan.masks)
        time.sleep(PAUSE)
    if report:
        report(planned.plan.masks, planned.plan.masks)


def _has_workers(store: Store, connection: Redis) -> bool:
    queue = step_queue(store, QUEUE, connection).name
    return any(queue in worker.queue_names() for worker in step_workers(connection))
