"""Locks that the operating system or the database frees when their holder dies."""

from __future__ import annotations

import fcntl
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from campaign.store.database import DatabaseUnavailable, reason_of
from ml_backend.errors import InputError


@contextmanager
def file_lock(
    path: Path, wait: bool = True, thing: str = "campaign", waits: Callable[[str], None] | None = None,
    killed: Callable[[str], None] | None = None,
) -> Iterator[None]:  # fmt: skip
    """Holds an exclusive lock on `path`, which keeps the holder's process id for others to name.

    With `wait=False` raises InputError where somebody else holds it. Where it is waited for, `waits` is told of whom;
    where its last holder was killed, `killed` is told of that one.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = f"process {_signed(file) or 'another one'}"
            if not wait:
                raise InputError(thing, "no other process at work on it", holder) from None
            if waits:
                waits(holder)
            fcntl.flock(file, fcntl.LOCK_EX)
        if killed and (left := _signed(file)):  # who ends by itself takes its name away
            killed(f"process {left}")
        _sign(file.fileno(), str(os.getpid()))
        try:
            yield
        finally:
            _sign(file.fileno(), "")


def _signed(file: IO[str]) -> str:
    file.seek(0)
    return file.read().strip()


def _sign(file: int, text: str) -> None:
    """Notes who holds the lock. A disk that is full has no room for that, and the lock is held all the same."""
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, text.encode(), 0)


@contextmanager
def campaign_lock(engine: Engine, folder: Path) -> Iterator[None]:
    """The campaign's lock, held while answers are read and decisions made.

    It is a lock on a file, and on PostgreSQL an advisory lock of a session as well: that spans machines, but a server
    that is restarted forgets it while its holder goes on. Raises DatabaseUnavailable where PostgreSQL is away.
    """
    with file_lock(folder / "decide.lock"), database_lock(engine, "label-studio-cluster-verification"):
        yield


@contextmanager
def database_lock(engine: Engine, name: str, waits: Callable[[str], None] | None = None) -> Iterator[None]:
    """On PostgreSQL the advisory lock of this name, which spans machines; on another database nothing.

    Where it is waited for, `waits` is told of whom. Raises DatabaseUnavailable where PostgreSQL is away.
    """
    if engine.dialect.name != "postgresql":
        yield
        return
    key, thing = zlib.crc32(name.encode()), "lock in the database"
    try:
        # A step may take days: a transaction that long would keep PostgreSQL from tidying up.
        connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        while not connection.execute(text("SELECT pg_try_advisory_lock(:k)"), {"k": key}).scalar():
            if waits:
                waits("a process, perhaps of another machine,")
                waits = None
            time.sleep(0.2)
    except SQLAlchemyError as error:
        raise DatabaseUnavailable(thing, "PostgreSQL to give it", reason_of(error)) from None
    try:
        yield
    finally:
        try:
            connection.execute(text("SELECT pg_advisory_unlock(:k)"), {"k": key})
        except SQLAlchemyError:
            connection.invalidate()  # the lock went with its session
        connection.close()
