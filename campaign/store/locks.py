"""Locks that the operating system or the database frees when their holder dies."""

from __future__ import annotations

import fcntl
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, text

from ml_backend.errors import InputError


@contextmanager
def file_lock(path: Path, wait: bool = True, thing: str = "campaign") -> Iterator[None]:
    """Holds an exclusive lock on `path`, which keeps the holder's process id for others to name.

    With `wait=False` raises InputError where somebody else holds it.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "another one"
            raise InputError(thing, "no other process at work on it", f"process {holder}") from None
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            file.seek(0)
            file.truncate()


@contextmanager
def campaign_lock(engine: Engine, folder: Path) -> Iterator[None]:
    """The campaign's lock, held while answers are read and decisions made.

    On PostgreSQL it spans machines (an advisory lock of the session); on SQLite it is a lock on a file.
    """
    if engine.dialect.name != "postgresql":
        with file_lock(folder / "decide.lock"):
            yield
        return
    key = zlib.crc32(b"label-studio-cluster-verification")
    with engine.connect() as connection:
        while not connection.execute(text("SELECT pg_try_advisory_lock(:k)"), {"k": key}).scalar():
            time.sleep(0.2)
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:k)"), {"k": key})
