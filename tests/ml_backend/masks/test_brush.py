"""Brush RLE: exact both ways, and the same bits as the SDK's own codec."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_studio_sdk.converter import brush as sdk
from pycocotools import mask as mask_util

from ml_backend.masks.brush import decode_brush, encode_brush, encode_brush_rles

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 50), st.integers(1, 50)))


@given(MASKS)
@settings(max_examples=150, deadline=None)
def test_the_round_trip_is_exact_and_the_sdk_reads_it(mask):
    rle = encode_brush(mask)
    assert (decode_brush(rle, *mask.shape) == mask).all()
    read = sdk.decode_rle(rle).reshape(*mask.shape, 4)
    assert (read[..., 3] == mask * 255).all()


@given(MASKS)
@settings(max_examples=150, deadline=None)
def test_a_coco_mask_gives_the_same_bytes(mask):
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_brush_rles([rle]) == [encode_brush(mask)]


@pytest.mark.parametrize("value", [False, True])
def test_an_empty_and_a_full_coco_mask_too(value):
    mask = np.full((7, 9), value)
    mask[3:5] = True
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_brush_rles([rle]) == [encode_brush(mask)]


def test_many_coco_masks_at_once():
    rng = np.random.default_rng(0)
    masks = [np.zeros((300, 500), bool) for _ in range(4)]
    for mask, density in zip(masks[1:], (1e-4, 0.3, 1.0), strict=True):
        mask[40:250, 30:480] = rng.random((210, 450)) < density
    rles = [mask_util.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    assert encode_brush_rles(rles) == [encode_brush(mask) for mask in masks]
    assert encode_brush_rles([]) == []


@given(MASKS)
@settings(max_examples=50, deadline=None)
def test_what_the_sdk_wrote_is_read(mask):
    assert (decode_brush(sdk.mask2rle(mask.astype(np.uint8) * 255), *mask.shape) == mask).all()


def test_soft_edges_count_from_half_opaque_on():
    alpha = np.random.default_rng(0).integers(0, 256, (30, 40)).astype(np.uint8)
    assert (decode_brush(sdk.mask2rle(alpha), 30, 40) == (alpha >= 128)).all()


def test_long_runs_are_split():
    mask = np.zeros((400, 700), bool)
    mask[10:20, 5:9] = True
    assert (decode_brush(encode_brush(mask), 400, 700) == mask).all()


GOOD = encode_brush(np.eye(9, dtype=bool))


@pytest.mark.parametrize(
    ("rle", "size"),
    [(GOOD, (9, 8)), (GOOD[:-3], (9, 9)), ([], (9, 9)), ([300] * 9, (9, 9)), (["a"] * 9, (9, 9)), ([[1]] * 9, (9, 9))],
)
def test_a_malformed_one_is_refused(rle, size):
    with pytest.raises(ValueError, match="brush RLE: expected"):
        decode_brush(rle, *size)
