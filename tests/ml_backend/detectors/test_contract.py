"""What every trained detector must keep, as one table for the torchvision detector and PointRend.

Most of it holds for any weights: the detector that is asked has hardly learnt anything and reports whatever its network
dares to say. One is trained until it finds objects; far more than is asked of it, so that no processor changes that.
"""

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_util

from ml_backend import obligations
from ml_backend.detector import Detector, load_detector_class
from ml_backend.detectors.shared import iou_target, training
from ml_backend.errors import InputError
from ml_backend.learning.evaluation import predict_all, true_iou
from ml_backend.learning.features import KINDS
from ml_backend.masks.coco import CocoDataset
from ml_backend.obligations import Trial, outcomes
from tests.ml_backend.detectors.drawn import CLASSES, detect_drawn, draw

# Module, class, the parameter whose rise makes masks fill their boxes, and how it is trained until it finds objects.
DETECTORS = {
    "torchvision": ("torchvision.detector", "MaskScoringRCNN", "mask_predictor.bias", {"steps": 60}),
    "pointrend": (
        "pointrend.detector",
        "PointRend",
        "model.roi_heads.mask_head.point_head.predictor.bias",
        {"steps": 40, "evaluate_every": 1000},
    ),
}
SHORT = {
    "steps": 5,
    "checkpoint_every": 2,
    "batch": 1,
    "crop": 64,
    "warmup": 2,
    "scale": 1.0,
    "score_from": 0,
    "threads": 1,
    "max_detections": 30,
}
# All steps are done, and measured in the second half.
FIXED = {"minutes": None, "patience": None, "checkpoint_every": 6}
# Always the same crops of objects of twice the size: what is learnt from soon.
LEARNING = {
    "batch": 2,
    "crop": 96,
    "warmup": 8,
    "scale": 1.5,
    "learning_rate": 3e-3,
    "averaging": 0.9,
    "score_from": 0.3,
    "colour_jitter": 0,
    "scale_jitter": 1,
    "threads": 1,
}
# Widths of the features of each kind, as the narrow networks have them.
WIDTHS = {kind: 256 if kind in ("mask_iou", "box_head") else 512 for kind in KINDS}
# What every mask passes.
ALL = {"min_score": 0.0, "min_area": 0.0, "mask_nms": 1.0}


@pytest.fixture(scope="module", params=["torchvision", pytest.param("pointrend", marks=pytest.mark.detectron2)])
def name(request):
    if request.param == "pointrend":
        pytest.importorskip("detectron2", reason="needs detectron2, installed from its repository")
    return request.param


@pytest.fixture(scope="module")
def kind(name):
    module, attribute, *_ = DETECTORS[name]
    return getattr(import_module(f"ml_backend.detectors.{module}"), attribute)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return draw(folder, 6, seed=1), draw(folder, 4, seed=2)


@pytest.fixture(scope="module")
def checkpoint(kind, sets, tmp_path_factory):
    """Of a network that has hardly learnt anything."""
    return kind.train(*sets, tmp_path_factory.mktemp("trained"), options=SHORT)


@pytest.fixture(scope="module")
def constructed(name, checkpoint):
    """The same with masks that fill their boxes."""
    stored = torch.load(checkpoint, weights_only=True)
    stored["network"][DETECTORS[name][2]] += 5
    torch.save(stored, checkpoint.with_name("constructed.pt"))
    return checkpoint.with_name("constructed.pt")


@pytest.fixture(scope="module")
def detector(kind, constructed):
    return kind.load(constructed, **ALL)


@pytest.fixture(scope="module")
def predictions(detector, sets):
    return predict_all(detector, sets[1].images)


@pytest.fixture(scope="module")
def learnt(name, kind, sets, tmp_path_factory):
    """The checkpoint of a detector that finds objects."""
    return kind.train(*sets, tmp_path_factory.mktemp("learnt"), options={**LEARNING, **DETECTORS[name][3]})


