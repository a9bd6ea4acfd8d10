"""Whoever writes to Redis runs nothing on the workers but the campaign's own steps."""

from __future__ import annotations

import base64
import json
import os
import pickle
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from campaign.jobs import broker as brokers
from campaign.jobs.broker import broker, connect
from campaign.jobs.queues import enqueue, recover, running
from campaign.steps.rounds import Step, StepName
from campaign.store import Store
from ml_backend.errors import InputError
from tests.campaign.builders import verify_store

pytestmark = pytest.mark.redis
PERFORM = "campaign.jobs.tasks.perform"


class Bomb:
    """Makes a file where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


def touch(path: str, *_: Any) -> None:
    """A function that is no step."""
    Path(path).touch()


def touched_by_callback(*_: Any) -> None:
    """A function that RQ would call when a job is over."""
    Path(os.environ["MARKER"]).touch()


@pytest.fixture
def store(tmp_path) -> Store:
    store = verify_store(tmp_path / "a")
    store.rounds.update(1, stage="done")
    return store


def put(connection: Redis, store: Store, job_id: str | bytes, data: bytes, **fields: bytes | str) -> None:
    """A job as somebody with Redis's own commands writes it, on the queues of this version and of the one before."""
    fields = {"origin": f"{store.key}-default", "status": "queued", "timeout": "60"} | fields
    name = job_id.encode() if isinstance(job_id, str) else job_id
    connection.hset(b"rq:job:" + name, mapping={"data": zlib.compress(data), "created_at": "", **fields})
    for queue in (f"{store.key}-default", "default"):
        connection.rpush(f"rq:queue:{queue}", name)


def call(function: str, *args: Any, instance: Any = None, **kwargs: Any) -> bytes:
    return json.dumps([function, instance, args, kwargs]).encode()


def work(store: Store, marker: Path) -> str:
    """Runs a worker until the queues are empty; returns its log."""
    code = "import sys; from pathlib import Path; from campaign.jobs.worker import work;"
    code += "work(Path(sys.argv[1]), ['default'], burst=True)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(store.folder)], env={**os.environ, "MARKER": str(marker)}, timeout=120,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def late(store: Store) -> Step:
    """A step of the campaign that is over, so that it does nothing."""
    return Step(StepName.PROPAGATE, "default", 1)


def test_nothing_but_steps_is_run(store, tmp_path):
    marker, folder = tmp_path / "marker", str(store.folder)
    own = late(store).job_id(store.key)
    bomb, function = pickle.dumps(Bomb(marker)), f"{__name__}.touch"
    good = call(PERFORM, folder, "propagate", 1)
    hooks = {f"{kind}_callback_name": f"{__name__}.touched_by_callback" for kind in ("success", "failure", "stopped")}
    with broker(store) as connection:
        put(connection, store, "pickled", bomb)
        put(connection, store, "pickled-call", pickle.dumps((f"{__name__}.touch", None, (str(marker),), {})))
        put(connection, store, "in-meta", good, meta=bomb, result=bomb)
        put(connection, store, "foreign", call(function, str(marker)))
        put(connection, store, "shell", call("os.system", f"touch {marker}"))
        put(connection, store, "method", call("touch", instance=str(marker)))
        put(connection, store, "named", call(PERFORM, folder, "propagate", 1, do=function))
        put(connection, store, "nothing-named", json.dumps([PERFORM, None, [folder, "propagate", 1], None]).encode())
        put(connection, store, "elsewhere", call(PERFORM, str(tmp_path), "propagate", 1))
        put(connection, store, "unknown-step", call(PERFORM, folder, "system", 1))
        put(connection, store, "more", call(PERFORM, folder, "propagate", 1, "x"))
        put(connection, store, "foreign-id", good)
        put(connection, store, own, good, meta=bomb, result=bomb, webhooks=b'[{"url": "http://127.0.0.1:1"}]', **hooks)
        log = work(store, marker)
        assert not marker.exists()
        assert connection.keys("rq:queue:*:intermediate") == connection.keys(f"rq:queue:{store.key}*") == []
        assert connection.hget(f"rq:job:{own}", "status") == b"finished"
        lines = [line for line in log.splitlines() if "not run" in line]
        assert len(lines) == 12 and not any("Traceback" in line for line in log.splitlines())
        # Those that were refused are gone, so that nobody waits for them.
        assert [key for key in connection.keys("rq:job:*") if not key.endswith(own.encode())] == []


