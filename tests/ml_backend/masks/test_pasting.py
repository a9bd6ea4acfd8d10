import numpy as np
import pytest
from pycocotools import mask as mask_util

from ml_backend.masks.pasting import full_mask, paste, window_rle


def ellipse(side=28):
    at = (np.arange(side) + 0.5) / side * 2 - 1
    return (np.clip((1 - (at[None] ** 2 + at[:, None] ** 2)) * 8 + 0.5, 0, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("mask", "x", "y"),
    [
        (np.ones((3, 5), bool), 2, 1),
        (np.ones((20, 30), bool), 0, 0),
        (np.ones((20, 4), bool), 3, 0),
        (np.eye(6, dtype=bool), 0, 0),
        (np.array([[1, 0, 1], [0, 0, 0], [1, 1, 1]], bool), 27, 17),
        (np.array([[0, 0], [0, 1]], bool), 28, 18),
        (np.random.default_rng(0).random((20, 30)) > 0.5, 0, 0),
        (np.zeros((4, 4), bool), 3, 3),
        (np.zeros((0, 0), bool), 0, 0),
    ],
    ids=["box", "everything", "whole columns", "diagonal", "hole", "last pixel", "noise", "nothing", "no window"],
)
def test_run_lengths_equal_those_of_the_whole_image(mask, x, y):
    whole = full_mask(mask, x, y, 20, 30)
    expected = mask_util.encode(np.asfortranarray(whole.astype(np.uint8)))["counts"]
    assert window_rle(mask, x, y, 20, 30) == expected


@pytest.mark.parametrize(
    ("box", "least"),
    [
        ((10, 20, 90, 70), 0.97),
        ((10.4, 20.6, 38.3, 44.1), 0.97),
        ((-30, -10, 50, 60), 0.97),
        ((170, 80, 230, 130), 0.97),
        ((50, 50, 56, 57), 0.93),
    ],
    ids=["large", "between pixels", "over the corner", "over the far corner", "small"],
)
def test_area_and_middle_of_an_ellipse(box, least):
    window, x, y = paste(ellipse(), np.array(box), 100, 200)
    whole = full_mask(window, x, y, 100, 200)
    rows, columns = np.mgrid[:100, :200] + 0.5
    x0, y0, x1, y1 = box
    true = ((columns - (x0 + x1) / 2) / ((x1 - x0) / 2)) ** 2 + ((rows - (y0 + y1) / 2) / ((y1 - y0) / 2)) ** 2 <= 1
    assert (whole & true).sum() / (whole | true).sum() >= least


def test_one_cell_per_pixel_is_copied():
    bitmap = np.random.default_rng(1).random((9, 12)) > 0.5
    window, x, y = paste(bitmap, np.array([5, 3, 17, 12]), 40, 40)
    assert (x, y) == (5, 3)
    assert np.array_equal(window, bitmap)


def test_a_box_outside_the_image_gives_nothing():
    window, _, _ = paste(ellipse(), np.array([300, 10, 320, 30]), 100, 200)
    assert window.size == 0
