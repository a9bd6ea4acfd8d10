import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_util

pytest.importorskip("detectron2", reason="needs detectron2, installed from its repository")

from ml_backend.detectors.pointrend.config import PointRendOptions
from ml_backend.detectors.pointrend.detector import PointRend
from ml_backend.detectors.pointrend.network import build
from ml_backend.detectors.pointrend.training import ImageSampler, Run, _batches, _optimiser, rate
from ml_backend.detectors.shared.augmentation import CropSampler
from ml_backend.errors import InputError
from ml_backend.learning.calibration import Calibration
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord
from tests.ml_backend.detectors.drawn import draw
from tests.ml_backend.detectors.shared.test_device_pasting import Largest

pytestmark = pytest.mark.detectron2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("images"), 4, seed=1)


def untrained(data, **values):
    """A detector with random weights that reports what it would never dare to."""
    options = {"min_score": 0.0, "max_detections": 20, "scale": 1.0, "min_area": 0.0, "threads": 1, **values}
    chosen = PointRendOptions.create(options).resolve(data)
    state = build(chosen, 2).state_dict()
    return PointRend(chosen, data.classes, state, Calibration(), {})


def test_order_is_kept_whatever_the_threads(data):
    images = [replace(i, id=n) for n, i in enumerate(data.images * 3)]
    detector = untrained(data, readers=3, encoders=3, predict_batch=2)
    assert [set(p.image_id.tolist()) for p in detector.predict(iter(images))] == [{n} for n in range(len(images))]


def test_the_published_way_resizes_whole_images(data):
    detector = untrained(data, schedule="published", short_edges=(128, 160), long_edge=200, predict_batch=1)
    sizes = []
    detect = detector.network.detect
    detector.network.detect = lambda pixels, size: sizes.extend(size) or detect(pixels, size)
    part = next(iter(detector.predict(data.images[:1])))
    assert sizes == [(160, 160)]
    assert (part.box[:, :2] + part.box[:, 2:]).max() <= 96.01


def test_whole_training_images(data):
    options = {"schedule": "published", "short_edges": (128, 160), "long_edge": 400, "batch": 4}
    chosen = PointRendOptions.create(options).resolve(data)
    sampler = ImageSampler(data, sorted(data.classes), chosen)
    images, targets = sampler.batch(3)
    again, _ = ImageSampler(data, sorted(data.classes), chosen).batch(3)
    assert torch.equal(images, again)
    assert images.shape[0] == 4
    assert {t.masks.shape[-1] for t in targets} <= {128, 160}
    for image, target in zip(images, targets, strict=True):
        assert len(target.boxes) == 5
        for mask, box, label in zip(target.masks, target.boxes, target.labels, strict=True):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            tight = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (tight - box).abs().max() <= 2
            # Disks, label 1, are brighter than their ground and squares, label 2, darker.
            inside = image[:, rows, columns].mean()
            outside = image[:, : mask.shape[0], : mask.shape[1]][:, target.masks.amax(0) == 0].mean()
            assert (inside > outside) == (label == 1)


@pytest.mark.parametrize("schedule", ["short", "published"])
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_is_fed_the_same_by_several_readers(data, monkeypatch, tmp_path, schedule, device):
    """Pinned by the thread that reads, which belongs to the process's GPU; here without one."""
    pinned, chosen, samplers = set(), [], []

    def pin(self):
        pinned.add(threading.get_ident())
        time.sleep(0.01)
        return self

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    for kind in (CropSampler, ImageSampler):
        begin = kind.__init__
        monkeypatch.setattr(kind, "__init__", lambda self, *a, begin=begin: samplers.append(self) or begin(self, *a))
    options = {"schedule": schedule, "short_edges": (64,), "batch": 2, "crop": 64, "steps": 9, "readers": 3}
    run = Run(data, None, data.classes, PointRendOptions.create(options).resolve(data), tmp_path / "a", "")
    alone = list(_batches(run, 2, torch.device("cpu")))
    assert not pinned
    samplers.clear()
    fed = list(_batches(run, 2, torch.device(device)))
    assert len(set(samplers)) == 1 and len(pinned) == 3 and threading.get_ident() not in pinned
    assert chosen == ([torch.device(device)] * 3 if device == "cuda:1" else [])
    assert [step for step, _ in alone] == [step for step, _ in fed] == list(range(2, 9))
    for (_, (images, targets)), (_, (others, theirs)) in zip(alone, fed, strict=True):
        assert torch.equal(images, others)
        assert all(torch.equal(a.masks, b.masks) for a, b in zip(targets, theirs, strict=True))


