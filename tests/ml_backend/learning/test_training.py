import json
import math
from dataclasses import replace

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
    net.load_state_dict(trained(tmp_path, learner(seed)).weights)
    assert error(net) < 0.7 * error(network(seed))


@pytest.mark.parametrize("last", [0, 9, 10, 25, 39])
def test_a_killed_run_ends_with_the_same_weights(tmp_path, last):
    (tmp_path / "straight").mkdir()
    straight = trained(tmp_path / "straight")
    assert (straight.step, straight.ap, straight.course["steps"]) == (40, None, 40)
    with pytest.raises(KilledError):
        trained(tmp_path, learner(losses=killed_at(last)))
    seen = []
    # Another start, where there is a state to go on from.
    resumed = trained(tmp_path, learner(99 if last >= 10 else 0), progress=lambda *step: seen.append(step))
    assert seen == [("train", done, 40) for done in range(last // 10 * 10 + 1, 41)]
    assert digest(resumed.weights) == digest(straight.weights)


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Its state kept a history of the losses, and no best weights."""
    (tmp_path / "straight").mkdir()
    straight = trained(tmp_path / "straight")
    with pytest.raises(KilledError):
        trained(tmp_path, learner(losses=killed_at(25)))
    state = torch.load(tmp_path / "state.pt")
    for name in ("best", "curve", "seconds", "decided", "losses", "since"):
        del state[name]
    torch.save({**state, "history": {"error": [0.0] * 20}}, tmp_path / "state.pt")
    assert digest(trained(tmp_path, learner(99)).weights) == digest(straight.weights)


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

    schedule = replace(SCHEDULE, measure_every=10)
    done = trained(tmp_path, learner(losses=broken, measure=lambda weights: {"ap": 0.5}), schedule)
    assert all(torch.isfinite(p).all() for p in done.weights.values())
    json.dumps(done.course, allow_nan=False)


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
        return {"ap": scores[len(measured) - 1]}

    if last is not None:
        with pytest.raises(KilledError):
            trained(tmp_path, learner(losses=killed_at(last), measure=measure), schedule)
    done = trained(tmp_path, learner(measure=measure), schedule)
    assert (done.step, done.ap) == (step, ap)
    assert len(measured) == 3 and digest(done.weights) == measured[step // 10 - 2]
    assert [(p["step"], p["ap"]) for p in done.course["curve"]] == list(zip((20, 30, 40), scores, strict=True))


def test_weights_that_are_alone_are_not_measured(tmp_path):
    schedule = Schedule(steps=4, learning_rate=0.02, measure_every=100)
    done = trained(tmp_path, learner(measure=lambda weights: pytest.fail("nothing to compare")), schedule)
    assert (done.step, done.ap, done.course["curve"]) == (4, None, []) and done.weights


def test_the_data_of_a_step_are_the_same_however_many_read(tmp_path):
    (tmp_path / "alone").mkdir()
    alone, several = trained(tmp_path / "alone"), trained(tmp_path, learner(readers=4))
    assert digest(alone.weights) == digest(several.weights)


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


OPEN = Schedule(steps=1000, learning_rate=0.02, warmup=5, checkpoint_every=7, patience=2, measure_from=8)
# Where it is measured: first after 8 steps, then after a quarter more each time.
MILESTONES = (8, 10, 13, 17, 22, 28, 35)


class Held:
    """AP that rises until a step and stays, at so many seconds a step."""

    def __init__(self, until, seconds=1.0):
        self.until, self.seconds, self.steps = until, seconds, 0

    def measure(self, weights):
        at = MILESTONES[self.measured] if self.measured < len(MILESTONES) else 1000
        self.measured += 1
        return {"ap": min(at, self.until) / 100, "classes": {}}

    measured = 0

    def clock(self):
        return self.steps * self.seconds

    def losses(self, net, data, step):
        self.steps += 1
        return losses(net, data, step)

    def learner(self, **values):
        return learner(losses=self.losses, measure=self.measure, clock=self.clock, **values)


def test_a_run_ends_when_ap_has_stopped_rising(tmp_path):
    """AP is highest at 17 steps, two more measurements show no rise, and a quarter more steps are the decay."""
    done = trained(tmp_path, Held(until=17).learner(), OPEN)
    assert (done.course["steps"], done.course["ended_by"]) == (35, "patience")
    assert [p["step"] for p in done.course["curve"]] == [*MILESTONES[:6], 35]
    assert [p["decaying"] for p in done.course["curve"]] == [False] * 6 + [True]
    assert done.course["gained_last_quarter"] == 0
    assert all(set(p["loss"]) == {"error"} and p["loss"]["error"] > 0 for p in done.course["curve"])


def test_a_run_ends_when_its_time_is_over(tmp_path):
    """48 of 60 seconds are 24 steps, and the decay takes the rest; AP was still rising."""
    seen = []
    schedule = replace(OPEN, minutes=1.0)
    done = trained(tmp_path, Held(999, 2.0).learner(), schedule, progress=lambda *step: seen.append(step[1:]))
    assert (done.course["steps"], done.course["ended_by"], done.course["minutes"]) == (30, "minutes", 1.0)
    assert done.course["gained_last_quarter"] > 0.04
    assert seen[0] == (1, 1000) and seen[20] == (21, 30) and seen[-1] == (30, 30)


def test_a_run_with_an_open_end_does_no_more_than_its_steps(tmp_path):
    done = trained(tmp_path, Held(999).learner(), replace(OPEN, steps=20))
    assert (done.course["steps"], done.course["ended_by"]) == (20, "steps")
    assert [p["step"] for p in done.course["curve"]] == [8, 10, 13, 20]


@pytest.mark.parametrize("minutes", [None, 1.0], ids=["patience", "time"])
@pytest.mark.parametrize("last", [3, 12, 25, 29])
def test_a_killed_run_with_an_open_end_ends_with_the_same(tmp_path, last, minutes):
    """Its time goes on from the last checkpoint; here the same steps take the same time again."""
    schedule = replace(OPEN, minutes=minutes)
    (tmp_path / "straight").mkdir()
    straight = trained(tmp_path / "straight", Held(17, 2.0).learner(), schedule)

    class Killed(Held):
        def losses(self, net, data, step):
            if step == last:
                raise KilledError
            return super().losses(net, data, step)

    with pytest.raises(KilledError):
        trained(tmp_path, Killed(17, 2.0).learner(), schedule)
    resumed = Held(17, 2.0)
    stored = torch.load(tmp_path / "state.pt") if (tmp_path / "state.pt").exists() else {"curve": []}
    resumed.measured = len(stored["curve"])
    done = trained(tmp_path, resumed.learner(seed=99 if last > 7 else 0), schedule)
    assert digest(done.weights) == digest(straight.weights)
    assert done.course == straight.course


def test_rates_of_an_open_end():
    """Constant until something asks for the decay, over a fifth of all steps."""
    assert {OPEN.rate(step) for step in range(5, 800)} == {0.02}
    for decided, first, end in ((None, 800, 1000), (100, 100, 125), (900, 800, 1000)):
        rates = [OPEN.rate(step, decided) for step in range(5, end)]
        assert (OPEN.decay_from(decided), OPEN.end(decided)) == (first, end)
        assert rates == sorted(rates, reverse=True) and rates[first - 5] == 0.02 and rates[-1] < 0.001
