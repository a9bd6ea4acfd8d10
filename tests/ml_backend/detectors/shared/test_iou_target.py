import numpy as np
import pytest
import torch

from ml_backend.detectors.shared.iou_target import best_iou
from ml_backend.masks.pasting import full_mask, paste
from tests.ml_backend.detectors.tensors import Largest, blobs


def reference(masks, boxes, true):
    """Whole images, one pair at a time."""
    result = np.zeros(len(masks))
    height, width = true.shape[1:]
    for row, (mask, box) in enumerate(zip(masks.numpy(), boxes.numpy(), strict=True)):
        final = full_mask(*paste(mask, box, height, width), height, width)
        for one in true.numpy().astype(bool):
            result[row] = max(result[row], (final & one).sum() / max((final | one).sum(), 1))
    return result


def scene(height, width, objects, masks, cells, seed):
    """True masks that show in an image or crop, boxes around them, and masks of boxes near them or anywhere."""
    rng = np.random.default_rng(seed)
    true, boxes = [], []
    while len(true) < objects:
        corner, side = rng.uniform(-20, [width, height]), rng.uniform(4, 60, 2)
        window, x, y = paste(blobs(1, 24, len(true))[0].numpy(), np.r_[corner, corner + side], height, width)
        if window.any():
            true.append(full_mask(window, x, y, height, width))
            rows, columns = np.flatnonzero(true[-1].any(1)), np.flatnonzero(true[-1].any(0))
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    true = torch.tensor(np.reshape(true, (objects, height, width))).to(torch.uint8)
    boxes = torch.tensor(np.reshape(boxes, (objects, 4)), dtype=torch.float32)
    low = rng.uniform(-30, [width + 10, height + 10], (masks, 2))
    found = torch.tensor(np.concatenate([low, low + rng.uniform(1, 80, (masks, 2))], 1), dtype=torch.float32)
    near = rng.random(masks) < 0.7 if objects else np.zeros(masks, bool)
    chosen = rng.integers(max(objects, 1), size=int(near.sum()))
    found[near] = boxes[chosen] + torch.tensor(rng.normal(0, 2, (len(chosen), 4)), dtype=torch.float32)
    return blobs(masks, cells, seed), found, true, boxes


@pytest.mark.parametrize("values", [1, 30_000, 1 << 24])
@pytest.mark.parametrize(
    ("height", "width", "objects", "masks", "cells"),
    [(64, 64, 5, 24, 28), (100, 37, 12, 40, 56), (37, 100, 1, 9, 224), (256, 256, 30, 24, 28)],
)
def test_it_is_that_of_whole_images_one_by_one(height, width, objects, masks, cells, values, device):
    inputs = scene(height, width, objects, masks, cells, seed=height + objects)
    expected = reference(*inputs[:3])
    assert (expected > 0.5).any() and (expected == 0).any()
    found = best_iou(*(t.to(device) for t in inputs), values)
    assert (found.device.type, found.dtype) == (device, torch.float32)
    assert found.cpu().numpy() == pytest.approx(expected, abs=2e-3)


BOX = [10.0, 10.0, 30.0, 30.0]
FULL, LEFT = (10, 10, 30, 30), (10, 10, 20, 30)


@pytest.mark.parametrize(
    ("cells", "box", "true", "expected"),
    [
        pytest.param("all", BOX, [FULL], 1.0, id="the same"),
        pytest.param("left", BOX, [LEFT], 1.0, id="the same part of the box"),
        pytest.param("all", BOX, [LEFT], 0.5, id="twice as large"),
        pytest.param("all", BOX, [(12, 12, 28, 28)], 256 / 400, id="inside"),
        pytest.param("all", BOX, [(10, 10, 50, 30)], 0.5, id="reaching out of the box"),
        pytest.param("none", BOX, [FULL], 0.0, id="an empty mask"),
        pytest.param("all", BOX, [(40, 40, 60, 60)], 0.0, id="elsewhere"),
        pytest.param("left", BOX, [FULL, LEFT], 1.0, id="not that whose box fits best"),
        pytest.param("all", [-10.0, -10.0, 10.0, 10.0], [(0, 0, 10, 10)], 1.0, id="what a crop leaves of it"),
        pytest.param("all", [54.0, 0.0, 84.0, 10.0], [(54, 0, 64, 10)], 1.0, id="over the far side"),
        pytest.param("all", [70.0, 0.0, 90.0, 10.0], [(54, 0, 64, 10)], 0.0, id="outside"),
        pytest.param("all", BOX, [], 0.0, id="nothing true"),
    ],
)
def test_of_rectangles(cells, box, true, expected, device):
    mask = torch.full((1, 40, 40), 0.1, device=device)
    mask[:, :, : {"all": 40, "left": 20, "none": 0}[cells]] = 0.9
    masks = torch.zeros((len(true), 64, 64), dtype=torch.uint8, device=device)
    for one, (x0, y0, x1, y1) in zip(masks, true, strict=True):
        one[y0:y1, x0:x1] = 1
    boxes = torch.tensor(true, dtype=torch.float32, device=device).reshape(-1, 4)
    found = best_iou(mask, torch.tensor([box], device=device), masks, boxes)
    assert found.tolist() == pytest.approx([expected])


def test_no_masks(device):
    nothing = torch.zeros((0, 28, 28), device=device), torch.zeros((0, 4), device=device)
    true = torch.ones((1, 64, 64), dtype=torch.uint8, device=device)
    assert best_iou(*nothing, true, torch.tensor([[0.0, 0.0, 64.0, 64.0]], device=device)).shape == (0,)


def test_memory_follows_the_chunk(device):
    """400 masks among 60 objects: the true masks take 2.4 MB, the windows of all pairs more than 8 MB."""
    masks, boxes, true, true_boxes = (t.to(device) for t in scene(200, 200, 60, 400, 28, seed=0))
    found = []
    for values, least, most in ((1 << 18, 0, true.numel()), (1 << 26, 8 << 20, 4 << 26)):
        with Largest() as largest:
            found.append(best_iou(masks, boxes, true, true_boxes, values))
        assert least <= largest.bytes <= most
    assert torch.allclose(*found)
