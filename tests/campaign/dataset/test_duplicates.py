"""Copies and near duplicates among images, planted among pictures that have nothing in common."""

import io
from functools import partial

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from campaign.dataset.duplicates import Duplicates, Signatures, find_duplicates
from campaign.dataset.near import near_pairs
from campaign.dataset.pictures import SIDE, small_picture

SIZE = 160


def picture(seed):
    """Blobs of several sizes on a gradient, as no other seed draws them."""
    rng = np.random.default_rng(seed)
    layers = [gaussian_filter(rng.normal(size=(SIZE, SIZE, 3)), (s, s, 0)) * s for s in (3, 8, 20)]
    shown = sum(layers) + np.linspace(-0.5, 0.5, SIZE)[:, None, None]
    return (127 + 60 * shown / np.abs(shown).max() * 2).clip(0, 255).astype(np.uint8)


def encoded(pixels, quality):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def resized(pixels, scale):
    return np.asarray(
        Image.fromarray(pixels).resize((round(SIZE * scale), round(SIZE * scale)), Image.Resampling.BICUBIC)
    )


def cropped(pixels, lost, y, x):
    side, first = round(SIZE * (1 - lost)), SIZE * lost
    top, left = round(first * y), round(first * x)
    return pixels[top : top + side, left : left + side]


ORIGINALS = [picture(seed) for seed in range(40)]
SMALL = np.stack([small_picture(p) for p in ORIGINALS])


def test_pictures_that_have_nothing_in_common_are_no_pairs():
    assert near_pairs(SMALL).tolist() == []
    assert near_pairs(SMALL[:1]).tolist() == near_pairs(SMALL[:0]).tolist() == []


@pytest.mark.parametrize(
    "change",
    [
        partial(encoded, quality=90), partial(encoded, quality=40), partial(resized, scale=0.5),
        partial(resized, scale=1.4), partial(cropped, lost=0.03, y=0.5, x=0.5), partial(cropped, lost=0.03, y=0, x=1),
        partial(cropped, lost=0.05, y=0.5, x=0.5), lambda p: encoded(resized(cropped(p, 0.02, 1, 0.5), 0.6), 70),
    ],
    ids=["jpeg 90", "jpeg 40", "half", "1.4 times", "crop", "crop at a corner", "larger crop", "all of it"],
)  # fmt: skip
def test_planted_near_duplicates_are_found_and_nothing_else(change):
    planted = range(0, 40, 2)
    small = np.concatenate([SMALL, [small_picture(change(ORIGINALS[i])) for i in planted]])
    found = {tuple(pair) for pair in near_pairs(small).tolist()}
    wanted = {(i, 40 + n) for n, i in enumerate(planted)}
    assert found <= wanted and len(found) >= 0.9 * len(wanted)


def test_plain_pictures_are_no_near_duplicates():
    assert near_pairs(np.full((5, SIDE, SIDE), 7, np.uint8)).tolist() == []


def test_of_the_same_bytes_the_first_counts_and_groups_are_whole():
    small = np.stack([SMALL[0], SMALL[1], SMALL[0], small_picture(encoded(ORIGINALS[1], 60)), SMALL[0], SMALL[2]])
    digest = np.zeros((6, 16), np.uint8)
    digest[:, 0] = [5, 3, 5, 4, 5, 1]
    found = find_duplicates(Signatures(np.array([10, 11, 12, 13, 14, 15]), digest, small))
    assert found.copy_of == {12: 10, 14: 10} and found.alike.tolist() == [[11, 13]]
    assert found.groups() == {10: 10, 12: 10, 14: 10, 11: 11, 13: 11}
    assert Duplicates({3: 2}, np.array([[2, 1], [5, 4], [4, 1]])).groups() == dict.fromkeys([1, 2, 3, 4, 5], 1)
