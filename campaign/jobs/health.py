"""How the jobs of a campaign are: which wait, run, are to be tried again, are dead, and which are stuck.

A job may be stuck because Redis lost half of what it knew, or because the machine of its worker is gone: it is said to
be queued or to run, and nothing will ever run it.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timezone

import psutil
from redis import Redis
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry, ScheduledJobRegistry, StartedJobRegistry
from rq.worker import Worker

from campaign.jobs.queues import WAITING, due_steps, fetch_job, forget_job, status_of
from campaign.jobs.step_jobs import QUEUES, step_queue
from campaign.jobs.trouble import JITTER, LONGEST_PAUSE
from campaign.records.names import Name
from campaign.steps.rounds import Step
from campaign.store import Store

PATIENCE = 5.0  # seconds that a job may be between two places of Redis


class State(Name):
    """How a job is."""

    WAITS = "waits"
    RUNS = "runs"
    TRIED_LATER = "tried later"
    DEAD = "dead"
    STUCK = "stuck"


@dataclass(frozen=True)
class JobRow:
    """One job: its id, its queue, how it is, since when, and what there is to say of it."""

    job_id: str
    queue: str
    state: State
    since: datetime | None
    text: str


def jobs_of(store: Store, connection: Redis) -> list[JobRow]:
    """The jobs of a campaign that are not over, dead ones first, with the reason of each."""
    rows = []
    stuck = {job.id: why for job, why in _stuck(store, connection, due_steps(store))}
    for name in QUEUES:
        queue = step_queue(store, name, connection)
        places = (
            (State.DEAD, FailedJobRegistry(queue=queue).get_job_ids(cleanup=False)),
            (State.RUNS, StartedJobRegistry(queue=queue).get_job_ids(cleanup=False)),
            (State.TRIED_LATER, ScheduledJobRegistry(queue=queue).get_job_ids(cleanup=False)),
            (State.WAITS, queue.job_ids),
        )
        seen: set[str] = set()
        for state, ids in places:
            for job_id in ids:
                job = fetch_job(job_id, connection) if job_id.startswith(f"{store.key}-") else None
                if job is None or job_id in seen or job_id in stuck:
                    continue
                seen.add(job_id)
                rows.append(_row(job, name, state))
        for job_id, why in stuck.items():
            job = fetch_job(job_id, connection)
            if job is not None and job.origin == queue.name:
                rows.append(JobRow(job_id, name, State.STUCK, job.enqueued_at, why))
    return sorted(rows, key=lambda row: (list(State)[::-1].index(row.state), row.job_id))


def _row(job: Job, queue: str, state: State) -> JobRow:
    if state == State.DEAD:
        return JobRow(job.id, queue, state, job.ended_at, reason(job))
    if state == State.RUNS:
        done = job.get_meta(refresh=True).get("progress")
        text = f"by {job.worker_name}" + (f", {done[0]} {done[1]}/{done[2]}" if done else "")
        return JobRow(job.id, queue, state, job.started_at, text)
    if state == State.TRIED_LATER:
        return JobRow(job.id, queue, state, job.enqueued_at, f"{job.retries_left or 0} tries left")
    return JobRow(job.id, queue, state, job.enqueued_at, "")


def reason(job: Job) -> str:
    """Why a job failed, the last line of it."""
    result = job.latest_result()
    text = ((result.exc_string if result else None) or "no reason kept").strip()
    return text.splitlines()[-1][:500] if text else "no reason kept"


def retry_dead(store: Store, connection: Redis) -> list[str]:
    """Forgets the dead jobs of a campaign, so that those still due are tried anew; returns their ids."""
    dead = [row.job_id for row in jobs_of(store, connection) if row.state == State.DEAD]
    for job_id in dead:
        job = fetch_job(job_id, connection)
        if job is not None:
            FailedJobRegistry(queue=step_queue(store, _queue_of(store, job), connection)).remove(job_id)
            forget_job(job)
    return dead


def _queue_of(store: Store, job: Job) -> str:
    return next(name for name in QUEUES if str(job.origin).endswith(name))


def release_scheduled(store: Store, connection: Redis) -> list[str]:
    """Puts jobs whose pause is over on their queues; returns their ids.

    A pause that is longer than any is over too: the clock was set back meanwhile.
    """
    now, released = time.time(), []
    for name in QUEUES:
        queue = step_queue(store, name, connection)
        registry = ScheduledJobRegistry(queue=queue)
        waiting: list = connection.zrange(registry.key, 0, -1, withscores=True)
        for raw, at in waiting:
            job_id = raw.decode()
            if not job_id.startswith(f"{store.key}-") or now < at <= now + LONGEST_PAUSE * (1 + JITTER):
                continue
            if not connection.zrem(registry.key, job_id):
                continue  # somebody else did
            job = fetch_job(job_id, connection)
            if job is not None:
                job.set_status(JobStatus.QUEUED)
                queue.push_job_id(job_id)
                released.append(job_id)
    return released


@dataclass
class Watch:
    """Finds stuck jobs. What looks stuck twice, `PATIENCE` seconds apart, is: a job may be on its way between."""

    _since: dict[str, float] = field(default_factory=dict)

    def unstick(
        self, store: Store, connection: Redis, steps: Iterable[Step] | None = None
    ) -> list[tuple[str, str]]:  # fmt: skip
        """Forgets the stuck jobs among some steps, by default those that are due, so that they are planned anew.

        Returns (id, why) of each.
        """
        now, found = time.monotonic(), dict[str, tuple[Job, str]]()
        for job, why in _stuck(store, connection, due_steps(store) if steps is None else steps):
            found[job.id] = job, why
        self._since = {job_id: self._since.get(job_id, now) for job_id in found}
        freed = []
        for job_id, (job, why) in found.items():
            if now - self._since[job_id] >= PATIENCE:
                registry = StartedJobRegistry(queue=step_queue(store, _queue_of(store, job), connection))
                members: list = connection.zrange(registry.key, 0, -1)
                for member in members:
                    if member.decode().split(":")[0] == job_id:
                        connection.zrem(registry.key, member)
                forget_job(job)
                freed.append((job_id, why))
        return freed


def _stuck(store: Store, connection: Redis, steps: Iterable[Step]) -> list[tuple[Job, str]]:
    """Jobs of these steps that nothing will ever run, with the reason."""
    alive: set[str] | None = None
    found = []
    for step in steps:
        job = fetch_job(step.job_id(store.key), connection)
        if job is None or (status := status_of(job)) not in WAITING:
            continue
        queue = step_queue(store, step.queue, connection)
        if status == JobStatus.QUEUED and connection.lpos(queue.key, job.id) is None:
            found.append((job, "it is to wait on its queue, and is not there"))
        elif status == JobStatus.SCHEDULED and job.id not in ScheduledJobRegistry(queue=queue).get_job_ids():
            found.append((job, "it is to be tried later, and nothing says when"))
        elif status == JobStatus.STARTED:
            if alive is None:
                alive = {name for name, is_gone in _workers(connection).items() if not is_gone}
            if job.worker_name not in alive:
                found.append((job, f"its worker {job.worker_name} is gone"))
    return found


def gone_workers(connection: Redis) -> list[str]:
    """The names of workers that Redis believes alive and whose process on this machine is gone."""
    return [name for name, is_gone in _workers(connection).items() if is_gone]


def _workers(connection: Redis) -> dict[str, bool]:
    """{name: whether its process on this machine is gone} of the workers whose heartbeat has not run out."""
    workers, here = {}, socket.gethostname()
    members: set = connection.smembers(Worker.redis_workers_keys)  # type: ignore[assignment]
    for key in members:
        values: dict = connection.hgetall(key)  # type: ignore[assignment]
        if values:
            pid = values.get(b"pid", b"").decode()
            is_here = values.get(b"hostname", b"").decode() == here
            workers[key.decode().rpartition(":")[2]] = is_here and pid.isdigit() and not psutil.pid_exists(int(pid))
    return workers


def shown_time(at: datetime | None) -> str:
    """A time as people read it, in UTC."""
    if at is None:
        return ""
    return (at if at.tzinfo else at.replace(tzinfo=timezone.utc)).strftime("%Y-%m-%d %H:%M:%S")
