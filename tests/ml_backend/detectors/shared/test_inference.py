from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as mask_util
from torch.nn import functional

from ml_backend.detectors.shared.inference import Tile, central, cut, suppress, tile_spans, tiles
from ml_backend.detectors.shared.records import Detections, most_proposals
from ml_backend.masks.coco import ImageRecord
from tests.ml_backend.detectors.tensors import Largest

RECORD = ImageRecord(1, "a.png", 100, 60, Path("a.png"))


def rectangle(x0: int, y0: int, x1: int, y1: int) -> bytes:
    mask = np.zeros((60, 100), np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    return mask_util.encode(mask)["counts"]


WHOLE = (10, 10, 50, 40)


@pytest.mark.parametrize(
    ("masks", "halves", "kept"),
    [
        pytest.param([], [], [], id="none"),
        pytest.param([WHOLE, (60, 10, 90, 40)], [0, 0], [0, 1], id="apart"),
        pytest.param([WHOLE, (12, 10, 50, 40)], [0, 0], [0], id="double"),
        pytest.param([WHOLE, (10, 10, 22, 40)], [0, 0], [0, 1], id="a smaller object inside another"),
        pytest.param([WHOLE, (10, 10, 22, 40)], [0, 1], [0], id="a part that a tile cut"),
        pytest.param([(10, 10, 22, 40), WHOLE], [1, 0], [1], id="a part with the higher score"),
        pytest.param([(10, 10, 32, 40), (28, 10, 50, 40)], [1, 1], [0, 1], id="two parts that hardly overlap"),
        pytest.param([(10, 10, 40, 40), (22, 10, 50, 40)], [1, 1], [0], id="two parts that are mostly one"),
        pytest.param([(5, 5, 40, 20), WHOLE], [1, 0], [1], id="a part that reaches a little beyond"),
    ],
)
def test_doubles_and_parts_go(masks, halves, kept):
    found = suppress([rectangle(*m) for m in masks], np.array(halves, bool), RECORD, 0.5)
    assert found.tolist() == kept


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


# One of 2x2 tiles of 64 pixels: the lower right one, whose left and upper sides are inside the image.
TILE = Tile(torch.zeros(3, 64, 64), 40, 40, (12.0, 12.0, np.inf, np.inf))


@pytest.mark.parametrize(
    ("box", "is_cut", "is_central"),
    [
        pytest.param((20, 20, 40, 40), False, True, id="inside"),
        pytest.param((0, 20, 40, 40), True, True, id="at the left, where another tile goes on"),
        pytest.param((20, 1, 40, 40), True, True, id="at the top, where another tile goes on"),
        pytest.param((30, 30, 64, 64), False, True, id="at the image's own border"),
        pytest.param((0, 20, 10, 30), True, False, id="another tile's"),
    ],
)
def test_what_a_tile_cuts(box, is_cut, is_central):
    one = torch.zeros(1)
    found = Detections(torch.tensor([box], dtype=torch.float32), one, one, one, one, one, one, one)
    assert cut(found, TILE).tolist() == [is_cut]
    assert central(found, TILE).tolist() == [is_central]


@pytest.mark.parametrize(("height", "width", "tile"), [(420, 420, 210), (1600, 1200, 400)])
def test_tiles_have_no_more_proposals_than_the_whole(height, width, tile):
    whole = most_proposals(height, width)
    tiles = (height // tile) * (width // tile) * most_proposals(tile, tile)
    assert whole <= tiles <= 1.01 * whole


@pytest.mark.parametrize("tile", [64, 100, 1000])
@pytest.mark.parametrize(
    ("height", "width"),
    [(270, 210), (137, 101), (91, 71), (90, 70), (89, 69), (45, 35), (91, 35)],
    ids=["larger", "somewhat larger", "a little larger", "the same", "a little smaller", "smaller", "squeezed"],
)
def test_tiles_are_parts_of_the_whole_scaled_image(height, width, tile, device):
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)).to(device)
    image = image.permute(2, 0, 1)
    whole = functional.interpolate(image.float()[None], size=(height, width), mode="bilinear", antialias=True)[0]
    seen = torch.zeros((height, width), dtype=torch.bool, device=device)
    for part in tiles(image, height, width, tile):
        h, w = part.pixels.shape[1:]
        assert (part.pixels.dtype, part.pixels.device.type) == (torch.float32, device)
        assert h <= tile and w <= tile
        assert (part.pixels - whole[:, part.y : part.y + h, part.x : part.x + w]).abs().max() < 0.02
        seen[part.y : part.y + h, part.x : part.x + w] = True
    assert seen.all()


def test_memory_follows_the_tile_and_not_the_scaled_image(device):
    """600x800 three times as large would be 52 MB in float32."""
    image = torch.zeros((600, 800, 3), dtype=torch.uint8, device=device).permute(2, 0, 1)
    with Largest() as largest:
        count = sum(1 for _ in tiles(image, 1800, 2400, 256))
    assert count > 100
    assert largest.bytes <= 4 * 3 * 90 * 2400
