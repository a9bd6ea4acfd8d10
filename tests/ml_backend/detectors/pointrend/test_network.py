import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="needs detectron2, installed from its repository")

from ml_backend.detectors.pointrend import subdivision
from ml_backend.detectors.pointrend.config import PointRendOptions
from ml_backend.detectors.pointrend.network import PointRendNetwork, adapted, build, load_weights
from ml_backend.detectors.pointrend.subdivision import chunks, final_masks
from ml_backend.detectors.shared.records import Target
from ml_backend.errors import InputError
from tests.ml_backend.detectors.tensors import Largest

pytestmark = pytest.mark.detectron2

ANCHORS = ((12.0,), (24.0,), (48.0,))
OPTIONS = PointRendOptions.create({"anchors": ANCHORS, "norm": "group", "min_score": 0.0, "max_detections": 12})


def published_options(**values):
    anchors = ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    return PointRendOptions.create({"preset": "r50", "norm": "frozen", "anchors": anchors, **values})


def target(*boxes, side=64, exhaustive=True):
    masks = torch.zeros((len(boxes), side, side), dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    return Target(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.ones(len(boxes), dtype=torch.long),
        masks,
        exhaustive,
    )


NOTHING, OBJECTS = target(), target((4, 4, 24, 20), (30, 30, 50, 56))


@pytest.fixture(scope="module")
def network():
    return build(OPTIONS, 2)


@pytest.mark.parametrize(
    "targets",
    [
        [OBJECTS],
        [NOTHING],
        [NOTHING, OBJECTS],
        [replace(NOTHING, exhaustive=False)],
        [replace(OBJECTS, exhaustive=False)],
    ],
    ids=["objects", "nothing", "mixed", "nothing known", "some known"],
)
@pytest.mark.parametrize("score", [True, False])
def test_losses_whatever_an_image_holds(network, targets, score):
    network.train().zero_grad()
    torch.manual_seed(0)
    losses = network(torch.randn(len(targets), 3, 64, 64), targets, score)
    assert {"loss_iou", "loss_mask", "loss_mask_point", "loss_cls", "loss_box_reg", "loss_rpn_cls"} <= losses.keys()
    assert all(torch.isfinite(v) for v in losses.values())
    learns = score and any(t.exhaustive and len(t.boxes) for t in targets)
    assert (losses["loss_iou"] > 0) == learns
    torch.stack(list(losses.values())).sum().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None]
    assert missing == []


