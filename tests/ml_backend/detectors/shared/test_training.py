"""How detectors are trained, with a network that learns nothing."""

import threading
from dataclasses import replace

import pytest
import torch
from torch import nn

from ml_backend.detectors.pointrend.config import PointRendOptions
from ml_backend.detectors.pointrend.whole_images import ImageSampler
from ml_backend.detectors.shared import training
from ml_backend.detectors.shared.augmentation import CropSampler
from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.detectors.shared.training import Run, learner_of, schedule_of, train
from ml_backend.learning.checkpoints import Unfinished
from ml_backend.learning.training import adamw, read_ahead
from tests.ml_backend.detectors.drawn import draw


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("images"), 4, seed=1)


class Nothing(nn.Module):
    """A network whose loss is the mean of its images, brighter for every step that it is to score."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def to(self, *place, **options):
        return self  # there may be no such device here

    def forward(self, images, targets, score):
        return {"mean": self.layer(images).mean(), "score": self.layer.bias.sum() * float(score)}


class Parts:
    CHANNELS_LAST_ON_GPU = False
    ALL_USED = True
    started: list = []  # noqa: RUF012

    @classmethod
    def network_of(cls, options, classes, pretrained):
        cls.started.append(pretrained)
        return Nothing()

    @classmethod
    def sampler_of(cls, options):
        return ImageSampler if getattr(options, "whole_images", False) else CropSampler

    @classmethod
    def optimiser_of(cls, options, network):
        return adamw(network, options.learning_rate, options.weight_decay)


# All steps are done, whatever comes.
FIXED = {"minutes": None, "patience": None}


def task(data, folder, options, **values):
    return Run(Parts, data, None, options.resolve(data), Unfinished(folder / "unfinished.pt", "a"), **values)


@pytest.mark.parametrize("schedule", ["short", "published"])
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_is_fed_the_same_by_several_readers(data, monkeypatch, tmp_path, schedule, device):
    """Pinned by the threads that read, which belong to the process's GPU; here without one."""
    pinned, chosen, samplers = set(), [], []
    # Each thread comes here before one goes on.
    together = threading.Barrier(3)

    def pin(self):
        if threading.get_ident() not in pinned:
            pinned.add(threading.get_ident())
            together.wait(60)
        return self

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    for kind in (CropSampler, ImageSampler):
        begin = kind.__init__
        monkeypatch.setattr(kind, "__init__", lambda self, *a, begin=begin: samplers.append(self) or begin(self, *a))
    options = {"schedule": schedule, "short_edges": (64,), "batch": 2, "crop": 64, "steps": 9, "readers": 3}
    run = task(data, tmp_path, PointRendOptions.create(options))
    alone = list(read_ahead(learner_of(run, torch.device("cpu")), 2, 9))
    assert not pinned
    samplers.clear()
    fed = list(read_ahead(learner_of(run, torch.device(device)), 2, 9))
    assert len(set(samplers)) == 1 and len(pinned) == 3 and threading.get_ident() not in pinned
    assert chosen == ([torch.device(device)] * 3 if device == "cuda:1" else [])
    assert [step for step, _ in alone] == [step for step, _ in fed] == list(range(2, 9))
    for (_, (images, targets)), (_, (others, theirs)) in zip(alone, fed, strict=True):
        assert torch.equal(images, others)
        assert all(torch.equal(a.masks, b.masks) for a, b in zip(targets, theirs, strict=True))


@pytest.mark.parametrize(("again", "scored"), [(False, [False, False, True, True]), (True, [True] * 4)])
def test_masks_are_scored_once_there_are_some(data, tmp_path, again, scored):
    options = DetectorOptions.create({"steps": 4, "score_from": 0.5, "batch": 1, "crop": 64, "threads": 1})
    learner = learner_of(replace(task(data, tmp_path, options), again=again), torch.device("cpu"))
    seen = []
    learner.network.forward = lambda images, targets, score: seen.append(score) or {}
    for step, batch in read_ahead(learner, 0, 4):
        learner.losses(learner.network, batch, step)
    assert seen == scored


def test_several_processes_start_from_one_file(data, tmp_path, monkeypatch):
    """It is gone when they end, however they do."""
    Parts.started.clear()

    class StoppedError(Exception):
        pass

    def spread(work, run, processes, progress):
        assert processes == 2 and run.weights is None
        learner = learner_of(run, torch.device("cpu"))
        assert torch.equal(learner.network.layer.weight, torch.load(run.start)["network"]["layer.weight"])
        raise StoppedError

    monkeypatch.setattr(training, "spread", spread)
    options = DetectorOptions.create({"processes": 2, "threads": 1})
    with pytest.raises(StoppedError):
        train(task(data, tmp_path, options), None)
    # Weights from elsewhere are loaded once.
    assert Parts.started == [True, False]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.02 / 1000), (499, 0.01), (1000, 0.02), (209_999, 0.02), (210_000, 0.002), (250_000, 0.0002)],
)
def test_the_published_rate(step, expected):
    assert schedule_of(PointRendOptions.create({"preset": "r50"}), True).rate(step) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "measured"),
    [
        (DetectorOptions.create({**FIXED, "steps": 10}), []),
        (DetectorOptions.create({**FIXED, "steps": 10, "evaluate_every": 3}), [6, 9, 10]),
        (PointRendOptions.create({**FIXED, "steps": 10}), [6, 8, 10]),
        (PointRendOptions.create({**FIXED, "steps": 10, "evaluate_every": 1000}), [10]),
        (DetectorOptions.create({"steps": 10}), [10]),
        (DetectorOptions.create({"steps": 10, "evaluate_every": 3}), [3, 6, 10]),
        (DetectorOptions.create({"steps": 1000}), [250, 313, 392, 490, 613, 767, 1000]),
        (PointRendOptions.create({"steps": 1000}), [250, 313, 392, 490, 613, 767, 1000]),
        (PointRendOptions.create({"steps": 1000, "optimiser": "sgd"}), [500, 750, 1000]),
    ],
)
def test_when_held_out_ap_is_measured(options, measured):
    steps = range(1, options.steps + 1)
    assert [done for done in steps if schedule_of(options, True).is_measured(done)] == measured
    assert [done for done in steps if schedule_of(options, False).is_measured(done)] == []