def test_it_learns_to_find_objects(kind, learnt, sets):
    """At least half of them; it finds nearly all, whatever the seed and the processor."""
    detector = kind.load(learnt)
    predictions = predict_all(detector, sets[1].images)
    assert (true_iou(predictions, sets[1]) > 0.5).sum() >= 0.5 * len(sets[1].annotations)
    assert set(predictions.class_id.tolist()) == set(CLASSES)
    assert detector.metrics["mask_ap50"] > 0.3


def test_it_keeps_the_obligations_of_every_detector(kind, sets, constructed, tmp_path):
    """With masks to look at: of a network that has hardly learnt anything, filling their boxes."""

    class Constructed(kind):
        @classmethod
        def load(cls, checkpoint, **options):
            return kind.load(constructed if checkpoint == trained else checkpoint, **ALL, **options)

    small = replace(sets[1], images=sets[1].images[:2])
    trial = Trial(Constructed, sets[0], small, tmp_path, dict(kind.QUICK))
    trained = trial.checkpoint
    seen = {one.number: one for one in outcomes(trial)}
    # The version after a kill is that of the weights, which were exchanged here.
    assert all(one.kept for number, one in seen.items() if number != 8), seen
    assert obligations.training(Trial(kind, sets[0], small, tmp_path / "honest", dict(kind.QUICK)))


def test_predictions_fit_their_images(detector, sets):
    images = sets[1].images[:3]
    parts = list(detector.predict(images))
    assert [set(p.image_id.tolist()) for p in parts] == [{i.id} for i in images]
    for image, part in zip(images, parts, strict=True):
        assert (part.size == [image.height, image.width]).all()
        assert (np.diff(part.score) <= 0).all()
        assert ((part.predicted_iou >= 0) & (part.predicted_iou <= 1)).all()
        assert ((part.confidence > 0) & (part.confidence <= 1)).all()
        assert ((part.stability >= 0) & (part.stability <= 1)).all()
        assert set(part.class_id.tolist()) <= set(CLASSES)
        assert part.features.dtype == np.float16
        assert part.features.shape == (len(part), 512)
        assert np.isfinite(part.features).all()


def test_metrics_are_stored(checkpoint, detector):
    stored = json.loads((checkpoint.parent / "metrics.json").read_text())
    assert json.dumps(stored) == json.dumps(detector.metrics)
    assert {"box_ap", "mask_ap", "mask_ap50", "mask_ap75"} <= stored.keys()
    assert stored["steps"] == 5 and stored["best_step"] in range(3, 6)
    assert stored["training"]["steps"] == 5 and stored["training"]["ended_by"] == "steps"
    for when in ("before", "after"):
        assert {"correlation", "error", "mean_predicted", "mean_true"} <= stored[f"iou_{when}_calibration"].keys()
    assert not (checkpoint.parent / "unfinished.pt").exists()


def test_the_same_weights_have_one_version_and_give_the_same(kind, detector, constructed, predictions, sets):
    again = kind.load(constructed, **ALL)
    assert again.version == detector.version
    other = predict_all(again, sets[1].images[:2])
    same = predictions.select(np.isin(predictions.image_id, [i.id for i in sets[1].images[:2]]))
    assert len(other) > 0 and other.rle.tolist() == same.rle.tolist()
    assert np.array_equal(other.features, same.features)


def test_a_finished_run_is_returned_as_it_is(kind, checkpoint, sets):
    written = checkpoint.stat().st_mtime_ns
    assert kind.train(*sets, checkpoint.parent, options=SHORT) == checkpoint
    assert checkpoint.stat().st_mtime_ns == written


