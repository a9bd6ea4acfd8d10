import numpy as np
import pytest
import torch
from pycocotools import mask as mask_util

from ml_backend.detectors.shared.device_pasting import chunks, edges
from ml_backend.masks.pasting import edges_rle, full_mask, paste, window_rle
from tests.ml_backend.detectors.tensors import Largest, blobs

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
@pytest.mark.parametrize("values", [1, 1500, 1 << 24])
def test_run_lengths_are_those_of_masks_pasted_one_by_one(cells, values, device):
    masks, height, width = blobs(len(BOXES), cells), 60, 100
    found = edges(masks.to(device), torch.tensor(BOXES, device=device), height, width, values)
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


@pytest.mark.parametrize("cells", [7, 224])
@pytest.mark.parametrize("values", [1, 10**4, 10**5, 10**9])
def test_chunks_hold_every_row_once_and_stay_small(cells, values):
    sizes = np.random.default_rng(0).integers(0, 60, (200, 2))
    found = chunks(sizes, cells, values)
    assert sorted(np.concatenate(found).tolist()) == np.flatnonzero((sizes > 0).all(1)).tolist()
    for rows in found:
        w, h = sizes[rows].max(0)
        pixels, weights = len(rows) * w * h, len(rows) * (w + h) * cells
        assert len(rows) == 1 or pixels + weights <= values
        assert pixels <= 2 * (sizes[rows] + cells).prod(1).sum()


def test_few_large_masks_do_not_make_small_ones_large():
    sizes = np.array([[10, 10]] * 50 + [[400, 400]] * 2)
    assert [rows.tolist() for rows in chunks(sizes, 28, 1 << 24)] == [list(range(50)), [50, 51]]


def test_pasting_is_exact_whatever_the_network_computes_in(device):
    masks, boxes = blobs(len(BOXES), 28).to(device), torch.tensor(BOXES, device=device)
    plain = edges(masks, boxes, 60, 100)
    with torch.autocast(device, torch.bfloat16):
        mixed = edges(masks, boxes, 60, 100)
    assert all(np.array_equal(a, b) for a, b in zip(plain, mixed, strict=True))


def test_memory_follows_the_chunk_and_not_the_image(device):
    """300 masks of a 4000x3000 image, one over all of it: as whole images of bytes they would be 3.6 GB."""
    count, rng = 300, np.random.default_rng(0)
    corner = rng.uniform(0, [3700, 2700], (count, 2))
    boxes = torch.tensor(np.concatenate([corner, corner + rng.uniform(20, 120, (count, 2))], 1), dtype=torch.float32)
    masks, boxes = blobs(count, 28).to(device), boxes.to(device)
    with Largest() as largest:
        found = edges(masks[1:], boxes[1:], 3000, 4000, 1 << 20)
    assert largest.bytes <= 8 << 20
    boxes[0] = boxes.new_tensor([0.0, 0.0, 4000.0, 3000.0])
    with Largest() as largest:
        found = edges(masks, boxes, 3000, 4000, 1 << 20) + found
    assert largest.bytes <= 4 * 4000 * 3000
    areas = [int((places[1::2] - places[0::2]).sum()) for places in found]
    assert min(areas) > 0
    assert max(areas) == areas[0] > 1_000_000


@pytest.mark.parametrize("tall", [False, True])
def test_memory_follows_the_chunk_for_long_thin_masks(tall, device):
    """Weights of 60 masks of 4000x13 pixels, all at once, would be 205 MiB."""
    low = torch.arange(60.0, device=device)[:, None] * 40
    zero = torch.zeros_like(low)
    boxes = torch.cat([low, zero, low + 13, zero + 4000] if tall else [zero, low, zero + 4000, low + 13], 1)
    size = (4000, 3000) if tall else (3000, 4000)
    masks = blobs(60, 224).to(device)
    with Largest() as largest:
        found = edges(masks, boxes, *size, 1 << 22)
    assert largest.bytes <= 4 << 22
    assert len(found) == 60
    for row in (0, 59):
        expected = window_rle(*paste(masks[row].cpu().numpy(), boxes[row].cpu().numpy(), *size), *size)
        assert edges_rle(found[row], *size) == expected
