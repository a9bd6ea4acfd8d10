"""Jobs that fail, get stuck, wait for their time, and leave off when their worker is to end."""

from __future__ import annotations

import os
import signal
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
from rq.job import JobStatus
from rq.registry import ScheduledJobRegistry

from campaign.derived.outlook import go_on
from campaign.jobs import health, tasks, worker
from campaign.jobs.broker import connect
from campaign.jobs.health import State, Watch, jobs_of, release_scheduled, retry_dead
from campaign.jobs.queues import enqueue, enqueue_due, fetch_job, retry_pauses, seconds_of_last, step_queue
from campaign.jobs.supervisor import Clock
from campaign.records.stage import Stage
from campaign.steps import rounds
from campaign.steps.rounds import Step, StepName
from campaign.store import Store
from campaign.store.locks import file_lock
from campaign.store.values import Key
from ml_backend.errors import InputError, Unavailable
from tests.campaign.builders import verify_store
from tests.security.faults.machines import Forked, Redis, fork

pytestmark = pytest.mark.redis
SYNC = Step(StepName.SYNC, "default", 1)


@pytest.fixture
def redis(tmp_path):
    server = Redis(tmp_path / "r")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def store(tmp_path, redis):
    made = verify_store(tmp_path / "a")
    made.settings.jobs.redis_url = redis.url
    path = made.folder / "campaign.json"
    path.write_text(path.read_text().replace('"redis_url": null', f'"redis_url": "{redis.url}"'))
    return made


@pytest.fixture
def connection(store):
    end = time.monotonic() + 20
    while True:
        try:
            return connect(store)
        except Unavailable:
            assert time.monotonic() < end
            time.sleep(0.05)


def job(store, connection):
    return fetch_job(SYNC.job_id(store.key), connection)


def test_pauses_between_tries_grow_and_are_never_the_same_twice():
    pauses = [retry_pauses(8, 5) for _ in range(20)]
    for row in pauses:
        assert 3 <= row[0] <= 7 and row[4] >= 3 * row[0] and max(row) <= 375
    assert len({tuple(row) for row in pauses}) > 10


def test_a_turn_says_how_long_it_took_once_it_is_over(store, connection):
    assert seconds_of_last(store, connection, SYNC) == 0
    enqueue(store, connection, SYNC)
    one = job(store, connection)
    one.started_at = datetime(2026, 1, 1, 12, 0, 0, tzinfo=timezone.utc)
    one.save()
    assert seconds_of_last(store, connection, SYNC) == 0
    one.ended_at = datetime(2026, 1, 1, 12, 0, 3, 500_000, tzinfo=timezone.utc)
    one.save()
    assert seconds_of_last(store, connection, SYNC) == 3.5


def test_dead_jobs_are_listed_with_their_reason_and_tried_anew(store, connection):
    enqueue(store, connection, SYNC)
    one = job(store, connection)
    connection.delete(step_queue(store, "default", connection).key)
    one.set_status(JobStatus.FAILED)
    with connection.pipeline() as pipeline:
        one._handle_failure("Traceback\n  somewhere\nValueError: five is right out", pipeline, worker_name="")
        pipeline.execute()
    (row,) = [r for r in jobs_of(store, connection) if r.state == State.DEAD]
    assert (row.job_id, row.queue, row.text) == (one.id, "default", "ValueError: five is right out")
    assert retry_dead(store, connection) == [one.id]
    assert enqueue_due(store, connection) == []
    assert [r.state for r in jobs_of(store, connection) if r.job_id == one.id] == [State.WAITS]


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.SCHEDULED, JobStatus.STARTED])
def test_a_job_that_nothing_will_ever_run_is_found_and_planned_anew(store, connection, monkeypatch, status):
    enqueue(store, connection, SYNC)
    queue = step_queue(store, "default", connection)
    connection.delete(queue.key)
    job(store, connection).set_status(status)
    (row,) = jobs_of(store, connection)
    assert row.state == State.STUCK and row.text
    watch = Watch()
    assert watch.unstick(store, connection) == [], "it may be on its way"
    monkeypatch.setattr(health, "PATIENCE", 0.0)
    assert [job_id for job_id, _ in watch.unstick(store, connection)] == [row.job_id]
    enqueue_due(store, connection)
    assert queue.job_ids == [row.job_id]


@pytest.mark.parametrize(("seconds", "is_due"), [(-1, True), (30, False), (3600, True)])
def test_a_pause_is_over_when_its_time_has_come_or_the_clock_went_back(store, connection, seconds, is_due):
    enqueue(store, connection, SYNC)
    queue, one = step_queue(store, "default", connection), job(store, connection)
    connection.delete(queue.key)
    one.set_status(JobStatus.SCHEDULED)
    connection.zadd(ScheduledJobRegistry(queue=queue).key, {one.id: time.time() + seconds})
    assert release_scheduled(store, connection) == ([one.id] if is_due else [])
    assert queue.job_ids == ([one.id] if is_due else [])


