"""The published network: detectron2's own PointRend beside ours, with the same weights."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

pytest.importorskip("detectron2", reason="needs detectron2, installed from its repository")

import detectron2
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.projects.point_rend import add_pointrend_config

from ml_backend.detectors.pointrend.config import PointRendOptions
from ml_backend.detectors.pointrend.network import build, load_weights
from ml_backend.errors import InputError

pytestmark = pytest.mark.detectron2

ANCHORS = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
MEAN, DEVIATION = (torch.tensor(v).view(3, 1, 1) for v in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]))
# Large enough for all of the 1000 proposals, see `most_proposals`.
SIZE = (300, 410)


def options(weights="none", **values):
    chosen = {"preset": "r50", "norm": "frozen", "anchors": ANCHORS, "min_score": 0.0, "max_detections": 16, "nms": 0.1}
    return PointRendOptions.create({**chosen, "weights": str(weights), **values})


@pytest.fixture(scope="module")
def theirs():
    """detectron2's PointRend R50 of 80 classes from its own config, with weights that find something."""
    cfg = get_cfg()
    add_pointrend_config(cfg)
    cfg.merge_from_file(str(Path(detectron2.__file__).parent / "model_zoo" / "configs" / "Base-RCNN-FPN.yaml"))
    # As in its projects/PointRend/configs/InstanceSegmentation/Base-PointRend-RCNN-FPN.yaml.
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES = True
    cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE, cfg.MODEL.ROI_MASK_HEAD.NAME = "", "PointRendMaskHead"
    cfg.MODEL.ROI_MASK_HEAD.POINT_HEAD_ON = True
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.TEST.DETECTIONS_PER_IMAGE = 0.0, 16
    cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.1
    torch.manual_seed(7)
    model = build_model(cfg).eval()
    for name, buffer in model.named_buffers():
        if "running_mean" in name:
            buffer.copy_(torch.randn(buffer.shape) * 0.1)
        elif "running_var" in name:
            buffer.copy_(torch.rand(buffer.shape) + 0.5)
        elif name.endswith("conv3.norm.weight"):
            buffer.mul_(0.2)
        elif name.endswith("stem.conv1.norm.weight"):
            buffer.mul_(0.005)
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("predict", "cls_score", "bbox_pred", "objectness", "anchor_deltas")):
            parameter.data.copy_(torch.randn(parameter.shape) * (0.15 if "mask_head" in name else 0.03))
    return model


def write(path, state):
    with path.open("wb") as file:
        pickle.dump({"model": {k: v.numpy() for k, v in state.items()}, "__author__": "Detectron2 Model Zoo"}, file)
    return path


@pytest.fixture(scope="module")
def weights(theirs, tmp_path_factory):
    """The model as its zoo has them."""
    return write(tmp_path_factory.mktemp("zoo") / "r50.pkl", theirs.state_dict())


@pytest.fixture(scope="module")
def ours(weights):
    return build(options(weights), 80).eval()


@pytest.fixture(scope="module")
def image():
    """(3, h, w) float32 RGB of soft blobs."""
    pixels = np.random.default_rng(0).integers(0, 255, (*SIZE, 3)).astype(float)
    pixels = np.clip(gaussian_filter(pixels, (6, 6, 0)) * 4 - 380, 0, 255).astype(np.uint8)
    return torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)


@torch.inference_mode()
def test_the_same_weights_find_the_same(theirs, ours, image):
    expected = theirs.inference([{"image": image.flip(0)}], do_postprocess=False)[0]
    height, width = (-(-n // 32) * 32 for n in SIZE)
    padded = torch.nn.functional.pad((image - MEAN) / DEVIATION, (0, width - SIZE[1], 0, height - SIZE[0]))
    (found,) = ours.detect(padded[None], [SIZE])
    assert len(found.boxes) == len(expected) == 16
    assert torch.equal(found.labels, expected.pred_classes + 1)
    assert len(set(found.labels.tolist())) > 1
    assert torch.allclose(found.boxes, expected.pred_boxes.tensor, atol=1e-3)
    assert torch.allclose(found.confidence, expected.scores, atol=1e-6)
    assert found.masks.std() > 0.1
    # The points of a subdivision are the least certain ones; two as certain as each other may change places.
    assert ((found.masks - expected.pred_masks[:, 0]).abs() < 1e-3).float().mean() > 0.999


def test_files_with_former_names(theirs, ours, tmp_path, caplog):
    """The published weights of r101 are such a file."""
    former = {}
    for name, value in theirs.state_dict().items():
        name = name.replace("roi_heads.mask_head.point_head", "roi_heads.mask_point_head")
        name = name.replace("roi_heads.mask_head.coarse_head.fc", "roi_heads.mask_coarse_head.coarse_mask_fc")
        former[name.replace("roi_heads.mask_head.coarse_head", "roi_heads.mask_coarse_head")] = value
    chosen = options(write(tmp_path / "former.pkl", former), seed=3)
    network = build(options(seed=3), 80)
    missing = load_weights(network, chosen)
    assert missing and all(".iou_head." in name for name in missing)
    assert "no weights" not in caplog.text
    state = network.model.state_dict()
    for name, value in ours.model.state_dict().items():
        assert "iou_head" in name or torch.equal(state[name], value)


def test_missing_heads_are_named_in_one_line(theirs, tmp_path, caplog):
    state = {k: v for k, v in theirs.state_dict().items() if ".fpn_output3." not in k and "point_head" not in k}
    build(options(write(tmp_path / "part.pkl", state)), 80)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 1
    assert warnings[0].endswith(
        "part.pkl: no weights for backbone.fpn_output3, roi_heads.mask_head.point_head, which start anew"
    )


@pytest.mark.parametrize(
    ("change", "values", "message"),
    [
        (None, {"preset": "r101"}, "expected weights of a r101 network, got .* without backbone.bottom_up.res4.10"),
        (None, {"norm": "group"}, "expected weights with group normalisation, .*, got frozen normalisation"),
        (".res4.5.conv1.weight", {}, r"without backbone.bottom_up.res4.5.conv1.weight \(1 such of 265\)"),
        ("shape", {}, "weights of a r50 network, got .* without backbone.bottom_up.res4.5.conv1.weight"),
        ("more", {}, "weights of a r50 network, got .* with backbone.bottom_up.res4.6.conv1.weight"),
    ],
    ids=["depth", "norm", "missing", "shape", "deeper"],
)
def test_weights_of_another_backbone(theirs, weights, tmp_path, change, values, message):
    """Nothing of them is loaded."""
    if change:
        name = "backbone.bottom_up.res4.5.conv1.weight"
        state = dict(theirs.state_dict())
        if change == "more":
            state[name.replace("4.5", "4.6")] = state[name]
        elif change == "shape":
            state[name] = state[name][:-1]
        else:
            del state[name]
        weights = write(tmp_path / "other.pkl", state)
    network = build(options(**values), 80)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.raises(InputError, match=message):
        load_weights(network, options(weights, **values))
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
