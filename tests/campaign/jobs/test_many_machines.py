"""A campaign at a URL, worked on by machines that share no disk."""

import pytest

from tests.campaign.jobs.apart import result_of
from tests.security.faults.machines import Postgres

pytestmark = [pytest.mark.redis, pytest.mark.slow]


@pytest.mark.skipif(Postgres.reason_without() is not None, reason="needs PostgreSQL and psycopg")
def test_many_machines_come_to_what_one_comes_to():
    result = result_of("many_machines")
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