def test_the_iou_head_teaches_the_detector_nothing(network):
    network.train().zero_grad()
    torch.manual_seed(0)
    network(torch.randn(1, 3, 64, 64), [OBJECTS])["loss_iou"].backward()
    taught = {n.split(".")[2] for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert taught == {"iou_head"}


def test_unannotated_background_is_not_learnt(network):
    """Anchors away from the annotated masks are ignored, and so are proposals."""
    partial = replace(OBJECTS, exhaustive=False)
    from ml_backend.detectors.pointrend.network import _instances

    features = network._features(torch.randn(1, 3, 64, 64))
    anchors = network.model.proposal_generator.anchor_generator([features[f] for f in ("p2", "p3", "p4")])
    labels = {}
    for name, t in (("whole", OBJECTS), ("partial", partial)):
        torch.manual_seed(0)
        labels[name] = network.model.proposal_generator.label_and_sample_anchors(anchors, [_instances(t)])[0][0]
    assert torch.equal(labels["whole"] == 1, labels["partial"] == 1)
    assert (labels["partial"] == 0).sum() < 0.3 * (labels["whole"] == 0).sum()


def test_detections_carry_what_predictions_need(network):
    found = network.eval().detect(torch.randn(2, 3, 64, 96), [(64, 96), (60, 80)])
    for part, (height, width) in zip(found, [(64, 96), (60, 80)], strict=True):
        n = len(part.boxes)
        assert 0 < n <= 12
        assert part.masks.shape == (n, 56, 56)
        assert part.roi_features.shape == (n, 64, 14, 14)
        assert part.hidden.shape == (n, 256)
        # The layer of each detection is the one that its class was predicted from.
        with torch.inference_mode():
            scores = network.heads.box_predictor(part.box_hidden)[0].softmax(1)
        assert torch.allclose(scores[torch.arange(n), part.labels - 1], part.confidence, atol=1e-5)
        assert ((part.predicted_iou > 0) & (part.predicted_iou < 1)).all()
        assert set(part.labels.tolist()) <= {1, 2}
        assert (part.boxes.amax(0) <= torch.tensor([width, height, width, height])).all()


def test_masks_in_chunks_are_the_same(network, monkeypatch):
    torch.manual_seed(1)
    images, sizes = torch.randn(2, 3, 64, 64), [(64, 64), (64, 64)]
    plain = network.eval().detect(images, sizes)
    head = network.heads.mask_head
    monkeypatch.setattr(subdivision, "VALUES", 5 * subdivision._values(head, 56))
    for a, b in zip(plain, network.detect(images, sizes), strict=True):
        assert torch.equal(a.boxes, b.boxes)
        assert torch.allclose(a.masks, b.masks, atol=1e-5)
        assert torch.allclose(a.predicted_iou, b.predicted_iou, atol=1e-5)
        assert torch.allclose(a.roi_features, b.roi_features, atol=1e-5)


def test_no_detections():
    strict = build(OPTIONS.model_copy(update={"min_score": 1.0}), 2).eval()
    assert [len(part.boxes) for part in strict.detect(torch.randn(2, 3, 64, 64), [(64, 64), (64, 64)])] == [0, 0]


@pytest.mark.parametrize(
    ("counts", "size", "expected"),
    [
        ([3, 0, 4], 2, [[(0, 2)], [(0, 1), (2, 1)], [(2, 2)], [(2, 1)]]),
        ([5], 5, [[(0, 5)]]),
        ([0, 0], 3, []),
        ([1, 0, 1, 1], 100, [[(0, 1), (2, 1), (3, 1)]]),
    ],
)
def test_chunks_keep_the_order_and_leave_out_empty_images(counts, size, expected):
    assert chunks(counts, size) == expected


@torch.inference_mode()
@pytest.mark.parametrize(
    ("options", "classes"),
    [(OPTIONS, 7), (published_options(weights="none"), 7), (OPTIONS, 1)],
    ids=["small", "r50", "one"],
)
def test_masks_are_those_of_detectron2(options, classes):
    """Which keeps the logits of all classes."""
    from detectron2.structures import Boxes, Instances

    heads = build(options, classes).heads.eval()
    head = heads.mask_head
    torch.manual_seed(0)
    for layer in (head.coarse_head.prediction, head.point_head.predictor):
        torch.nn.init.normal_(layer.weight, std=0.3)
    channels = head.point_head.fc1.in_channels - classes
    features = {"p2": torch.randn(3, channels, 32, 40), "p3": torch.randn(3, channels, 16, 20)}
    instances = []
    for count in (4, 0, 3):
        corners = torch.rand(count, 2) * 60
        boxes = Boxes(torch.cat([corners, corners + 10 + torch.rand(count, 2) * 60], 1))
        kinds = torch.randint(classes, (count,))
        instances.append(Instances((128, 160), pred_boxes=boxes, pred_classes=kinds))
    masks, roi_features = heads._masks(features, instances)
    expected = torch.cat([part.pred_masks[:, 0] for part in head(features, instances)])
    assert masks.std() > 0.1
    assert masks.shape == expected.shape
    assert torch.allclose(masks, expected, atol=1e-5)
    assert torch.allclose(roi_features, head._roi_pooler(features, [part.pred_boxes for part in instances]), atol=1e-6)


@torch.inference_mode()
def test_no_tensor_has_the_masks_of_all_classes():
    heads = build(OPTIONS, 80).heads.eval()
    boxes = torch.tensor([[0.0, 0, 40, 40]]).repeat(40, 1)
    with Largest() as largest:
        final_masks(heads.mask_head, {"p2": torch.randn(1, 64, 32, 32)}, [boxes], torch.zeros(40, dtype=torch.long))
    # The point head's layers, which see the 784 points that are computed at a time.
    assert largest.bytes <= 4 * 40 * 784 * (64 + 80)
    assert largest.bytes < 4 * 40 * 80 * 56 * 56 / 2


# --- weights from elsewhere


def zoo_file(path, state):
    """A file as the model zoo has them: NumPy arrays in a pickle."""
    with path.open("wb") as file:
        pickle.dump({"model": {k: v.numpy() for k, v in state.items()}, "__author__": "test"}, file)
    return str(path)


def test_weights_of_other_classes_are_taken_over(tmp_path, network):
    torch.manual_seed(5)
    stored = {k: torch.randn_like(v) for k, v in PointRendNetwork(OPTIONS, 5).model.state_dict().items()}
    own = build(OPTIONS, 2)
    before = {k: v.clone() for k, v in own.model.state_dict().items()}
    missing = load_weights(own, OPTIONS.model_copy(update={"weights": zoo_file(tmp_path / "a.pkl", stored)}))
    state = own.model.state_dict()
    assert missing == []
    same = [k for k in state if torch.equal(state[k], stored[k])]
    assert len(same) > 0.8 * len(state)
    point = "roi_heads.mask_head.point_head."
    coarse = "roi_heads.mask_head.coarse_head.prediction.bias"
    assert torch.allclose(state[point + "fc2.weight"][:, :64], stored[point + "fc2.weight"][:, :64])
    assert torch.allclose(
        state[point + "fc2.weight"][:, 64:].sum(1), stored[point + "fc2.weight"][:, 64:].sum(1), atol=1e-5
    )
    assert torch.allclose(state[coarse].view(2, 49)[1], stored[coarse].view(5, 49).mean(0), atol=1e-6)
    score = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(state[score][-1], stored[score][-1])
    assert torch.equal(state[score][:-1], before[score][:-1])


def test_own_checkpoints_and_missing_heads(tmp_path):
    state = build(OPTIONS, 2).model.state_dict()
    torch.save({k: v for k, v in state.items() if "iou_head" not in k}, tmp_path / "a.pth")
    own = build(OPTIONS.model_copy(update={"seed": 3}), 2)
    missing = load_weights(own, OPTIONS.model_copy(update={"weights": str(tmp_path / "a.pth")}))
    assert missing and all("iou_head" in name for name in missing)
    assert torch.equal(own.model.state_dict()["backbone.fpn_lateral2.weight"], state["backbone.fpn_lateral2.weight"])


def caffe2_name(name):
    """What Caffe2 calls an entry of a ResNet."""
    parts = name.split(".")
    if parts[0] == "stem":
        return {"conv1.weight": "conv1_w", "conv1.norm.weight": "res_conv1_bn_s", "conv1.norm.bias": "res_conv1_bn_b"}[
            ".".join(parts[1:])
        ]
    branch = {"shortcut": "branch1", "conv1": "branch2a", "conv2": "branch2b", "conv3": "branch2c"}[parts[2]]
    return "_".join([*parts[:2], branch, {"weight": "w"}.get(parts[3], "bn_" + parts[-1][0].replace("w", "s"))])


def caffe2_file(path, options):
    """A file as ImageNet's are: Caffe2's names, only the backbone, no statistics; and what is in it, by our names."""
    rng = np.random.default_rng(0)
    bottom = PointRendNetwork(options, 1).model.backbone.bottom_up.state_dict()
    known = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in bottom.items() if "running" not in k}
    extra = {"conv1_w_momentum": np.zeros((64, 3, 7, 7), np.float32), "fc1000_w": np.zeros((1000, 2048), np.float32)}
    with path.open("wb") as file:
        pickle.dump({caffe2_name(k): v for k, v in known.items()} | extra, file)
    return known


