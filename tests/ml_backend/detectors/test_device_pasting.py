import numpy as np
import pytest
import torch
from pycocotools import mask as mask_util
from torch.utils._python_dispatch import TorchDispatchMode

from ml_backend.detectors.device_pasting import chunks, edges, edges_rle
from ml_backend.pasting import full_mask, paste, window_rle


def blobs(count, side, seed=0):
    """Smooth random masks of `side` cells, without values near the threshold."""
    rng = np.random.default_rng(seed)
    at = (np.arange(side) + 0.5) / side * 2 - 1
    masks = []
    for _ in range(count):
        x, y, radius = rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3), rng.uniform(0.3, 1.2)
        masks.append(1 / (1 + np.exp(12 * (np.hypot(at[None] - x, at[:, None] - y) - radius))))
    return torch.tensor(np.stack(masks), dtype=torch.float32)


BOXES = [
    [10.3, 12.7, 30.1, 25.2],
    [-5.5, -3.0, 20.0, 20.0],
    [80.0, 50.5, 120.0, 90.0],
    [0.0, 0.0, 100.0, 60.0],
    [40.2, 20.1, 43.0, 59.7],
    [50.1, 30.2, 50.4, 30.3],
    [-20.0, 5.0, -3.0, 20.0],
    [99.2, 59.1, 140.0, 99.0],
]


@pytest.mark.parametrize("cells", [7, 56, 224])
@pytest.mark.parametrize("pixels", [1, 1500, 1 << 24])
def test_run_lengths_are_those_of_masks_pasted_one_by_one(cells, pixels):
    masks, height, width = blobs(len(BOXES), cells), 60, 100
    found = edges(masks, torch.tensor(BOXES), height, width, pixels)
    assert len(found) == len(BOXES)
    for mask, box, places in zip(masks.numpy(), np.float32(BOXES), found, strict=True):
        assert edges_rle(places, height, width) == window_rle(*paste(mask, box, height, width), height, width)


def test_runs_over_the_ends_of_columns_are_joined():
    whole = torch.ones((1, 4, 4))
    places = edges(whole, torch.tensor([[2.0, 0.0, 6.0, 10.0]]), 10, 8)[0]
    decoded = mask_util.decode({"size": [10, 8], "counts": edges_rle(places, 10, 8)})
    assert np.array_equal(decoded.astype(bool), full_mask(np.ones((10, 4), bool), 2, 0, 10, 8))
    assert len(edges_rle(places, 10, 8)) == len(mask_util.encode(np.asfortranarray(decoded))["counts"])


def test_nothing():
    assert edges(torch.zeros((0, 7, 7)), torch.zeros((0, 4)), 5, 5) == []
    assert mask_util.area({"size": [5, 6], "counts": edges_rle(np.zeros(0, np.int64), 5, 6)}) == 0


@pytest.mark.parametrize("pixels", [1, 100, 10**4, 10**9])
def test_chunks_hold_every_row_once_and_stay_small(pixels):
    sizes = np.random.default_rng(0).integers(0, 60, (200, 2))
    found = chunks(sizes, pixels)
    assert sorted(np.concatenate(found).tolist()) == np.flatnonzero((sizes > 0).all(1)).tolist()
    for rows in found:
        assert len(rows) == 1 or len(rows) * sizes[rows].max(0).prod() <= pixels


class Largest(TorchDispatchMode):
    """Watches the largest tensor that is made while it is entered, in bytes."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return made


def test_memory_follows_the_chunk_and_not_the_image():
    """300 masks of a 4000x3000 image, one over all of it: as whole images of bytes they would be 3.6 GB."""
    count, rng = 300, np.random.default_rng(0)
    corner = rng.uniform(0, [3700, 2700], (count, 2))
    boxes = torch.tensor(np.concatenate([corner, corner + rng.uniform(20, 120, (count, 2))], 1), dtype=torch.float32)
    masks = blobs(count, 28)
    with Largest() as largest:
        found = edges(masks[1:], boxes[1:], 3000, 4000, 1 << 20)
    assert largest.bytes <= 8 << 20
    boxes[0] = torch.tensor([0.0, 0.0, 4000.0, 3000.0])
    with Largest() as largest:
        found = edges(masks, boxes, 3000, 4000, 1 << 20) + found
    assert largest.bytes <= 4 * 4000 * 3000
    areas = [int((places[1::2] - places[0::2]).sum()) for places in found]
    assert min(areas) > 0
    assert max(areas) == areas[0] > 1_000_000