def test_large_images_with_many_objects(tmp_path):
    """4000x3000 with 300 masks: no tensor is larger than the decoded image itself, let alone all masks."""
    Image.fromarray(np.full((3000, 4000, 3), 90, np.uint8)).save(tmp_path / "a.jpg")
    record = ImageRecord(1, "a.jpg", 4000, 3000, tmp_path / "a.jpg")
    rle = mask_util.encode(np.ones((3000, 4000), np.uint8, order="F"))
    data = CocoDataset([record], {1: "disk", 2: "square"}, [Annotation(1, 1, 1, rle)])
    anchors = ((16.0,), (32.0,), (64.0,))
    detector = untrained(data, scale=0.125, anchors=anchors, max_detections=300, nms=0.9, mask_nms=1.0)
    torch.nn.init.constant_(detector.network.heads.mask_head.point_head.predictor.bias, 5.0)
    with Largest() as largest:
        (part,) = detector.predict([record])
    assert len(part) == 300
    assert (part.size == [3000, 4000]).all()
    assert largest.bytes <= 4 * 3 * 4000 * 3000


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 0.02 / 1000), (499, 0.01), (1000, 0.02), (209_999, 0.02), (210_000, 0.002), (250_000, 0.0002)],
)
def test_the_published_rate(step, expected):
    assert rate(PointRendOptions.create({"preset": "r50"}), step) == pytest.approx(expected)


@pytest.mark.parametrize(("optimiser", "biases"), [("sgd", 1e-4), ("adamw", 0.0)])
def test_what_decays(data, optimiser, biases):
    """With sgd what decays in detectron2: biases too, but no normalisation."""
    options = PointRendOptions.create({"schedule": "published", "optimiser": optimiser}).resolve(data)
    network = build(options, 2)
    decay = {
        id(p): group["weight_decay"] for group in _optimiser(options, network).param_groups for p in group["params"]
    }
    found = {name: decay.pop(id(p)) for name, p in network.named_parameters()}
    assert not decay
    norms = {name: value for name, value in found.items() if ".norm." in name}
    assert norms and set(norms.values()) == {0.0}
    rest = {name: value for name, value in found.items() if name not in norms}
    assert {value for name, value in rest.items() if name.endswith("bias")} == {biases}
    assert {value for name, value in rest.items() if name.endswith("weight")} == {1e-4}


TWO = {"steps": 2, "batch": 2, "crop": 64, "scale": 1.0, "processes": 2, "threads": 1, "score_from": 0}


@pytest.fixture
def few_files():
    """Far fewer file descriptors than the network has tensors."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/dev/fd").iterdir())) + 60, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_two_processes_learn_together(data, tmp_path, few_files):
    """detectron2's launcher, on CPUs; each process has half of a step's crops."""
    seen = []
    path = PointRend.train(data, None, tmp_path, options=TWO, progress=lambda *step: seen.append(step))
    assert seen == [("train", 1, 2), ("train", 2, 2)]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.json", "model.pt"]
    trained = PointRend.load(path)
    start = build(trained.options, 2).state_dict()
    state = trained.network.state_dict()
    assert len(state) > 100
    assert all(torch.isfinite(v).all() for v in state.values())
    assert any(not torch.equal(state[k], start[k]) for k in state)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("what", ["image", "progress"])
def test_errors_of_several_processes_are_those_of_one(tmp_path, what):
    def progress(*step):
        raise KilledError

    data = draw(tmp_path, 2, seed=1)
    if what == "image":
        for image in data.images:
            image.path.write_text("no image")
    kind, message = (InputError, r"1-\d.png: expected") if what == "image" else (KilledError, None)
    threads = set(threading.enumerate())
    options = {**TWO, "steps": 20}
    with pytest.raises(kind, match=message):
        PointRend.train(data, None, tmp_path / "out", options=options, progress=progress)
    assert set(threading.enumerate()) <= threads
    assert not (tmp_path / "out" / "start.pt").exists()


def test_no_more_processes_than_gpus(data, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="detector option processes: expected at most 1, one per GPU, got 2"):
        PointRend.train(data, None, tmp_path, options=TWO)
