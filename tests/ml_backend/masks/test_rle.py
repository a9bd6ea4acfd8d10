"""Run lengths: what pycocotools wrote is read back exactly, in whole and in part."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as mask_util

from ml_backend.masks.rle import decode_window, run_lengths

SHAPES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(arrays(np.bool_, SHAPES))
@settings(max_examples=200, deadline=None)
def test_the_whole_window_is_the_mask(mask):
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    height, width = mask.shape
    assert run_lengths(rle["counts"]).sum() == height * width
    assert (decode_window(rle, 0, 0, width, height) == mask).all()


@given(arrays(np.bool_, SHAPES), st.integers(-9, 30), st.integers(-9, 30), st.integers(1, 30), st.integers(1, 30))
@settings(max_examples=200, deadline=None)
def test_a_window_is_that_part_of_the_mask_and_nothing_outside(mask, x, y, w, h):
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    padded = np.zeros((120, 120), bool)
    padded[20 : 20 + mask.shape[0], 20 : 20 + mask.shape[1]] = mask
    assert (decode_window(rle, x, y, x + w, y + h) == padded[20 + y : 20 + y + h, 20 + x : 20 + x + w]).all()


@pytest.mark.parametrize("counts", [b"\x00", b"~~~", b"0P", "é".encode()])
def test_other_bytes_are_refused(counts):
    with pytest.raises(ValueError, match="expected"):
        run_lengths(counts)
