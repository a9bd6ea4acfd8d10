"""Putting due steps on the queues, once each, and finding those that failed or were abandoned."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from redis import Redis
from rq import Retry
from rq.exceptions import InvalidJobOperation, NoSuchJobError
from rq.job import Job, JobStatus
from rq.registry import StartedJobRegistry

from campaign.jobs.step_jobs import PERFORM, QUEUES, StepJob, step_queue, step_workers
from campaign.jobs.trouble import pause_before
from campaign.steps.rounds import MANY, Step, StepName, due, progress_of
from campaign.store import Store

WAITING = {JobStatus.QUEUED, JobStatus.STARTED, JobStatus.SCHEDULED, JobStatus.DEFERRED}


@dataclass(frozen=True)
class Failure:
    """A step whose job failed for good."""

    step: Step
    reason: str


def due_steps(store: Store) -> list[Step]:
    """The steps that are due."""
    progress = progress_of(store)
    return due(progress) if progress else []


def enqueue_due(store: Store, connection: Redis, leave_out: Collection[str] = ()) -> list[Failure]:
    """Puts every due step on its queue unless it is there already; returns the steps that failed for good.

    Steps named in `leave_out` are not put there.
    """
    failures = []
    for step in due_steps(store):
        if step.name in leave_out:
            continue
        if (failure := enqueue(store, connection, step)) is not None:
            failures.append(failure)
    return failures


def enqueue_after(store: Store, connection: Redis, name: str) -> None:
    """Puts on the queues what is due after a step.

    Where many steps of its kind are due together and some still wait, they were put there together, and the last of
    them looks for what comes next: else each of thousands of jobs would look at all of them.
    """
    if name not in MANY or not step_queue(store, "gpu", connection).count:
        enqueue_due(store, connection)


def enqueue(store: Store, connection: Redis, step: Step) -> Failure | None:
    """Puts one step on its queue unless it waits or runs already; a failure where its job failed for good."""
    job_id = step.job_id(store.key)
    job = fetch_job(job_id, connection)
    status = status_of(job)
    if job is not None and status is not None:
        if status in WAITING:
            return None
        if status == JobStatus.FAILED:
            result = job.latest_result()
            text = (result.exc_string if result else None) or "no reason kept"
            return Failure(step, text.strip().splitlines()[-1])
        forget_job(job)
    jobs = store.settings.jobs
    step_queue(store, step.queue, connection).enqueue(
        PERFORM,
        args=(store.place, str(step.name), step.round_number, *step.args),
        job_id=job_id,
        job_timeout=jobs.train_timeout if step.name == StepName.TRAIN else jobs.job_timeout,
        retry=Retry(jobs.retries, retry_pauses(jobs.retries, jobs.retry_seconds)) if jobs.retries else None,
        result_ttl=60,
        failure_ttl=30 * 86400,
        description=job_id,
    )
    return None


def enqueue_anew(store: Store, connection: Redis, step: Step) -> bool:
    """Puts a step on its queue that begins after this was called; False where one runs, which began before."""
    if status_of(fetch_job(step.job_id(store.key), connection)) == JobStatus.STARTED:
        return False
    enqueue(store, connection, step)
    return True


def seconds_of_last(store: Store, connection: Redis, step: Step) -> float:
    """Seconds that the last job of a step took; 0 where it is not over, or it is not known any more."""
    job = fetch_job(step.job_id(store.key), connection)
    if job is None or job.started_at is None or job.ended_at is None:
        return 0.0
    return max(0.0, (job.ended_at - job.started_at).total_seconds())


def retry_pauses(retries: int, first: float) -> list[int]:
    """Seconds before each retry of a failed job: doubled each time, none the same twice."""
    return [pause_before(attempt, first) for attempt in range(retries)]


def clear_failures(store: Store, connection: Redis, steps: Iterable[Step] | None = None) -> None:
    """Forgets failed jobs of some steps, by default of those that are due, so that they are tried anew."""
    for step in due_steps(store) if steps is None else steps:
        job = fetch_job(step.job_id(store.key), connection)
        if job is not None and status_of(job) == JobStatus.FAILED:
            forget_job(job)


def recover(store: Store, connection: Redis, dead_workers: Iterable[str]) -> int:
    """Puts the jobs of workers that are known to be dead back on their queues; returns how many.

    RQ finds them by itself when their heartbeats run out, which takes more than a minute.
    """
    names = set(dead_workers)
    count = 0
    for worker in step_workers(connection):
        if worker.name in names:
            worker.register_death()
    for name in QUEUES:
        queue = step_queue(store, name, connection)
        registry = StartedJobRegistry(queue=queue)
        for job_id in registry.get_job_ids(cleanup=False):
            job = fetch_job(job_id, connection)
            if job is None or job.worker_name not in names:
                continue
            members: list = connection.zrange(registry.key, 0, -1)
            connection.zrem(registry.key, *[m for m in members if _is_of(m, job_id)])
            job.set_status(JobStatus.QUEUED)
            queue.push_job_id(job_id, at_front=True)
            count += 1
    return count


def running(store: Store, connection: Redis) -> list[tuple[str, list]]:
    """(job id, [step name, done, total]) of the campaign's jobs that run now."""
    jobs = []
    for name in QUEUES:
        for job_id in StartedJobRegistry(queue=step_queue(store, name, connection)).get_job_ids(cleanup=False):
            job = fetch_job(job_id, connection)
            if job is not None and job_id.startswith(store.key):
                jobs.append((job_id, _progress(job)))
    return jobs


def waiting(store: Store, connection: Redis) -> int:
    """Jobs that wait on the campaign's queues."""
    return sum(step_queue(store, name, connection).count for name in QUEUES)


def forget_job(job: Job) -> None:
    """Removes a job that is over, so that its id can be used again.

    `Job.delete` also visits the job's executions, which the worker that has just finished it may be removing.
    """
    job.connection.delete(job.key)


def status_of(job: Job | None) -> JobStatus | None:
    """How a job is; None where there is none, or it was over and gone before it was asked."""
    try:
        return None if job is None else job.get_status()
    except InvalidJobOperation:
        return None


def fetch_job(job_id: str, connection: Redis) -> Job | None:
    """The job of that id, None where there is none."""
    try:
        return StepJob.fetch(job_id, connection=connection)
    except NoSuchJobError:
        return None


def _progress(job: Job) -> list:
    """What a job's process says of itself, or nothing where that is something else."""
    said = job.meta.get("progress") if isinstance(job.meta, dict) else None
    known = isinstance(said, list) and [type(value) for value in said] == [str, int, int]
    return said if known and said else []


def _is_of(member: bytes, job_id: str) -> bool:
    """Whether an entry of a registry, "job id:execution id", belongs to a job."""
    return member.decode().split(":")[0] == job_id
