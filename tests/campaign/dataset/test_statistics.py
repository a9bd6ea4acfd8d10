"""Density and position of masks, on a set where they are known."""

import numpy as np
import pytest

from campaign.dataset.statistics import shapes


def test_shapes_of_two_classes():
    box = [[0, 0, 10, 5], [40, 20, 20, 10], [0, 0, 100, 50]]
    found = shapes(
        np.array([1, 1, 2]), np.array([7, 7, 9]), np.array(box), np.array([50, 200, 5000]),
        {7: (100, 50), 8: (100, 50), 9: (100, 50)},
    )  # fmt: skip
    one = found[1].as_dict()
    assert found[1].per_image.tolist() == [2, 0, 0] and one["images_with_masks"] == 1
    assert one["instances_per_image"]["mean"] == pytest.approx(2 / 3, abs=1e-6)
    assert found[1].side.tolist() == pytest.approx([0.1, 0.2]) and found[1].aspect.tolist() == [2, 2]
    assert found[1].centre.tolist() == [[0.05, 0.05], [0.5, 0.5]]
    assert found[2].as_dict()["side_share"] == {"mean": 1.0, "quantiles": [1.0] * 5}
    assert found[2].as_dict()["centre"] == {"mean": [0.5, 0.5], "deviation": [0.0, 0.0]}


def test_nothing_has_no_shapes():
    none = np.zeros(0, np.int64)
    assert shapes(none, none, np.zeros((0, 4)), none, {1: (10, 10)}) == {}
