"""A real Label Studio for the tests on 127.0.0.1, started once per run: all workers of pytest-xdist use the same."""

from __future__ import annotations

import contextlib
import fcntl
import json
from pathlib import Path

import psutil
import pytest

from campaign.label_studio.client import Client
from campaign.label_studio.server import LabelStudioServer, find_command
from ml_backend.errors import InputError


@pytest.fixture(scope="session")
def label_studio(pytestconfig: pytest.Config) -> LabelStudioServer:
    """The running server. Its `files` folder may be read by projects as local files.

    The first worker that asks for it starts it, the run's end ends it. Every test makes projects of its own.
    """
    try:
        find_command()
    except InputError as error:
        pytest.skip(str(error))
    folder = _folder(pytestconfig)
    files = folder / "files"
    files.mkdir(parents=True, exist_ok=True)
    started = folder / "started"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Made again on the same folder it is the same server: address, token and password are kept there.
        server = LabelStudioServer(folder / "server", files=files)
        if not started.exists():
            server.start()
            started.touch()
    return server


@pytest.fixture(scope="session")
def label_studio_client(label_studio: LabelStudioServer) -> Client:
    """A client that speaks to it as its admin."""
    return Client(label_studio.url, label_studio.token)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends the server when the run ends, from the process that outlives all workers."""
    if hasattr(config, "workerinput") or not (_folder(config) / "started").exists():
        return
    state = json.loads((_folder(config) / "server" / "server.json").read_text())
    if not psutil.pid_exists(state["pid"]):
        return
    server = psutil.Process(state["pid"])
    family = [server, *server.children(recursive=True)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    for process in psutil.wait_procs(family, 10)[1]:
        process.kill()


def _folder(config: pytest.Config) -> Path:
    """The server's folder, the same in all processes of a run: a worker's own is inside that of the run."""
    base = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
    return (base.parent if hasattr(config, "workerinput") else base) / "label-studio"
