"""A campaign at a URL, worked on by machines that share no disk."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.security.faults.machines import Postgres

pytestmark = [pytest.mark.redis, pytest.mark.slow]


@pytest.mark.skipif(Postgres.reason_without() is not None, reason="needs PostgreSQL and psycopg")
def test_many_machines_come_to_what_one_comes_to():
    """In a process of its own: it forks, which the threads of other tests would not survive."""
    pytest.importorskip("s3fs", reason="needs s3fs (the extra s3)")
    pytest.importorskip("moto", reason="needs moto, for an S3 server")
    root = Path(__file__).parents[3]
    with tempfile.TemporaryDirectory(prefix="machines-") as folder:  # PostgreSQL runs as another user
        Path(folder).chmod(0o755)
        command = [sys.executable, "-m", "tests.campaign.jobs.many_machines", folder]
        run = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    one, many = result["one"], result["many"]
    assert [row[:2] for row in many["rounds"]] == [[1, "done"], [2, "done"]]
    assert many["rounds"] == one["rounds"] and many["answers"] == one["answers"] > 0
    assert many["export"] == one["export"] and one["export"]["annotations"]
    # Each shard once: its row, its two files, an object each, uploaded once but for the one that the killed had begun.
    assert len(many["shards"]) == len(set(many["shards"]))
    assert many["objects of shards"] == many["files of shards"] == 2 * len(many["shards"])
    assert sum(many["uploads"]) - len(many["uploads"]) <= 2
    assert many["findings"] == []
    # One was killed at a shard, one came later, and several had their part.
    assert many["killed"] in range(4) and 4 in many["workers"] and len(many["workers"]) >= 3
