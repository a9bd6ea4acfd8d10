"""What every trained detector must keep, as one table for the torchvision detector and PointRend."""

import json
from dataclasses import replace
from importlib import import_module

import numpy as np
import pytest
import torch

from ml_backend.detector import Detector, load_detector_class
from ml_backend.detectors.shared import iou_target
from ml_backend.errors import InputError
from ml_backend.learning.evaluation import predict_all, true_iou
from ml_backend.learning.features import KINDS
from ml_backend.masks.coco import CocoDataset
from tests.ml_backend.detectors.drawn import CLASSES, draw

DETECTORS = {
    "torchvision": ("torchvision.detector", "MaskScoringRCNN", {"learning_rate": 3e-3}),
    "pointrend": (
        "pointrend.detector",
        "PointRend",
        {"learning_rate": 2e-3, "evaluate_every": 1000, "score_from": 0.3, "steps": 70},
    ),
}
OPTIONS = {"steps": 50, "batch": 3, "crop": 64, "warmup": 8, "scale": 1.5}
SHORT = {**OPTIONS, "steps": 5, "checkpoint_every": 2, "batch": 1, "score_from": 0}


@pytest.fixture(scope="module", params=["torchvision", pytest.param("pointrend", marks=pytest.mark.detectron2)])
def name(request):
    if request.param == "pointrend":
        pytest.importorskip("detectron2", reason="needs detectron2, installed from its repository")
    return request.param


@pytest.fixture(scope="module")
def kind(name):
    module, attribute, _ = DETECTORS[name]
    return getattr(import_module(f"ml_backend.detectors.{module}"), attribute)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return draw(folder, 6, seed=1), draw(folder, 4, seed=2)


@pytest.fixture(scope="module")
def checkpoint(name, kind, sets, tmp_path_factory):
    options = {**OPTIONS, **DETECTORS[name][2]}
    return kind.train(*sets, tmp_path_factory.mktemp("trained"), options=options)


@pytest.fixture(scope="module")
def detector(kind, checkpoint):
    return kind.load(checkpoint)


@pytest.fixture(scope="module")
def found(detector, sets):
    return predict_all(detector, sets[1].images)


def test_it_finds_objects(found, sets):
    best = np.argsort(-found.score)[:8]
    assert (true_iou(found, sets[1], one_to_one=False)[best] > 0.5).mean() >= 0.75
    assert set(found.class_id.tolist()) == set(CLASSES)


def test_predictions_fit_their_images(detector, sets):
    images = sets[1].images[:3]
    parts = list(detector.predict(images))
    assert [set(p.image_id.tolist()) for p in parts] == [{i.id} for i in images]
    for image, part in zip(images, parts, strict=True):
        assert (part.size == [image.height, image.width]).all()
        assert (np.diff(part.score) <= 0).all()
        assert (part.confidence > detector.options.min_score).all()
        assert (part.box[:, 2] * part.box[:, 3] > detector.options.min_area).all()
        assert ((part.predicted_iou >= 0) & (part.predicted_iou <= 1)).all()
        assert part.features.dtype == np.float16
        assert part.features.shape == (len(part), 512)
        assert np.isfinite(part.features).all()


def test_metrics_are_stored(checkpoint, detector):
    stored = json.loads((checkpoint.parent / "metrics.json").read_text())
    assert json.dumps(stored) == json.dumps(detector.metrics)
    assert {"box_ap", "mask_ap", "mask_ap50", "mask_ap75"} <= stored.keys()
    for when in ("before", "after"):
        assert {"correlation", "error", "mean_predicted", "mean_true"} <= stored[f"iou_{when}_calibration"].keys()
    assert not (checkpoint.parent / "unfinished.pt").exists()


def test_the_same_weights_have_one_version_and_give_the_same(kind, detector, checkpoint, found, sets):
    again = kind.load(checkpoint)
    assert again.version == detector.version
    other = predict_all(again, sets[1].images[:2])
    same = found.select(np.isin(found.image_id, [i.id for i in sets[1].images[:2]]))
    assert other.rle.tolist() == same.rle.tolist()
    assert np.array_equal(other.features, same.features)


def test_a_finished_run_is_given_back(name, kind, checkpoint, sets):
    written = checkpoint.stat().st_mtime_ns
    options = {**OPTIONS, **DETECTORS[name][2]}
    assert kind.train(*sets, checkpoint.parent, options=options) == checkpoint
    assert checkpoint.stat().st_mtime_ns == written


