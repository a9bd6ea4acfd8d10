"""Our server for benchmarks, as `campaign serve` runs it: under gunicorn, one process and several threads."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from http.client import HTTPConnection
from pathlib import Path


def start_server(factory: str, environment: Mapping[str, str], threads: int = 8) -> tuple[subprocess.Popen, str]:
    """(the process, its address) of the application that `factory` makes, "module:function()", once it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "gunicorn", "-b", address, "-w", "1", "-k", "gthread", "--threads", str(threads)]
    server = subprocess.Popen(
        [*command, "--log-level", "error", factory],
        env={**os.environ, **environment},
        cwd=Path(__file__).parents[2],
    )
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            connection = HTTPConnection(address, timeout=2)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return server, f"http://{address}"
        except OSError:
            time.sleep(0.1)
    raise SystemExit(f"{factory}: expected it to be up, got no answer")