def test_imagenet_files_are_matched_by_name(tmp_path, caplog):
    options = published_options(weights=str(tmp_path / "R-50.pkl"))
    known = caffe2_file(tmp_path / "R-50.pkl", options)
    network = PointRendNetwork(options, 1)
    with caplog.at_level("INFO"):
        missing = load_weights(network, options)
    state = network.model.backbone.bottom_up.state_dict()
    assert all(torch.equal(state[name], torch.from_numpy(value)) for name, value in known.items())
    assert not any(name.startswith("backbone.bottom_up") for name in missing)
    # That the heads start anew goes without saying here.
    assert [r.levelname for r in caplog.records if "start anew" in r.message] == ["INFO"]


def test_imagenet_files_have_frozen_normalisation(tmp_path):
    caffe2_file(tmp_path / "R-50.pkl", published_options())
    options = published_options(weights=str(tmp_path / "R-50.pkl"), norm="group")
    with pytest.raises(InputError, match=r"weights with group normalisation, .*, got frozen"):
        build(options, 1)


class Harm:
    def __reduce__(self):
        return print, ("a file of weights ran code",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere.pkl", None, "weights: expected zoo, imagenet, none or a file of weights"),
        ("text.pth", b"no weights", "expected a file of detectron2 weights"),
        ("text.pkl", b"no weights", "expected a file of detectron2 weights"),
        ("code.pkl", pickle.dumps({"model": Harm(), "__author__": "x"}), "detectron2 weights, got UnpicklingError"),
        (
            "other.pkl",
            pickle.dumps({"model": {"a": np.ones(3)}, "__author__": "x"}),
            "expected weights of a small network",
        ),
    ],
)
def test_bad_weights(tmp_path, network, name, content, message, capsys):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_weights(network, OPTIONS.model_copy(update={"weights": str(tmp_path / name)}))
    assert capsys.readouterr().out == ""


def test_the_small_preset_has_no_published_weights(network):
    with pytest.raises(InputError, match="weights: expected none for preset small, got zoo"):
        load_weights(network, OPTIONS.model_copy(update={"weights": "zoo"}))


def test_what_does_not_fit_stays_as_it_is():
    stored = torch.ones(3, 3)
    assert adapted("backbone.fpn_lateral2.weight", stored, torch.ones(2, 2), 2) is stored