def test_what_other_sets_gave_is_not_returned(kind, tmp_path):
    data, heldout = draw(tmp_path, 1, seed=1), draw(tmp_path, 2, seed=2)
    first, *others = heldout.annotations
    runs = {
        "none held out": (data, None),
        "held out": (data, heldout),
        "annotation gone": (data, replace(heldout, annotations=others)),
        "another class": (data, replace(heldout, annotations=[replace(first, class_id=10 - first.class_id), *others])),
        "image gone": (data, replace(heldout, images=heldout.images[:1], annotations=heldout.annotations[:5])),
        "crowd": (replace(data, annotations=[replace(data.annotations[0], iscrowd=True), *data.annotations[1:]]), None),
    }
    options = {"steps": 1, "batch": 1, "crop": 64, "scale": 0.5, "max_detections": 5, "threads": 1}
    written = []
    for sets in runs.values():
        path = kind.train(*sets, tmp_path / "out", options=options)
        written.append(path.stat().st_mtime_ns)
        measured = json.loads((path.parent / "metrics.json").read_text()).get("heldout_images")
        assert measured == (len(sets[1].images) if sets[1] else None)
        kind.train(*sets, tmp_path / "out", options=options)
        assert path.stat().st_mtime_ns == written[-1]
    assert len(set(written)) == len(runs)


class KilledError(Exception):
    pass


def test_a_killed_run_goes_on_to_the_same_weights(kind, sets, tmp_path):
    def kill(stage, done, total):
        if done == 3:
            raise KilledError

    straight = kind.load(kind.train(sets[0], None, tmp_path / "a", options=SHORT))
    with pytest.raises(KilledError):
        kind.train(sets[0], None, tmp_path / "b", options=SHORT, progress=kill)
    assert not (tmp_path / "b" / "model.pt").exists()
    seen = []
    resumed = kind.train(
        sets[0], None, tmp_path / "b", options=SHORT, progress=lambda stage, done, total: seen.append(done)
    )
    assert seen == [3, 4, 5]
    assert kind.load(resumed).version == straight.version


def test_images_without_objects_and_incomplete_ones(kind, tmp_path):
    none = draw(tmp_path / "none", 2, seed=3, keep=0)
    none.images = [replace(i, exhaustive=True) for i in none.images]
    some = draw(tmp_path / "some", 2, seed=4, keep=2)
    annotations = [replace(a, id=i) for i, a in enumerate(some.annotations, 1)]
    both = CocoDataset(none.images + some.images, dict(CLASSES), annotations)
    path = kind.train(both, None, tmp_path / "out", options={**SHORT, "batch": 2})
    state = kind.load(path).network.state_dict()
    assert all(torch.isfinite(v).all() for v in state.values())


