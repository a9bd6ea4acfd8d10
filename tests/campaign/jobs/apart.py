"""Programs of tests in a process of their own: they fork, which the threads of other tests would not survive."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


def result_of(name: str) -> dict[str, Any]:
    """What the program of that name beside this one prints, given a folder for PostgreSQL and an S3 server."""
    pytest.importorskip("s3fs", reason="needs s3fs (the extra s3)")
    pytest.importorskip("moto", reason="needs moto, for an S3 server")
    with tempfile.TemporaryDirectory(prefix="machines-") as folder:  # PostgreSQL runs as another user
        Path(folder).chmod(0o755)
        command = [sys.executable, "-m", f"tests.campaign.jobs.{name}", folder]
        run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
