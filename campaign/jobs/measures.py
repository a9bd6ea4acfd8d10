"""What workers did and do, for `/metrics`: kept in Redis by those who work, read by the server that is asked.

A job runs in a process of its own that ends with it, so numbers in its memory would be lost.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from redis import Redis
from redis.exceptions import RedisError
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.worker import BaseWorker

from campaign.derived.spending import questions_answered, questions_asked
from campaign.jobs.broker import connect
from campaign.jobs.step_jobs import QUEUES, step_queue, step_workers
from campaign.records.stage import Stage
from campaign.store import Store
from campaign.store.values import Key
from ml_backend.errors import InputError

log = logging.getLogger(__name__)

ALIVE_SECONDS = 180.0  # since a worker's last heartbeat, which is every minute or less
KEPT_DAYS = 90


@contextmanager
def measured(store: Store, connection: Redis | None, step: str) -> Iterator[None]:
    """Counts the step that the block runs, its seconds and whether it failed. Without Redis nothing is counted."""
    begin, outcome = time.monotonic(), "done"
    try:
        yield
    except BaseException:
        outcome = "failed"
        raise
    finally:
        if connection is not None:
            _count(connection, _key(store), step, outcome, time.monotonic() - begin)


def _count(connection: Redis, key: str, step: str, outcome: str, seconds: float) -> None:
    try:
        with connection.pipeline() as pipe:
            pipe.hincrby(key, f"{step}:{outcome}", 1)
            pipe.hincrbyfloat(key, f"{step}:seconds", round(seconds, 3))
            pipe.expire(key, KEPT_DAYS * 86400)
            pipe.execute()
    except RedisError as error:
        log.warning("a step of %.0f s was not counted: %s", seconds, type(error).__name__)


def _key(store: Store) -> str:
    return f"campaign:{store.key}:steps"


def heartbeat_age(worker: BaseWorker) -> float:
    """Seconds since a worker was last heard of."""
    beat = worker.last_heartbeat
    if beat is None:
        return float("inf")
    if beat.tzinfo is None:
        beat = beat.replace(tzinfo=timezone.utc)
    return max(0.0, (datetime.now(timezone.utc) - beat).total_seconds())


def alive_workers(store: Store) -> Counter[str]:
    """How many workers of each queue are alive, on any machine. Raises InputError where Redis does not answer."""
    workers = step_workers(connect(store))
    return Counter(q for w in workers if heartbeat_age(w) < ALIVE_SECONDS for q in _queues_of(store, w))


def _queues_of(store: Store, worker: BaseWorker) -> list[str]:
    """Which of the campaign's queues a worker works on."""
    own = f"{store.key}-"
    return [name.removeprefix(own) for name in worker.queue_names() if name.startswith(own)]


def waiting_by_queue(store: Store) -> Counter[str]:
    """How many jobs wait on each queue. Raises InputError where Redis does not answer."""
    connection = connect(store)
    return Counter({name: step_queue(store, name, connection).count for name in QUEUES})


def check_alive(store: Store, host: str | None = None) -> str:
    """A line on the workers of this machine that are alive. Raises InputError where there is none."""
    host = host or socket.gethostname()
    own = [w for w in step_workers(connect(store)) if w.hostname == host]
    alive = [w for w in own if heartbeat_age(w) < ALIVE_SECONDS]
    if not alive:
        raise InputError(f"worker on {host}", f"a heartbeat in the last {ALIVE_SECONDS:.0f} s", f"none of {len(own)}")
    return f"{len(alive)} workers alive on {host}"


class CampaignMetrics:
    """A collector for prometheus_client: the campaign, its queues and its workers, looked up at each scrape."""

    def __init__(self, store: Store):
        self.store = store

    def describe(self) -> list[Metric]:
        """Nothing: what there is, is known at the scrape alone."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now; of the queues none but `campaign_redis_up` where Redis is away."""
        yield from self._of_campaign()
        try:
            connection = connect(self.store)
            metrics = [*self._of_queues(connection), *self._of_workers(connection), *self._of_steps(connection)]
            up = 1
        except (InputError, RedisError):
            metrics, up = [], 0
        yield GaugeMetricFamily("campaign_redis_up", "Whether Redis answers.", value=up)
        yield from metrics

    def _of_campaign(self) -> Iterator[Metric]:
        current = self.store.rounds.newest()
        yield GaugeMetricFamily("campaign_round", "The running round.", value=current.number if current else 0)
        stages = GaugeMetricFamily("campaign_stage", "1 for the stage of the running round.", labels=["stage"])
        for stage in Stage:
            stages.add_metric([str(stage.value)], float(current is not None and current.stage == stage))
        yield stages
        yield CounterMetricFamily("campaign_questions", "Questions asked.", value=questions_asked(self.store))
        yield CounterMetricFamily("campaign_answers", "Questions answered.", value=questions_answered(self.store))
        trouble = (self.store.values.get(Key.TROUBLE) or {}).get("text")
        yield GaugeMetricFamily("campaign_trouble", "1 where the last step met trouble.", value=float(bool(trouble)))

    def _of_queues(self, connection: Redis) -> Iterator[Metric]:
        waiting = GaugeMetricFamily("campaign_jobs_waiting", "Jobs that wait, by queue.", labels=["queue"])
        running = GaugeMetricFamily("campaign_jobs_running", "Jobs that run, by queue.", labels=["queue"])
        failed = GaugeMetricFamily("campaign_jobs_failed", "Jobs that failed for good, by queue.", labels=["queue"])
        for name in QUEUES:
            queue = step_queue(self.store, name, connection)
            waiting.add_metric([name], queue.count)
            running.add_metric([name], StartedJobRegistry(queue=queue).get_job_count(cleanup=False))
            failed.add_metric([name], FailedJobRegistry(queue=queue).get_job_count(cleanup=False))
        yield from (waiting, running, failed)

    def _of_workers(self, connection: Redis) -> Iterator[Metric]:
        workers = step_workers(connection)
        counts: Counter[tuple[str, str]] = Counter()
        for worker in workers:
            state = str(worker.get_state()) if heartbeat_age(worker) < ALIVE_SECONDS else "lost"
            counts.update((queue, state) for queue in _queues_of(self.store, worker))
        shown = GaugeMetricFamily("campaign_workers", "Workers, by queue and state.", labels=["queue", "state"])
        for queue in QUEUES:
            for state in sorted({"idle", "busy", "lost"} | {s for q, s in counts if q == queue}):
                shown.add_metric([queue, state], counts[queue, state])
        yield shown
        oldest = max((heartbeat_age(w) for w in workers), default=0.0)
        yield GaugeMetricFamily(
            "campaign_worker_heartbeat_seconds", "Since the worker heard of longest ago was heard of.", value=oldest
        )

    def _of_steps(self, connection: Redis) -> Iterator[Metric]:
        known = {k.decode(): float(v) for k, v in connection.hgetall(_key(self.store)).items()}  # type: ignore[union-attr]
        steps = CounterMetricFamily("campaign_steps", "Steps that were run, by outcome.", labels=["step", "outcome"])
        seconds = CounterMetricFamily("campaign_step_seconds", "Seconds that workers spent on steps.", labels=["step"])
        for name, value in sorted(known.items()):
            step, _, what = name.rpartition(":")
            if what == "seconds":
                seconds.add_metric([step], value)
            else:
                steps.add_metric([step, what], value)
        yield from (steps, seconds)