def test_the_iou_head_learns_from_the_one_target(kind, sets, monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(iou_target, "windows", lambda *mask: asked.append(mask[2:4]) or iter(()))
    kind.train(sets[0], None, tmp_path, options={**SHORT, "steps": 1})
    assert asked == [(64, 64)]


def test_a_later_round_keeps_scale_and_anchors(kind, sets, checkpoint, detector, tmp_path):
    path = kind.train(sets[1], None, tmp_path, options={**SHORT, "steps": 1, "scale": None}, start_from=checkpoint)
    later = kind.load(path)
    assert (later.options.scale, later.options.anchors) == (detector.options.scale, detector.options.anchors)
    assert later.version != detector.version


@pytest.mark.parametrize("feature", KINDS)
def test_feature_kinds(feature, kind, constructed, sets):
    part = next(iter(kind.load(constructed, feature=feature, **ALL).predict(sets[1].images[:1])))
    assert len(part) > 0
    assert part.features.shape[1] == WIDTHS[feature]


def test_all_kinds_come_from_one_pass(kind, constructed, sets):
    detector, images = kind.load(constructed, **ALL), sets[1].images[:2]
    passes = []
    detect = detector.network.detect
    detector.network.detect = lambda *batch: passes.append(1) or detect(*batch)
    found = list(detector.predict_kinds(images))
    assert len(passes) == 2
    for predictions, features in found:
        assert list(features) == list(KINDS)
        assert {k: v.shape for k, v in features.items()} == {k: (len(predictions), WIDTHS[k]) for k in KINDS}
        together = np.concatenate([features["box_head"], features["mask_iou"]], 1)
        assert np.array_equal(features["box_and_iou_head"], together)
        assert len(np.unique(features["box_head"], axis=0)) > 1
        assert all(v.dtype == np.float16 for v in features.values())
    for one in KINDS:
        alone = [p.features for p in kind.load(constructed, feature=one, **ALL).predict(images)]
        assert all(np.array_equal(a, f[one]) for a, (_, f) in zip(alone, found, strict=True))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Images of nine tiles of 256 pixels."""
    return draw(tmp_path_factory.mktemp("large"), 2, seed=6, side=600, objects=60)


@pytest.mark.parametrize("options", [{}, {"tile": 256}, {"tile": 256, "predict_batch": 4}, {"predict_batch": 2}])
def test_tiles_and_batches_find_every_object_once(options, kind, checkpoint, large):
    """Of a network that is always right: what is cut is found whole in another tile, and nothing twice."""
    detector = kind.load(checkpoint, min_area=0.0, max_detections=500, **options)
    sizes = []
    detector.network.detect = lambda pixels, size: sizes.append(size) or detect_drawn(pixels, size)
    predictions = predict_all(detector, large.images)
    side, tiles, batch = (256, 9, 4) if "tile" in options else (600, 1, 2)
    assert {s for size in sizes for s in size} == {(side, side)}
    assert sum(len(size) for size in sizes) == 2 * tiles
    assert max(len(size) for size in sizes) == (batch if "predict_batch" in options else 1)
    assert len(predictions) == len(large.annotations) >= 100
    assert true_iou(predictions, large).min() > 0.85


def test_batches_change_no_image(kind, constructed, sets):
    """But for a last digit, which may bring one of many doubtful masks over a threshold."""
    alone, together = (
        predict_all(kind.load(constructed, predict_batch=n, **ALL), sets[1].images) for n in (1, len(sets[1].images))
    )
    assert len(alone) > 20 and abs(len(alone) - len(together)) <= 0.1 * len(alone)
    for image in sets[1].images:
        one, other = (p.select(p.image_id == image.id) for p in (alone, together))
        iou = mask_util.iou(one.rles(), other.rles(), [0] * len(other))
        assert (iou.max(1) > 0.95).mean() >= 0.9


def test_thresholds_can_be_given_anew(kind, constructed, predictions, sets):
    """They leave of all masks just those that pass."""
    confidence = float(np.median(predictions.confidence))
    area = predictions.box[:, 2] * predictions.box[:, 3]
    least = float(np.median(area))
    strict = predict_all(kind.load(constructed, **{**ALL, "min_score": confidence, "min_area": least}), sets[1].images)
    kept = predictions.select((predictions.confidence > np.float32(confidence)) & (area > least))
    assert 0 < len(kept) < len(predictions)
    assert strict.rle.tolist() == kept.rle.tolist()
    few = kind.load(constructed, **ALL, max_detections=2)
    assert [len(p) for p in few.predict(sets[1].images[:2])] == [2, 2]


@pytest.mark.parametrize("batch", [1, 2])
def test_order_is_kept_whatever_the_threads(kind, constructed, sets, batch):
    images = [replace(i, id=n) for n, i in enumerate(sets[1].images * 2)]
    detector = kind.load(constructed, **ALL, readers=3, encoders=3, predict_batch=batch)
    assert [set(p.image_id.tolist()) for p in detector.predict(iter(images))] == [{n} for n in range(len(images))]


def test_each_device_trains_and_predicts(kind, learnt, sets, device, tmp_path):
    """In the device's own way of computing, which may move masks that are near a threshold to either side."""
    path = kind.train(sets[0], None, tmp_path, options={**SHORT, "device": device, "batch": 2})
    trained = kind.load(path)
    assert trained.device.type == device
    assert all(torch.isfinite(v).all() and v.device.type == device for v in trained.network.state_dict().values())
    images = sets[1].images
    there = predict_all(kind.load(learnt, device=device), images)
    here = predict_all(kind.load(learnt, device="cpu", bfloat16=False), images)
    correct = [(true_iou(p, sets[1]) > 0.5).sum() for p in (there, here)]
    assert correct[0] >= 0.75 * correct[1] > 0
    assert np.isfinite(there.features).all()


@pytest.mark.parametrize("wrong", ["one GPU more", "no device"])
def test_devices_that_are_not_here(wrong, kind, checkpoint, sets, tmp_path):
    device = {"one GPU more": f"cuda:{torch.cuda.device_count()}", "no device": "gpu"}[wrong]
    message = rf"^detector option device: expected a torch device of this machine \(cpu.*\), got {device}$"
    with pytest.raises(InputError, match=message):
        kind.load(checkpoint, device=device)
    with pytest.raises(InputError, match=message):
        kind.train(sets[0], None, tmp_path, options={**SHORT, "device": device})


def test_bad_checkpoints(kind, tmp_path, checkpoint, sets):
    with pytest.raises(InputError, match="expected a checkpoint, got no such file"):
        kind.load(tmp_path / "model.pt")
    (tmp_path / "model.pt").write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError, match="expected a checkpoint, got a file that cannot be read"):
        kind.load(tmp_path / "model.pt")
    torch.save({"weights": 1}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="expected a checkpoint of format"):
        kind.load(tmp_path / "model.pt")
    with pytest.raises(InputError, match="detector option steps: expected one of"):
        kind.load(checkpoint, steps=3)
    other = CocoDataset(sets[0].images, {3: "disk", 7: "star"}, sets[0].annotations)
    with pytest.raises(InputError, match="start_from: expected a checkpoint for the classes"):
        kind.train(other, None, tmp_path / "out", options=SHORT, start_from=checkpoint)