def test_what_other_sets_gave_is_not_given_back(kind, tmp_path):
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
    options = {"steps": 1, "batch": 1, "crop": 64, "scale": 0.5, "max_detections": 5}
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
def test_feature_kinds(feature, kind, checkpoint, sets):
    part = next(iter(kind.load(checkpoint, feature=feature).predict(sets[1].images[:1])))
    assert len(part) > 0
    assert part.features.shape[1] == (256 if feature == "mask_iou" else 512)


def test_all_kinds_come_from_one_pass(kind, checkpoint, sets):
    detector, images = kind.load(checkpoint), sets[1].images[:2]
    passes = []
    detect = detector.network.detect
    detector.network.detect = lambda *batch: passes.append(1) or detect(*batch)
    found = list(detector.predict_kinds(images))
    assert len(passes) == 2
    for predictions, features in found:
        assert list(features) == list(KINDS)
        assert {k: v.shape for k, v in features.items()} == {
            k: (len(predictions), 256 if k == "mask_iou" else 512) for k in KINDS
        }
        assert all(v.dtype == np.float16 for v in features.values())
    for one in KINDS:
        alone = [p.features for p in kind.load(checkpoint, feature=one).predict(images)]
        assert all(np.array_equal(a, f[one]) for a, (_, f) in zip(alone, found, strict=True))


def test_tiles_and_batches_find_the_same_objects(kind, checkpoint, tmp_path):
    images = draw(tmp_path, 2, seed=6, side=280, objects=20)
    plain, tiles, batches = (
        predict_all(kind.load(checkpoint, min_score=0.4, **options), images.images)
        for options in ({}, {"tile": 256}, {"predict_batch": 2})
    )
    correct = [(true_iou(p, images) > 0.5).sum() for p in (plain, tiles, batches)]
    assert correct[0] > 10
    assert abs(correct[1] - correct[0]) <= 0.25 * correct[0]
    assert correct[2] == correct[0]
    again = [(true_iou(p, images, one_to_one=False) > 0.5).sum() for p in (plain, tiles)]
    assert again[1] - correct[1] <= again[0] - correct[0] + 5


def test_thresholds_can_be_given_anew(kind, checkpoint, sets, found):
    strict = predict_all(kind.load(checkpoint, min_score=0.6, min_area=250), sets[1].images)
    assert 0 < len(strict) < len(found)
    assert strict.confidence.min() > 0.6
    assert (strict.box[:, 2] * strict.box[:, 3]).min() > 250
    assert max(len(p) for p in kind.load(checkpoint, max_detections=2).predict(sets[1].images[:2])) == 2


@pytest.mark.parametrize("damage", ["missing", "no image", "cut short", "other size"])
def test_images_that_cannot_be_read(damage, detector, sets, tmp_path):
    good = sets[1].images[0]
    path, record = tmp_path / "a.png", replace(good, path=tmp_path / "a.png")
    if damage == "no image":
        path.write_text("no image")
    elif damage == "cut short":
        path.write_bytes(good.path.read_bytes()[:2000])
    elif damage == "other size":
        record = replace(good, width=good.width + 1)
    with pytest.raises(InputError, match=r"expected"):
        list(detector.predict([record]))


def test_each_device_trains_and_predicts(kind, checkpoint, sets, device, tmp_path):
    """In the device's own way of computing; untrained masks near the threshold may fall to either side."""
    path = kind.train(sets[0], None, tmp_path, options={**SHORT, "device": device, "batch": 2})
    trained = kind.load(path)
    assert trained.device.type == device
    assert all(torch.isfinite(v).all() and v.device.type == device for v in trained.network.state_dict().values())
    images = sets[1].images
    there = predict_all(kind.load(checkpoint, device=device), images)
    here = predict_all(kind.load(checkpoint, device="cpu", bfloat16=False), images)
    correct = [(true_iou(p, sets[1]) > 0.5).sum() for p in (there, here)]
    assert abs(correct[0] - correct[1]) <= 0.1 * correct[1]
    assert np.isfinite(there.features).all()


@pytest.mark.parametrize("wrong", ["one GPU more", "no device"])
def test_devices_that_are_not_here(wrong, kind, checkpoint, sets, tmp_path):
    device = {"one GPU more": f"cuda:{torch.cuda.device_count()}", "no device": "gpu"}[wrong]
    message = rf"^detector option device: expected a torch device of this machine \(cpu.*\), got {device}$"
    with pytest.raises(InputError, match=message):
        kind.load(checkpoint, device=device)
    with pytest.raises(InputError, match=message):
        kind.train(sets[0], None, tmp_path, options={**SHORT, "device": device})


def test_no_images(detector):
    assert list(detector.predict([])) == []


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
