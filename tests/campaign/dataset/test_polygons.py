"""Polygons of masks: exact where simplifying would cost, with holes and parts."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util

from campaign.dataset.polygons import LEAST, SIMPLE, Outline, PolygonLoss, flat, joined, outline, signed_area, trace
from tests.campaign.dataset.builders import ring_in_two_parts


def encode(mask):
    return mask_util.encode(np.asfortranarray(mask, np.uint8))


def drawn(rings, height, width):
    return mask_util.decode(mask_util.merge(mask_util.frPyObjects(flat(rings), height, width)))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), single=st.booleans(), share=st.floats(0.05, 0.95))
def test_any_mask_keeps_its_parts_and_holes(seed, single, share):
    rng = np.random.default_rng(seed)
    mask = (rng.random((9, 11)) < share).astype(np.uint8)
    mask[rng.integers(9), rng.integers(11)] = 1
    found = outline(encode(mask), single)
    assert found.iou >= SIMPLE and (len(found.rings) == 1 or not single)
    got = drawn(found.rings, 9, 11)
    assert found.iou == pytest.approx((got & mask).sum() / (got | mask).sum())
    # Not simplified, it is the mask.
    exact = joined(trace(mask.astype(bool)), single)
    assert np.array_equal(drawn(exact, 9, 11), mask)


def test_rings_go_round_parts_and_holes():
    rings = trace(ring_in_two_parts().astype(bool))
    assert sorted(signed_area(r) for r in rings) == [-36, 27, 144]
    assert all(len(r) == 4 for r in rings)
    assert len(outline(encode(ring_in_two_parts())).rings) == 2


def test_a_large_smooth_mask_is_simplified():
    y, x = np.mgrid[:200, :200]
    disk = ((x - 100) ** 2 + (y - 100) ** 2 < 80**2).astype(np.uint8)
    found = outline(encode(disk))
    assert 0.97 <= found.iou < 1 and len(found.rings[0]) < len(trace(disk.astype(bool))[0]) / 3
    assert (drawn(found.rings, 200, 200) != disk).mean() < 0.01


def test_what_polygons_lose_is_counted():
    loss = PolygonLoss()
    assert loss.add(7, Outline([], 1.0)) and loss.add(8, Outline([], 0.95))
    assert not loss.add(9, Outline([], LEAST - 0.1))
    assert loss.as_dict() == {
        "polygons": 2, "mean_iou": 0.975, "least_iou": 0.95, "no_polygon": [{"mask_id": 9, "iou": pytest.approx(0.8)}],
    }  # fmt: skip
    assert PolygonLoss().as_dict()["mean_iou"] is None
