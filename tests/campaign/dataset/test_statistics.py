"""Density and position of masks, on a set where they are known."""

import numpy as np
import pytest

from campaign.dataset import statistics
from campaign.dataset.listed import ListedMasks
from campaign.dataset.statistics import Tally, often_of
from tests.campaign.dataset.builders import dataset


def rectangle(x, y, width, height):
    mask = np.zeros((50, 100), np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def tallied(masks, images, length=2):
    listed = ListedMasks.of(masks)
    tally = Tally.of(listed)
    for piece in masks.chunks(length):
        tally.add(piece)
    return tally, tally.shapes(listed, images)


def test_shapes_of_two_classes():
    masks = [rectangle(0, 0, 10, 5), rectangle(40, 20, 20, 10), rectangle(0, 0, 100, 50)]
    tally, found = tallied(dataset(masks, image=[7, 7, 9], class_id=[1, 1, 2]), 3)
    assert tally.sources == {1: {"voted yes": 1, "propagated": 1}, 2: {"voted yes": 1}}
    one = found[1].as_dict()
    assert found[1].per_image.tolist() == [0, 0, 2] and one["masks"] == 2 and one["images_with_masks"] == 1
    assert one["instances_per_image"]["mean"] == pytest.approx(2 / 3, abs=1e-6)
    assert found[1].side.tolist() == pytest.approx([0.1, 0.2]) and found[1].aspect.tolist() == [2, 2]
    assert found[1].centre.tolist() == [[0.05, 0.05], [0.5, 0.5]]
    assert found[2].as_dict()["side_share"] == {"mean": 1.0, "quantiles": [1.0] * 5}
    assert found[2].as_dict()["centre"] == {"mean": [0.5, 0.5], "deviation": [0.0, 0.0]}


def test_nothing_has_no_shapes():
    tally, found = tallied(dataset([]), 1)
    assert found == {} and not tally.sources


def test_of_many_masks_some_are_looked_at(monkeypatch):
    monkeypatch.setattr(statistics, "LOOKED_AT", 40)
    masks = dataset([rectangle(n % 10, 0, 5 + n % 20, 5) for n in range(200)], image=np.arange(200), class_id=1)
    _, found = tallied(masks, 300, 64)
    assert (len(found[1].side), found[1].masks) == (40, 200)
    assert found[1].as_dict()["images_with_masks"] == 200 and 1 < found[1].aspect.mean() < 5


def test_how_many_images_have_so_many_masks():
    assert often_of(np.array([3, 3, 8]), 5).tolist() == [3, 1, 1]
