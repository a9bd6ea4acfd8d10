"""How a run begins, and what it passes to the processes it starts."""

import pytest
from redis.exceptions import ConnectionError as RedisGone

from campaign.jobs import supervisor
from campaign.settings import CampaignSettings
from campaign.store import Store
from tests.ml_backend.builders import squares


@pytest.mark.parametrize(
    ("named", "gpus", "number", "first"),
    [
        (None, 0, 1, None),
        (None, 1, 1, None),
        (None, 4, 0, "0,1,2,3"),
        (None, 4, 2, "2,3,0,1"),
        (None, 2, 3, "1,0"),
        ("5,7", 8, 1, "7,5"),
        ("7", 8, 1, None),
        ("", 8, 1, None),
    ],
)
def test_each_gpu_worker_has_a_gpu_of_its_own_first(monkeypatch, named, gpus, number, first):
    monkeypatch.setattr(supervisor, "_gpus", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert supervisor._own_gpu_first(number) == ({} if first is None else {"CUDA_VISIBLE_DEVICES": first})


def test_a_process_is_started_with_its_environment(tmp_path):
    child = supervisor.Child("a", ["sh", "-c", "echo $OWN $HOME"], tmp_path / "log", {"OWN": "mine"})
    child.start()
    assert child.process is not None
    assert child.process.wait(10) == 0
    assert (tmp_path / "log").read_text().split()[0] == "mine"
    assert len((tmp_path / "log").read_text().split()) == 2


@pytest.mark.redis
def test_a_redis_that_goes_away_while_a_run_begins_is_waited_for(tmp_path, monkeypatch, caplog):
    store = Store.create(tmp_path / "c", CampaignSettings(name="away"), {"pool": squares(2)})
    recovered, real = [], supervisor.recover

    def away(*_arguments):
        if len(recovered) < 2:
            recovered.append(None)
            raise RedisGone("gone")
        recovered.append(real)
        return real(*_arguments)

    monkeypatch.setattr(supervisor, "recover", away)
    with supervisor.Supervisor.started(store, 0, 0, serve=False) as run:
        run.tick()
        assert "Redis: expected an answer, got gone; waiting" in caplog.text and len(recovered) == 2
        run.tick()
        run.tick()
    assert recovered == [None, None, real] and "it is over" in caplog.text