def test_it_is_the_registered_detector(name, kind, detector):
    assert load_detector_class(name) is kind
    assert isinstance(detector, Detector)


@pytest.fixture
def few_files():
    """Far fewer file descriptors than a network has tensors."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/dev/fd").iterdir())) + 60, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_two_processes_learn_together(kind, sets, tmp_path, few_files):
    """On CPUs where there are no GPUs; each process has half of a step's crops."""
    seen = []
    options = {**SHORT, "steps": 2, "batch": 2, "processes": 2, "score_from": 0.5}
    path = kind.train(sets[0], None, tmp_path, options=options, progress=lambda *step: seen.append(step))
    assert seen == [("train", 1, 2), ("train", 2, 2)]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["metrics.json", "model.pt"]
    trained = kind.load(path)
    start = kind.network_of(trained.options, 2, True).state_dict()
    state = trained.network.state_dict()
    assert len(state) > 60
    assert all(torch.isfinite(v).all() for v in state.values())
    assert any(not torch.equal(state[k], start[k]) for k in state)


def test_the_best_weights_by_held_out_ap_are_kept(kind, sets, tmp_path, monkeypatch):
    """The measurements are made up, so that the second of four is the best."""
    measured = []
    best = iter([0.1, 0.3, 0.2, 0.2])
    monkeypatch.setattr(training, "heldout_ap", lambda task, weights: measured.append(weights) or {"ap": next(best)})
    path = kind.train(*sets, tmp_path, options={**SHORT, **FIXED, "steps": 6, "evaluate_every": 1})
    state = kind.load(path).network.state_dict()
    assert len(measured) == 4
    assert all(torch.equal(state[k], v) for k, v in measured[1].items())
    assert json.loads((tmp_path / "metrics.json").read_text())["best_step"] == 4


def test_a_training_ends_when_ap_has_stopped_rising(kind, sets, tmp_path, monkeypatch):
    """The measurements are true ones but for AP itself, which never rises."""
    measure = training.heldout_ap
    monkeypatch.setattr(training, "heldout_ap", lambda task, weights: measure(task, weights) | {"ap": 0.5})
    options = {**SHORT, "steps": 100, "evaluate_every": 2, "patience": 1}
    detector = kind.load(kind.train(*sets, tmp_path, options=options))
    course = detector.metrics["training"]
    assert (course["steps"], course["ended_by"], course["gained_last_quarter"]) == (5, "patience", 0.0)
    assert [(p["step"], p["decaying"]) for p in course["curve"]] == [(2, False), (4, False), (5, True)]
    assert all(set(p["classes"]) == {str(number) for number in CLASSES} for p in course["curve"])
    assert all(len(p["loss"]) >= 5 and 0 <= p["ap50"] <= 1 for p in course["curve"])
