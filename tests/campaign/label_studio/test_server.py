from __future__ import annotations

import json
import re
import socket
import stat
from pathlib import Path

import psutil
import pytest

from campaign.label_studio.client import Client
from campaign.label_studio.server import LabelStudioServer, find_command, log_in
from ml_backend.errors import InputError


def test_find_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "label-studio"
    made.write_text("#!/bin/sh\n")
    with pytest.raises(InputError, match="label-studio command: expected an executable"):
        find_command(made)
    made.chmod(0o755)
    assert find_command(made) == made
    monkeypatch.setenv("LABEL_STUDIO_COMMAND", str(made))
    assert find_command() == made
    monkeypatch.setenv("LABEL_STUDIO_COMMAND", str(tmp_path / "none"))
    with pytest.raises(InputError, match="label-studio command: expected an executable, got"):
        find_command()
    monkeypatch.delenv("LABEL_STUDIO_COMMAND")
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_command() == made
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="expected Label Studio on PATH or in"):
        find_command()


def command(folder: Path, body: str) -> Path:
    path = folder / "label-studio"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_server_that_ends_at_once(tmp_path: Path) -> None:
    server = LabelStudioServer(tmp_path / "data", command=command(tmp_path, "echo no disk; exit 3"))
    with pytest.raises(RuntimeError, match="expected it to start, got exit status 3: no disk"):
        server.start()
    assert server.pid is None


def test_server_that_never_answers(tmp_path: Path) -> None:
    server = LabelStudioServer(tmp_path / "data", command=command(tmp_path, "echo waiting; sleep 60"))
    with pytest.raises(RuntimeError, match="expected it to be up in time, got no answer: waiting"):
        server.start(timeout=0.5)
    assert server.pid is None


def test_port_in_use_is_refused_at_once(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        server = LabelStudioServer(tmp_path / "data", port, command(tmp_path, "sleep 60"))
        with pytest.raises(InputError, match=f"port {port}: expected a free port for Label Studio, got one in use"):
            server.start()


def test_url_before_start_and_bad_state(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a started server"):
        _ = LabelStudioServer(tmp_path / "a", command=command(tmp_path, "exit 1")).url
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "server.json").write_text("[]")
    with pytest.raises(InputError, match="expected the state of a Label Studio server"):
        LabelStudioServer(tmp_path / "b", command=command(tmp_path, "exit 1"))


@pytest.mark.label_studio
def test_started_again_after_it_was_left_running(tmp_path: Path) -> None:
    try:
        find_command()
    except InputError as error:
        pytest.skip(str(error))
    folder = tmp_path / "server"
    first = LabelStudioServer(folder).start()
    second = None
    try:
        state = folder / "server.json"
        assert stat.S_IMODE(state.stat().st_mode) == 0o600
        assert json.loads(state.read_text())["password"] == first.password
        assert first.url.startswith("http://127.0.0.1:")
        first.add_user("ann@example.com", "a-long-password")
        first.add_user("ann@example.com", "a-long-password")
        with pytest.raises(InputError, match="User with this email already exists"):
            first.add_user("ann@example.com", "another-password")
        screen = log_in(first.url, "ann@example.com", "a-long-password").get(f"{first.url}/projects/").text
        assert re.search(r"annotation:submit.{1,60}space", screen)
        # The process that started it is killed, so that nobody stops the server; then all is begun again.
        pid = first.pid
        second = LabelStudioServer(folder).start()
        assert not psutil.pid_exists(pid)
        assert (second.token, second.password) == (first.token, first.password)
        assert sorted(Client(second.url, second.token).users().values()) == ["admin@example.com", "ann@example.com"]
        family = [psutil.Process(second.pid), *psutil.Process(second.pid).children(recursive=True)]
    finally:
        first.stop()
        if second:
            second.stop()
    assert not any(p.is_running() for p in family)
    assert second.pid is None