@pytest.mark.parametrize("leaves_off", [True, False])
def test_a_worker_that_is_to_end_puts_its_step_back(store, connection, tmp_path, monkeypatch, leaves_off):
    began = tmp_path / "began"

    def long_step(_store, *_args, report):
        began.write_text(str(os.getpid()))
        while True:
            time.sleep(0.05)
            if leaves_off:
                report("one", 1, 2)

    monkeypatch.setattr(tasks, "run_step", long_step)
    monkeypatch.setattr(worker, "GRACE", 1)
    enqueue(store, connection, SYNC)
    process = Forked(fork(lambda: worker.work(store.folder, ["default"], "w"), tmp_path / "log"))
    _until(began.exists)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    process.wait(30)
    assert time.monotonic() - asked < 30
    _until(lambda: not Path(f"/proc/{began.read_text()}").exists())
    one = job(store, connection)
    assert one.get_status() == JobStatus.QUEUED and step_queue(store, "default", connection).job_ids == [one.id]
    assert one.retries_left == store.settings.jobs.retries, "it has not failed"


def _until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_is_away_is_waited_for_and_said(store, monkeypatch):
    def away(*_args, **_more):
        raise Unavailable("disk", "room", "none")

    monkeypatch.setattr(tasks, "run_step", away)
    tasks.perform(str(store.folder), "sync", 1)
    assert "waiting, is there room" in store.values.get(Key.TROUBLE)["text"]
    tasks.perform(str(store.folder), "sync", 1)
    assert sum("is there room" in e.text for e in store.events()) == 1, "said once"
    with pytest.raises(Unavailable):
        tasks.perform(str(store.folder), "open", 1)
    monkeypatch.setattr(tasks, "run_step", lambda *_a, **_k: None)
    tasks.perform(str(store.folder), "sync", 1)
    assert store.values.get(Key.TROUBLE)["text"] is None and "over" in store.events()[-1].text


def test_a_late_copy_of_a_step_does_not_set_a_round_back(store, monkeypatch):
    store.rounds.update(1, stage=Stage.CLUSTER)

    def slow(store_, number):
        store_.rounds.update(number, stage=Stage.PROPAGATE)  # another copy was faster, and a turn ended the round

    monkeypatch.setattr("campaign.steps.forecast.forecast", slow)
    rounds.run_step(store, "open", 1)
    assert store.rounds.get(1).stage == Stage.PROPAGATE


def test_of_two_copies_of_a_step_one_waits_for_the_other(store, tmp_path):
    ran = tmp_path / "ran"

    def copy():
        def step(store_, *_):
            with ran.open("a") as file:
                file.write("x")
            time.sleep(0.3)
            store_.rounds.advance(1, Stage.CLUSTER, Stage.VERIFY)

        rounds._RUN[StepName.OPEN] = step
        rounds.run_step(Store.open(store.folder), "open", 1)

    store.rounds.update(1, stage=Stage.CLUSTER)
    copies = [Forked(fork(copy)) for _ in range(2)]
    assert [one.wait(60) for one in copies] == [0, 0]
    assert ran.read_text() == "x"


def test_who_waits_for_a_lock_says_so(tmp_path):
    path = tmp_path / "lock"

    def hold():
        with file_lock(path):
            (tmp_path / "held").touch()
            time.sleep(1)

    holder = Forked(fork(hold))
    _until((tmp_path / "held").exists)
    said = []
    with file_lock(path, waits=said.append):
        assert said == [f"process {holder.pid}"]
    holder.wait(10)
    with pytest.raises(InputError), file_lock(path), file_lock(path, wait=False):
        pass


def test_a_holder_that_was_killed_is_told_of_and_one_that_ended_is_not(tmp_path):
    path, said = tmp_path / "lock", []

    def hold():
        with file_lock(path):
            (tmp_path / "held").touch()
            time.sleep(60)

    holder = Forked(fork(hold))
    _until((tmp_path / "held").exists)
    holder.kill()
    holder.wait(10)
    for _ in range(2):
        with file_lock(path, killed=said.append):
            assert said == [f"process {holder.pid}"]


def test_a_clock_that_is_set_is_seen_once(monkeypatch):
    real, off = time.time, [0.0]
    monkeypatch.setattr(time, "time", lambda: real() + off[0])
    clock = Clock()
    assert abs(clock.moved()) < 1
    off[0] = -3600.0
    assert abs(clock.moved() + 3600) < 1 and abs(clock.moved()) < 1


def test_orders_and_audits_wait_for_the_lock(store):
    def order():
        go_on(Store.open(store.folder))

    with store.locked():
        process = Forked(fork(order))
        time.sleep(1.0)
        assert store.values.get(Key.GO_ON) is None
    assert process.wait(30) == 0
    assert store.values.get(Key.GO_ON) is not None
