"""A handful of the runs of the fault matrix; `python -m tests.security.faults` has all of them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.redis, pytest.mark.slow]


@pytest.mark.timeout(400)
def test_a_few_runs_lose_nothing(tmp_path):
    """In a process of its own: the matrix forks, which the threads of other tests would not survive."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "tests.security.faults", "--runs", "4", "--seed", "12", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    summary = json.loads(done.stdout)
    assert done.returncode == 0 and summary["failed"] == [], done.stderr
    assert summary["runs"] == 4 and summary["answers"] > 0
