import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from ml_backend.detector import Detector, load_detector_class
from ml_backend.detectors.shared.inference import tile_spans
from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.detectors.torchvision.detector import MaskScoringRCNN
from ml_backend.detectors.torchvision.presets import build
from ml_backend.errors import InputError
from ml_backend.learning.calibration import Calibration
from ml_backend.learning.evaluation import predict_all, true_iou
from ml_backend.learning.features import KINDS
from ml_backend.masks.coco import CocoDataset
from tests.ml_backend.detectors.drawn import CLASSES, draw

OPTIONS = {
    "steps": 70,
    "batch": 3,
    "crop": 96,
    "warmup": 10,
    "score_from": 0.3,
    "scale": 1.5,
    "min_area": 80,
    "threads": 1,
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return draw(folder, 6, seed=1), draw(folder, 6, seed=2)


@pytest.fixture(scope="module")
def checkpoint(sets, tmp_path_factory):
    """A network that has seen six drawn images."""
    return MaskScoringRCNN.train(*sets, tmp_path_factory.mktemp("trained"), options=OPTIONS)


@pytest.fixture(scope="module")
def detector(checkpoint):
    return MaskScoringRCNN.load(checkpoint)


@pytest.fixture(scope="module")
def found(detector, sets):
    return predict_all(detector, sets[1].images)


def test_it_finds_the_objects(found, sets, detector):
    iou = true_iou(found, sets[1])
    assert (iou > 0.5).sum() >= 0.9 * len(sets[1].annotations)
    assert set(found.class_id.tolist()) == set(CLASSES)
    assert detector.metrics["mask_ap50"] > 0.8
    assert np.corrcoef(found.score, iou)[0, 1] > 0.4


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
        assert part.features.shape == (len(part), 512)
        assert np.isfinite(part.features).all()


def test_metrics_are_stored(checkpoint, detector):
    stored = json.loads((checkpoint.parent / "metrics.json").read_text())
    assert stored == detector.metrics
    assert {"box_ap", "mask_ap", "mask_ap50", "mask_ap75"} <= stored.keys()
    assert not (checkpoint.parent / "unfinished.pt").exists()


def test_the_same_weights_have_one_version_and_give_the_same(detector, checkpoint, found, sets):
    again = MaskScoringRCNN.load(checkpoint)
    assert again.version == detector.version
    other = predict_all(again, sets[1].images)
    assert other.rle.tolist() == found.rle.tolist()
    assert np.array_equal(other.features, found.features)


def test_a_finished_run_is_given_back(checkpoint, sets, detector):
    written = checkpoint.stat().st_mtime_ns
    assert MaskScoringRCNN.train(*sets, checkpoint.parent, options=OPTIONS) == checkpoint
    assert checkpoint.stat().st_mtime_ns == written


SHORT = {**OPTIONS, "steps": 8, "checkpoint_every": 3, "score_from": 0}


def test_a_killed_run_goes_on_to_the_same_weights(sets, tmp_path):
    class KilledError(Exception):
        pass

    def kill(stage, done, total):
        if done == 5:
            raise KilledError

    straight = MaskScoringRCNN.load(MaskScoringRCNN.train(sets[0], None, tmp_path / "a", options=SHORT))
    with pytest.raises(KilledError):
        MaskScoringRCNN.train(sets[0], None, tmp_path / "b", options=SHORT, progress=kill)
    assert not (tmp_path / "b" / "model.pt").exists()
    seen = []
    resumed = MaskScoringRCNN.train(
        sets[0], None, tmp_path / "b", options=SHORT, progress=lambda stage, done, total: seen.append(done)
    )
    assert seen == [4, 5, 6, 7, 8]
    assert MaskScoringRCNN.load(resumed).version == straight.version


def test_images_without_objects_and_incomplete_ones(sets, tmp_path):
    none = draw(tmp_path / "none", 2, seed=3, keep=0)
    none.images = [replace(i, exhaustive=True) for i in none.images]
    some = draw(tmp_path / "some", 2, seed=4, keep=2)
    annotations = [replace(a, id=i) for i, a in enumerate(some.annotations, 1)]
    both = CocoDataset(none.images + some.images, dict(CLASSES), annotations)
    path = MaskScoringRCNN.train(both, None, tmp_path / "out", options=SHORT)
    state = MaskScoringRCNN.load(path).network.state_dict()
    assert all(torch.isfinite(v).all() for v in state.values())


def test_what_nobody_annotated_in_incomplete_images_is_not_unlearnt(sets, checkpoint, tmp_path):
    """Of five objects in each pool image one is annotated; taken as exhaustive, the other four teach background."""
    pool = draw(tmp_path, 6, seed=5, keep=1)
    shares = {}
    for name, exhaustive in (("incomplete", False), ("exhaustive", True)):
        images = [replace(i, exhaustive=exhaustive) for i in pool.images]
        data = CocoDataset(images, dict(CLASSES), pool.annotations)
        path = MaskScoringRCNN.train(
            data, None, tmp_path / name, options={**OPTIONS, "steps": 30}, start_from=checkpoint
        )
        found = predict_all(MaskScoringRCNN.load(path), sets[1].images)
        shares[name] = float(found.confidence[true_iou(found, sets[1]) > 0.5].sum()) / len(sets[1].annotations)
    assert shares["incomplete"] > shares["exhaustive"] + 0.2
    assert shares["incomplete"] > 0.6


def test_a_later_round_keeps_scale_and_anchors(sets, checkpoint, detector, tmp_path):
    path = MaskScoringRCNN.train(
        sets[1], None, tmp_path, options={"steps": 2, "crop": 96, "batch": 1}, start_from=checkpoint
    )
    later = MaskScoringRCNN.load(path)
    assert (later.options.scale, later.options.anchors) == (detector.options.scale, detector.options.anchors)
    assert later.version != detector.version


@pytest.mark.parametrize("kind", KINDS)
def test_feature_kinds(kind, checkpoint, sets):
    part = next(MaskScoringRCNN.load(checkpoint, feature=kind).predict(sets[1].images[:1]))
    assert len(part) > 0
    assert part.features.shape[1] == (256 if kind == "mask_iou" else 512)


@pytest.mark.parametrize("options", [{"tile": 256}, {"predict_batch": 4}], ids=["tiles", "batches"])
def test_tiles_and_batches_find_the_same_objects(options, checkpoint, sets, tmp_path):
    images = draw(tmp_path, 2, seed=6, side=280, objects=24)
    plain = predict_all(MaskScoringRCNN.load(checkpoint), images.images)
    other = predict_all(MaskScoringRCNN.load(checkpoint, **options), images.images)
    correct = [(true_iou(p, images) > 0.5).sum() for p in (plain, other)]
    assert correct[1] >= 0.9 * correct[0] > 30
    doubles = [
        (true_iou(p, images, one_to_one=False) > 0.5).sum() - c for p, c in zip((plain, other), correct, strict=True)
    ]
    assert doubles[1] <= doubles[0] + 5


@pytest.mark.parametrize(("length", "tile"), [(100, 256), (256, 256), (257, 256), (1000, 256), (5000, 512)])
def test_tiles_cover_everything_once(length, tile):
    spans = tile_spans(length, tile)
    seen = np.zeros(length, int)
    for start, size, low, high in spans:
        assert 0 <= start <= start + size <= length
        middle = np.arange(length) + 0.5
        core = (middle >= low) & (middle < high)
        assert not core[:start].any()
        assert not core[start + size :].any()
        seen += core
    assert (seen == 1).all()
    assert all(b[0] <= a[0] + 0.75 * tile for a, b in pairwise(spans))


def test_thresholds_can_be_given_anew(checkpoint, sets, found):
    strict = predict_all(MaskScoringRCNN.load(checkpoint, min_score=0.4, min_area=250), sets[1].images)
    assert 0 < len(strict) < len(found)
    assert strict.confidence.min() > 0.4
    assert (strict.box[:, 2] * strict.box[:, 3]).min() > 250
    assert max(len(p) for p in MaskScoringRCNN.load(checkpoint, max_detections=2).predict(sets[1].images)) == 2


def test_resnet50_takes_weights_from_a_local_file(tmp_path, sets):
    model = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    torch.save(model.state_dict(), tmp_path / "coco.pth")
    values = {"preset": "resnet50", "weights": str(tmp_path / "coco.pth"), "min_area": 0}
    options = DetectorOptions.create(values).resolve(sets[0])
    network = build(options, classes=2)
    loaded = network.state_dict()
    for ours, theirs in (
        ("backbone.body.layer3.0.conv1.weight", "backbone.body.layer3.0.conv1.weight"),
        ("proposals.head.head.conv.1.0.weight", "rpn.head.conv.1.0.weight"),
        ("box_head.5.weight", "roi_heads.box_head.5.weight"),
        ("mask_head.3.0.weight", "roi_heads.mask_head.3.0.weight"),
    ):
        assert torch.equal(loaded[ours], model.state_dict()[theirs])
    detector = MaskScoringRCNN(options, CLASSES, loaded, Calibration(), {})
    detector.network.settings = replace(detector.network.settings, min_score=0.0, max_detections=3)
    part = next(detector.predict(sets[0].images[:1]))
    assert 1 <= len(part) <= 3 and part.features.shape == (len(part), 512)
    assert detector.network.iou_head.hidden == 1024


@pytest.mark.parametrize(
    ("weights", "message"),
    [("nowhere.pth", "weights: expected coco, none or a file"), ("text.pth", "expected a file of torchvision weights")],
)
def test_bad_weights(weights, message, tmp_path, sets):
    (tmp_path / "text.pth").write_text("no weights")
    path = weights if weights == "nowhere.pth" else str(tmp_path / weights)
    with pytest.raises(InputError, match=message):
        MaskScoringRCNN.train(sets[0], None, tmp_path, options={"preset": "resnet50", "weights": path})


def test_bad_checkpoints(tmp_path, checkpoint, sets):
    with pytest.raises(InputError, match="expected a checkpoint, got no such file"):
        MaskScoringRCNN.load(tmp_path / "model.pt")
    (tmp_path / "model.pt").write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(InputError, match="expected a checkpoint, got a file that cannot be read"):
        MaskScoringRCNN.load(tmp_path / "model.pt")
    torch.save({"weights": 1}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="expected a checkpoint of format"):
        MaskScoringRCNN.load(tmp_path / "model.pt")
    with pytest.raises(InputError, match="detector option steps: expected one of"):
        MaskScoringRCNN.load(checkpoint, steps=3)
    other = CocoDataset(sets[0].images, {3: "disk", 7: "star"}, sets[0].annotations)
    with pytest.raises(InputError, match="start_from: expected a checkpoint for the classes"):
        MaskScoringRCNN.train(other, None, tmp_path / "out", options=SHORT, start_from=checkpoint)


def test_it_is_the_registered_detector(detector):
    assert load_detector_class("torchvision") is MaskScoringRCNN
    assert isinstance(detector, Detector)
    assert DetectorOptions.create().preset == "tiny"
