import math

import pytest
import torch
from torch import nn

from ml_backend.learning.checkpoints import Unfinished, digest
from ml_backend.learning.training import Learner, Schedule, adamw, outcome, run


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


def learner(seed=0, losses=losses, **values):
    net = network(seed)
    return Learner(net, adamw(net, 0.02, 0.01), batch, losses, **values)


def trained(folder, learner=None, schedule=SCHEDULE, name="a", progress=None):
    """What a run ends with."""
    unfinished = Unfinished(folder / "state.pt", name)
    run(learner or globals()["learner"](), schedule, unfinished, progress)
    return outcome(unfinished)


@pytest.mark.parametrize("seed", range(5))
def test_the_error_falls(tmp_path, seed):
    def error(net):
        with torch.no_grad():
            return sum(float(losses(net, batch(step), step)["error"]) for step in range(5))

    net = network()
    net.load_state_dict(trained(tmp_path, learner(seed))[0])
    assert error(net) < 0.7 * error(network(seed))


@pytest.mark.parametrize("last", [0, 9, 10, 25, 39])
def test_a_killed_run_ends_with_the_same_weights(tmp_path, last):
    (tmp_path / "straight").mkdir()
    straight, known = trained(tmp_path / "straight")
    assert known == {"step": 40}
    with pytest.raises(KilledError):
        trained(tmp_path, learner(losses=killed_at(last)))
    seen = []
    # Another start, where there is a state to go on from.
    resumed, _ = trained(tmp_path, learner(99 if last >= 10 else 0), progress=lambda *step: seen.append(step))
    assert seen == [("train", done, 40) for done in range(last // 10 * 10 + 1, 41)]
    assert digest(resumed) == digest(straight)


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Its state kept a history of the losses, and no best weights."""
    (tmp_path / "straight").mkdir()
    straight, _ = trained(tmp_path / "straight")
    with pytest.raises(KilledError):
        trained(tmp_path, learner(losses=killed_at(25)))
    state = torch.load(tmp_path / "state.pt")
    del state["best"]
    torch.save({**state, "history": {"error": [0.0] * 20}}, tmp_path / "state.pt")
    assert digest(trained(tmp_path, learner(99))[0]) == digest(straight)


@pytest.mark.parametrize("content", ["another run", "half a file"])
def test_what_is_no_state_of_this_run_is_left_aside(tmp_path, content):
    if content == "another run":
        trained(tmp_path, name="b")
    else:
        (tmp_path / "state.pt").write_bytes(b"half a file")
    seen = []
    trained(tmp_path, progress=lambda n, d, t: seen.append(d))
    assert seen[0] == 1


def test_a_loss_that_is_not_finite_changes_nothing(tmp_path):
    def broken(net, data, step):
        value = losses(net, data, step)["error"]
        return {"error": value * math.nan if step == 3 else value}

    weights, _ = trained(tmp_path, learner(losses=broken))
    assert all(torch.isfinite(p).all() for p in weights.values())


@pytest.mark.parametrize(
    ("scores", "step", "ap"),
    [([0.1, 0.4, 0.2], 30, 0.4), ([0.1, 0.2, 0.3], 40, 0.3), ([0.2, 0.2, 0.2], 40, 0.2)],
    ids=["in the middle", "at the end", "the latest of the same"],
)
@pytest.mark.parametrize("last", [None, 21, 35])
def test_the_best_weights_are_kept_whether_killed_or_not(tmp_path, scores, step, ap, last):
    schedule = Schedule(steps=40, learning_rate=0.02, warmup=5, checkpoint_every=7, measure_every=10)
    measured = []

    def measure(weights):
        measured.append(digest(weights))
        return scores[len(measured) - 1]

    if last is not None:
        with pytest.raises(KilledError):
            trained(tmp_path, learner(losses=killed_at(last), measure=measure), schedule)
    weights, known = trained(tmp_path, learner(measure=measure), schedule)
    assert known == {"step": step, "ap": ap}
    assert len(measured) == 3 and digest(weights) == measured[step // 10 - 2]


def test_weights_that_are_alone_are_not_measured(tmp_path):
    schedule = Schedule(steps=4, learning_rate=0.02, measure_every=100)
    weights, known = trained(tmp_path, learner(measure=lambda weights: pytest.fail("nothing to compare")), schedule)
    assert known == {"step": 4} and weights


def test_the_data_of_a_step_are_the_same_however_many_read(tmp_path):
    (tmp_path / "alone").mkdir()
    alone, _ = trained(tmp_path / "alone")
    several, _ = trained(tmp_path, learner(readers=4))
    assert digest(alone) == digest(several)


def test_rates():
    rates = [SCHEDULE.rate(s) for s in range(40)]
    assert rates[:5] == pytest.approx([0.004, 0.008, 0.012, 0.016, 0.02])
    assert max(rates) == pytest.approx(0.02)
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert rates[-1] < 0.001


def test_what_decays():
    net = network()
    groups = adamw(net, 0.1, 0.05).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {name.rsplit(".")[-1]: decay[id(p)] for name, p in net.named_parameters()} == {"weight": 0.05, "bias": 0.0}
