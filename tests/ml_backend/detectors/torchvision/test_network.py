"""What the network learns from images that are not annotated exhaustively, and how it reads what it has learnt."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.detectors.shared.records import Target, covered
from ml_backend.detectors.torchvision.network import UNKNOWN, mask_targets, semantic_target
from ml_backend.detectors.torchvision.presets import build
from ml_backend.masks.pasting import full_mask, paste

OPTIONS = DetectorOptions.create({"anchors": ((12.0,), (24.0,), (48.0,)), "min_score": 0.0, "max_detections": 12})
PLACES = ((4, 4, 24, 20), (30, 30, 50, 56))


def target(*boxes, side=64):
    masks = torch.zeros((len(boxes), side, side), dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    return Target(
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.ones(len(boxes), dtype=torch.long), masks
    )


NOTHING, OBJECTS = target(), target(*PLACES)


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
    assert set(losses) == {"proposal", "proposal_box", "class", "box", "mask", "semantic"} | (
        {"iou"} if score else set()
    )
    assert all(torch.isfinite(v) for v in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    missing = {name.split(".")[0] for name, p in network.named_parameters() if p.grad is None}
    assert missing == (set() if score else {"iou_head"})


def test_unannotated_background_is_no_anchor_to_learn_from(network):
    """Anchors away from the annotated masks are ignored, those on objects are the same."""
    features = network._features(torch.randn(1, 3, 64, 64))
    images = ImageList(torch.zeros(1, 3, 64, 64), [(64, 64)])
    anchors = network.proposals.anchor_generator(images, list(features.values()))
    labels = {}
    for name, exhaustive in (("whole", True), ("partial", False)):
        one = replace(OBJECTS, exhaustive=exhaustive)
        labels[name] = network.proposals.assign_targets_to_anchors(anchors, [one])[0][0]
    assert torch.equal(labels["whole"] == 1, labels["partial"] == 1)
    background = labels["partial"] == 0
    assert (covered(anchors[0], OBJECTS, background) == background).all()
    assert background.sum() < 0.3 * (labels["whole"] == 0).sum()


@pytest.mark.parametrize("seed", range(5))
def test_unannotated_background_is_no_proposal_to_learn_from(network, seed):
    """What is sampled as background lies on annotated objects, and is not more than the objects."""
    torch.manual_seed(seed)
    corner = torch.rand(300, 2) * 50
    proposals = torch.cat([corner, corner + 4 + torch.rand(300, 2) * 20], 1).clamp(max=64)
    partial = replace(OBJECTS, exhaustive=False)
    (boxes,), (labels,), _ = network._sample([proposals], [partial])
    background = labels == 0
    assert (covered(boxes, partial, background) == background).all()
    assert (labels > 0).sum() > 0 and background.sum() <= (labels > 0).sum()
    (boxes,), (labels,), _ = network._sample([proposals], [OBJECTS])
    assert (covered(boxes, OBJECTS, labels == 0) < (labels == 0)).any()


def test_boxes_that_were_learnt_are_the_boxes_that_are_read(network):
    """Regression that has no loss leads from any proposal to its object's box."""
    boxes = OBJECTS.boxes
    proposals = boxes + torch.tensor([[-3.0, 2, 4, -1], [2, 2, -3, 5]])
    wanted = network.box_coder.encode_single(boxes, proposals)
    logits, labels, matched = torch.zeros(2, 3), torch.ones(2, dtype=torch.long), torch.arange(2)
    assert network._box_losses(logits, wanted, [proposals], [labels], [matched], [OBJECTS])["box"] == 0
    assert torch.allclose(network._decode(wanted, [proposals])[:, 0], boxes, atol=1e-3)


def test_masks_that_were_learnt_are_the_masks_that_are_pasted():
    boxes = OBJECTS.boxes + torch.tensor([-2.0, -2, 2, 2])
    wanted = mask_targets(OBJECTS.masks, torch.arange(2), boxes, 28)
    for mask, box, true in zip(wanted.numpy(), boxes.numpy(), OBJECTS.masks.numpy(), strict=True):
        pasted = full_mask(*paste(mask, box, 64, 64), 64, 64)
        assert np.logical_and(pasted, true).sum() > 0.85 * np.logical_or(pasted, true).sum()


@pytest.mark.parametrize("exhaustive", [True, False])
def test_every_pixel_has_the_class_of_the_smallest_object_there(exhaustive):
    objects = replace(target((0, 0, 40, 64), (8, 8, 16, 16), (30, 30, 64, 64)), exhaustive=exhaustive)
    objects.labels[:] = torch.tensor([1, 2, 3])
    labels = semantic_target(objects, (16, 16))
    assert labels.shape == (16, 16)
    assert (labels[2, 3], labels[3, 2], labels[8, 8], labels[9, 9], labels[15, 15]) == (2, 2, 3, 3, 3)
    assert (labels[0, 0], labels[15, 0], labels[0, 9]) == (1, 1, 1)
    assert labels[0, 10] == labels[0, 15] == (0 if exhaustive else UNKNOWN)
    nothing = semantic_target(replace(NOTHING, exhaustive=exhaustive), (16, 16))
    assert (nothing == (0 if exhaustive else UNKNOWN)).all()


def test_weights_of_earlier_versions_fit(network):
    """They had nothing that learns from every pixel, and predict the same."""
    state = {k: v for k, v in network.state_dict().items() if not k.startswith("semantic.")}
    assert len(state) == len(network.state_dict()) - 2
    other = build(OPTIONS.model_copy(update={"seed": 3}), 2)
    other.load_state_dict(state)
    image = torch.randn(1, 3, 64, 64)
    one, same = (n.eval().detect(image, [(64, 64)])[0] for n in (network, other))
    assert torch.equal(one.boxes, same.boxes) and torch.equal(one.masks, same.masks)
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({k: v for k, v in state.items() if not k.startswith("iou_head.")})


def test_the_iou_head_teaches_the_detector_nothing(network):
    network.train().zero_grad()
    torch.manual_seed(0)
    network(torch.randn(1, 3, 64, 64), [OBJECTS])["iou"].backward()
    taught = {n.split(".")[0] for n, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert taught <= {"iou_head"}


def assert_boxes_come_from(predictor, part):
    """The box head's layer of each detection is the one that its class was predicted from."""
    with torch.inference_mode():
        scores = predictor(part.box_hidden)[0].float().softmax(1)
    assert torch.allclose(scores[torch.arange(len(part.labels)), part.labels], part.confidence, atol=1e-5)


def test_detections_carry_what_predictions_need(network):
    sizes = [(64, 96), (60, 80)]
    torch.manual_seed(0)
    for part, (height, width) in zip(network.eval().detect(torch.randn(2, 3, 64, 96), sizes), sizes, strict=True):
        n = len(part.boxes)
        assert 0 < n <= 12
        assert part.masks.shape == (n, 28, 28)
        assert part.roi_features.shape == (n, 64, 14, 14)
        assert part.hidden.shape == (n, 256)
        assert_boxes_come_from(network.box_predictor, part)
        assert ((part.predicted_iou > 0) & (part.predicted_iou < 1)).all()
        assert set(part.labels.tolist()) <= {1, 2}
        assert (part.boxes.amax(0) <= torch.tensor([width, height, width, height])).all()
