"""A scratch server of PostgreSQL for tests, where the machine has one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[object]:
    """A server of PostgreSQL for all tests of a run, run by a user who is not root."""
    from tests.security.faults.machines import Postgres

    if reason := Postgres.reason_without():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "server").mkdir()
        server = Postgres(folder / "server")
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> object:
    """For every database: a function that makes the address of an empty one, None for SQLite in the folder."""
    if request.param == "sqlite":
        return lambda name="campaign": None
    return request.getfixturevalue("postgres_server").database
