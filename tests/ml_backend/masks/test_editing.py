"""Masks to be corrected: cut out and put back exactly, wherever in the image they lie."""

import io

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from ml_backend.errors import InputError
from ml_backend.masks.brush import encode_brush
from ml_backend.masks.editing import cut_image, edit_prediction, edit_window, edited_mask, painted_masks, whole_image

HEIGHT, WIDTH = 90, 120


def mask_at(x: int, y: int, w: int, h: int) -> np.ndarray:
    """A box with a hole and a second part."""
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[y : y + h, x : x + w] = True
    mask[y + h // 2, x + w // 2] = False
    mask[min(y + h + 3, HEIGHT - 1), x] = True
    return mask


def encode(mask: np.ndarray) -> dict:
    return mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))


def brush(mask: np.ndarray, label: str = "disc", **more) -> dict:
    size = {"original_height": mask.shape[0], "original_width": mask.shape[1]}
    value = {"format": "rle", "rle": encode_brush(mask), "brushlabels": [label]}
    return {"id": "r", "from_name": "mask", "type": "brushlabels", **size, "value": value, **more}


@pytest.mark.parametrize("box", [(50, 40, 20, 9), (0, 0, 5, 5), (110, 80, 10, 10), (2, 2, 100, 80), (60, 50, 1, 1)])
def test_a_prediction_that_is_submitted_untouched_is_the_mask(box):
    mask = mask_at(*box)
    rle = encode(mask)
    window = edit_window(mask_util.toBbox(rle), WIDTH, HEIGHT)
    x0, y0, x1, y1 = window
    assert 0 <= x0 < x1 <= WIDTH and 0 <= y0 < y1 <= HEIGHT
    result = edit_prediction(rle, window, "disc", "v1")["result"]
    assert (mask_util.decode(edited_mask(result, window, HEIGHT, WIDTH)) == mask).all()


def test_the_window_has_context_around_the_mask():
    x0, y0, x1, y1 = edit_window((50, 40, 20, 10), WIDTH, HEIGHT)
    assert (x0, y0, x1, y1) == (35, 25, 85, 65)


def test_strokes_in_several_regions_are_one_mask():
    window = (10, 20, 40, 60)
    first, second = np.zeros((40, 30), bool), np.zeros((40, 30), bool)
    first[:5], second[10:, 3] = True, True
    whole = mask_util.decode(edited_mask([brush(first), brush(second)], window, HEIGHT, WIDTH)).astype(bool)
    assert (whole[20:60, 10:40] == (first | second)).all() and whole.sum() == (first | second).sum()


@pytest.mark.parametrize("verdict", ["no such object", "unsure"])
def test_a_verdict_against_the_mask_gives_none(verdict):
    choice = {"from_name": "verdict", "type": "choices", "value": {"choices": [verdict]}}
    assert edited_mask([brush(np.ones((40, 30), bool)), choice], (10, 20, 40, 60), HEIGHT, WIDTH) is None


def test_a_mask_erased_to_nothing_gives_none():
    assert edited_mask([brush(np.zeros((40, 30), bool))], (10, 20, 40, 60), HEIGHT, WIDTH) is None
    assert edited_mask([], (10, 20, 40, 60), HEIGHT, WIDTH) is None


@pytest.mark.parametrize(
    "region",
    [brush(np.ones((40, 31), bool)), brush(np.ones((40, 30), bool)) | {"value": {"rle": [1, 2, 3]}}],
)
def test_a_region_of_another_size_or_shape_is_refused(region):
    with pytest.raises(InputError, match="region 'r': expected"):
        edited_mask([region], (10, 20, 40, 60), HEIGHT, WIDTH)


def test_painted_regions_keep_their_classes():
    masks = [mask_at(5, 5, 9, 9), mask_at(50, 40, 12, 8)]
    result = [brush(masks[0], "disc"), brush(np.zeros((HEIGHT, WIDTH), bool), "disc"), brush(masks[1], "ring")]
    found = painted_masks(result, HEIGHT, WIDTH)
    assert [name for name, _ in found] == ["disc", "ring"]
    assert all((mask_util.decode(rle) == mask).all() for (_, rle), mask in zip(found, masks, strict=True))


def test_what_is_painted_on_is_the_image_pixel_for_pixel():
    image = np.random.default_rng(0).integers(90, 250, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    part = np.asarray(Image.open(io.BytesIO(cut_image(image, (10, 20, 40, 60)))))
    assert (part == image[20:60, 10:40]).all()
    dark = np.asarray(Image.open(io.BytesIO(whole_image(image // 8))))
    assert dark.shape == image.shape and dark.mean() > 3 * (image // 8).mean()
