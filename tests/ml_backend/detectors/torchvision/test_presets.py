from dataclasses import replace

import pytest
import torch
from torchvision.models.detection import maskrcnn_resnet50_fpn_v2

from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.detectors.torchvision.detector import MaskScoringRCNN
from ml_backend.detectors.torchvision.presets import build
from ml_backend.errors import InputError
from tests.ml_backend.detectors.drawn import CLASSES, draw


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("images"), 2, seed=1)


def test_the_default_preset():
    assert DetectorOptions.create().preset == "tiny"


def test_resnet50_takes_weights_from_a_local_file(tmp_path, data):
    model = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None)
    torch.save(model.state_dict(), tmp_path / "coco.pth")
    values = {"preset": "resnet50", "weights": str(tmp_path / "coco.pth"), "min_area": 0}
    options = DetectorOptions.create(values).resolve(data)
    network = build(options, classes=2)
    loaded = network.state_dict()
    for ours, theirs in (
        ("backbone.body.layer3.0.conv1.weight", "backbone.body.layer3.0.conv1.weight"),
        ("proposals.head.head.conv.1.0.weight", "rpn.head.conv.1.0.weight"),
        ("box_head.5.weight", "roi_heads.box_head.5.weight"),
        ("mask_head.3.0.weight", "roi_heads.mask_head.3.0.weight"),
    ):
        assert torch.equal(loaded[ours], model.state_dict()[theirs])
    detector = MaskScoringRCNN.of_weights(options, CLASSES, loaded)
    detector.network.settings = replace(detector.network.settings, min_score=0.0, max_detections=3)
    part = next(detector.predict(data.images[:1]))
    assert 1 <= len(part) <= 3 and part.features.shape == (len(part), 512)
    assert detector.network.iou_head.hidden == 1024


@pytest.mark.parametrize(
    ("weights", "message"),
    [("nowhere.pth", "weights: expected coco, none or a file"), ("text.pth", "expected a file of torchvision weights")],
)
def test_bad_weights(weights, message, tmp_path, data):
    (tmp_path / "text.pth").write_text("no weights")
    path = weights if weights == "nowhere.pth" else str(tmp_path / weights)
    with pytest.raises(InputError, match=message):
        MaskScoringRCNN.train(data, None, tmp_path, options={"preset": "resnet50", "weights": path})