def test_what_is_no_job_stops_no_worker(store, tmp_path):
    own = late(store)
    with broker(store) as connection:
        put(connection, store, "status", b"[]", status="burning")
        put(connection, store, "date", b"[]", enqueued_at="yesterday")
        put(connection, store, "number", b"[]", timeout="long")
        put(connection, store, "endless", call(PERFORM, str(store.folder), "propagate", 1), timeout="-1")
        put(connection, store, "deep", b"[" * 60_000)
        put(connection, store, "large", b" " * (1 << 28))
        put(connection, store, b"\xff\xfe", b"[]")
        put(connection, store, b"a:b c", b"[]")
        connection.rpush(f"rq:queue:{store.key}-default", "list")
        connection.rpush("rq:job:list", "x")
        assert enqueue(store, connection, own) is None
        work(store, tmp_path / "marker")
        assert connection.hget(f"rq:job:{own.job_id(store.key)}", "status") == b"finished"


def test_registries_and_results_run_nothing(store, tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    monkeypatch.setenv("MARKER", str(marker))
    step, bomb = late(store), pickle.dumps(Bomb(marker))
    job_id = step.job_id(store.key)
    with broker(store) as connection:
        # Found by a worker as abandoned: RQ calls what the job says then.
        put(connection, store, job_id, bomb, failure_callback_name=f"{__name__}.touched_by_callback")
        connection.delete(f"rq:queue:{store.key}-default", "rq:queue:default")
        for queue in (f"{store.key}-default", "default"):
            connection.zadd(f"rq:wip:{queue}", {f"{job_id}:x": 1})
        connection.hset(f"rq:job:{job_id}", "meta", b'{"progress": {"a": 1}}')
        assert [name for name, _ in running(store, connection)] == [job_id]
        assert recover(store, connection, ["nobody"]) == 0
        work(store, marker)
        assert connection.hget(f"rq:job:{job_id}", "status") == b"failed"
        connection.hset(f"rq:job:{job_id}", mapping={"meta": bomb, "result": bomb})
        for value in (base64.b64encode(bomb), bomb):
            connection.xadd(f"rq:results:{job_id}", {"type": "2", "return_value": value, "exc_string": ""})
            failure = enqueue(store, connection, step)
            assert failure is not None and not marker.exists()


def test_a_job_of_the_version_before_is_planned_again(store, tmp_path):
    step = late(store)
    job_id = step.job_id(store.key)
    with broker(store) as connection:
        put(connection, store, job_id, pickle.dumps((PERFORM, None, (str(store.folder), "propagate", 1), {})))
        assert "not run" in work(store, tmp_path / "marker")
        assert enqueue(store, connection, step) is None
        work(store, tmp_path / "marker")
        assert connection.hget(f"rq:job:{job_id}", "status") == b"finished"


def test_the_password_of_redis_is_in_the_address_or_the_environment(store, monkeypatch, tmp_path):
    with broker(store) as connection:
        socket = json.loads((store.folder / brokers.EMBEDDED).read_text())["url"]
        connection.config_set("requirepass", "a secret")
        connection.connection_pool.connection_kwargs["password"] = "a secret"
        jobs = store.settings.jobs

        settings = store.settings
        for url, given, reached in [
            (socket, None, False),
            (socket, f"{socket}?password=a%20secret", True),
            (socket, f"{socket}?password=another", False),
            (f"{socket}?password=a%20secret", None, True),
            (f"{socket}?password=another", None, False),
        ]:
            monkeypatch.setattr(
                store, "settings", settings.model_copy(update={"jobs": jobs.model_copy(update={"redis_url": url})})
            )
            if given:
                monkeypatch.setenv("CAMPAIGN_REDIS_URL", given)
            else:
                monkeypatch.delenv("CAMPAIGN_REDIS_URL", raising=False)
            if reached:
                assert connect(store).ping()
            else:
                with pytest.raises(InputError) as error:
                    connect(store)
                assert "another" not in str(error.value)
