import math

import pytest
import torch
from torch import nn

from ml_backend.errors import InputError
from ml_backend.learning.training import Schedule, digest, run, save


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 4, generator=generator)
    return x, x.sum(1, keepdim=True)


def losses(net, data, step):
    # Noise from torch's own generator: a run that goes on must draw the same.
    x, y = data
    return {"error": ((net(x + 0.01 * torch.randn(x.shape)) - y) ** 2).mean()}


class KilledError(Exception):
    pass


def killed_at(last):
    def counted(net, data, step):
        if step == last:
            raise KilledError
        return losses(net, data, step)

    return counted


SCHEDULE = Schedule(steps=40, learning_rate=0.02, warmup=5, checkpoint_every=10)


def weights(net):
    return digest(net.state_dict())


def test_the_error_falls(tmp_path):
    history = run(network(), batch, losses, SCHEDULE, tmp_path / "state.pt", "a")
    assert len(history["error"]) == 40
    assert sum(history["error"][-5:]) < 0.5 * sum(history["error"][:5])


@pytest.mark.parametrize("last", [0, 9, 10, 25, 39])
def test_a_killed_run_ends_with_the_same_weights(tmp_path, last):
    straight = network()
    run(straight, batch, losses, SCHEDULE, tmp_path / "straight.pt", "a")
    with pytest.raises(KilledError):
        run(network(), batch, killed_at(last), SCHEDULE, tmp_path / "state.pt", "a")
    seen = []
    resumed = network(seed=99)
    if last < 10:
        resumed = network()
    history = run(
        resumed, batch, losses, SCHEDULE, tmp_path / "state.pt", "a", lambda name, done, total: seen.append(done)
    )
    assert seen == list(range(last // 10 * 10 + 1, 41))
    assert weights(resumed) == weights(straight)
    assert len(history["error"]) == 40


def test_another_run_starts_anew(tmp_path):
    run(network(), batch, losses, SCHEDULE, tmp_path / "state.pt", "a")
    seen = []
    run(network(), batch, losses, SCHEDULE, tmp_path / "state.pt", "b", lambda n, d, t: seen.append(d))
    assert seen[0] == 1


def test_a_damaged_checkpoint_starts_anew(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"half a file")
    seen = []
    run(network(), batch, losses, SCHEDULE, tmp_path / "state.pt", "a", lambda n, d, t: seen.append(d))
    assert seen[0] == 1


def test_a_loss_that_is_not_finite_changes_nothing(tmp_path):
    def broken(net, data, step):
        value = losses(net, data, step)["error"]
        return {"error": value * math.nan if step == 3 else value}

    net = network()
    run(net, batch, broken, SCHEDULE, tmp_path / "state.pt", "a")
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_rates():
    rates = [SCHEDULE.rate(s) for s in range(40)]
    assert rates[:5] == pytest.approx([0.004, 0.008, 0.012, 0.016, 0.02])
    assert max(rates) == pytest.approx(0.02)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.001


def test_saving_where_it_cannot_be(tmp_path):
    target = tmp_path / "folder.pt"
    target.mkdir()
    with pytest.raises(InputError, match="expected a file that can be written"):
        save(target, {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["folder.pt"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": torch.ones(2)}, {"a": torch.ones(2)}, True),
        ({"a": torch.ones(2)}, {"a": torch.zeros(2)}, False),
        ({"a": torch.ones(2)}, {"b": torch.ones(2)}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (b"x", b"y", False),
    ],
)
def test_digest(one, other, same):
    assert (digest(one) == digest(other)) is same
