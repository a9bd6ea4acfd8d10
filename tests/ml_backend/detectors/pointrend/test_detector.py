import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_util

pytest.importorskip("detectron2", reason="needs detectron2, installed from its repository")

from ml_backend.detectors.pointrend.config import PointRendOptions
from ml_backend.detectors.pointrend.detector import PointRend
from ml_backend.detectors.pointrend.network import build
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord
from tests.ml_backend.detectors.drawn import draw
from tests.ml_backend.detectors.tensors import Largest

pytestmark = pytest.mark.detectron2


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("images"), 4, seed=1)


def untrained(data, **values):
    """A detector with random weights that reports what it would never dare to."""
    options = {"min_score": 0.0, "max_detections": 20, "scale": 1.0, "min_area": 0.0, "threads": 1, **values}
    chosen = PointRendOptions.create(options).resolve(data)
    return PointRend.of_weights(chosen, data.classes, build(chosen, 2).state_dict())


def test_the_published_way_resizes_whole_images(data):
    detector = untrained(data, schedule="published", short_edges=(128, 160), long_edge=200, predict_batch=1)
    sizes = []
    detect = detector.network.detect
    detector.network.detect = lambda pixels, size: sizes.extend(size) or detect(pixels, size)
    part = next(iter(detector.predict(data.images[:1])))
    assert sizes == [(160, 160)]
    assert (part.box[:, :2] + part.box[:, 2:]).max() <= 96.01


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


@pytest.mark.parametrize(("optimiser", "biases"), [("sgd", 1e-4), ("adamw", 0.0)])
def test_what_decays(data, optimiser, biases):
    """With sgd what decays in detectron2: biases too, but no normalisation."""
    options = PointRendOptions.create({"schedule": "published", "optimiser": optimiser}).resolve(data)
    network = build(options, 2)
    decay = {
        id(p): group["weight_decay"]
        for group in PointRend.optimiser_of(options, network).param_groups
        for p in group["params"]
    }
    found = {name: decay.pop(id(p)) for name, p in network.named_parameters()}
    assert not decay
    norms = {name: value for name, value in found.items() if ".norm." in name}
    assert norms and set(norms.values()) == {0.0}
    rest = {name: value for name, value in found.items() if name not in norms}
    assert {value for name, value in rest.items() if name.endswith("bias")} == {biases}
    assert {value for name, value in rest.items() if name.endswith("weight")} == {1e-4}
