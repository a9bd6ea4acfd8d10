"""Masks listed by their numbers are what they are in memory."""

import numpy as np
import pytest

from campaign.dataset import listed
from campaign.dataset.listed import ListedMasks
from campaign.dataset.propagation import drop_duplicates
from campaign.records.dataset_masks import DatasetMasks
from tests.campaign.dataset.builders import dataset


def squares(n, seed=0):
    """Masks of few places on few images, so that many overlap; ids and images in no order."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((n, 20, 30), np.uint8)
    for mask, (x, y) in zip(masks, rng.integers(0, 12, (n, 2)), strict=True):
        mask[y : y + 8, x : x + 8] = 1
    found = dataset(list(masks), image=rng.integers(1, 9, n), class_id=rng.integers(1, 3, n))
    return found.select(rng.permutation(n))


def same(one: DatasetMasks, other: DatasetMasks) -> bool:
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in DatasetMasks.COLUMNS)


def test_parts_and_selections_read_what_they_list():
    masks = squares(40)
    parts = [ListedMasks.of(masks.select(slice(0, 15))), ListedMasks.of(masks.select(slice(15, 40)))]
    whole = ListedMasks.concatenate(parts)
    assert same(whole.read(), masks) and whole.score.tolist() == masks.score.tolist()
    rows = np.random.default_rng(1).permutation(40)[:23]
    chosen = whole.select(rows)
    assert same(chosen.read(), masks.select(rows)) and chosen.image_id.tolist() == masks.image_id[rows].tolist()
    assert same(DatasetMasks.concatenate(list(chosen.chunks(5))), masks.select(rows))
    moved = chosen.on_images(chosen.image_id + 100)
    assert moved.read(slice(3, 9)).image_id.tolist() == (masks.image_id[rows[3:9]] + 100).tolist()
    assert len(ListedMasks.concatenate([])) == len(ListedMasks.of(DatasetMasks.empty()).without_duplicates(0.5)) == 0


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_duplicates_go_whatever_the_portions(monkeypatch, piece):
    monkeypatch.setattr(listed, "PIECE", piece)
    masks = squares(120)
    left = ListedMasks.of(masks).without_duplicates(0.5)
    assert same(left.read(), drop_duplicates(masks, 0.5)) and 0 < len(left) < 120
    # A round that ended half has its masks in the dataset and as its own.
    twice = ListedMasks.concatenate([ListedMasks.of(masks), ListedMasks.of(masks)]).without_duplicates(0.5)
    assert same(twice.read(), left.read())


def test_portions_are_of_whole_images(monkeypatch):
    monkeypatch.setattr(listed, "PIECE", 10)
    masks, seen = squares(120), []
    source = ListedMasks.of(masks)

    def fetch(rows):
        seen.append(masks.image_id[rows])
        return masks.select(rows)

    ListedMasks(*(getattr(source, name) for name in listed._OUTLINE), fetch=fetch).without_duplicates(0.5)
    assert len(seen) > 3 and sum(len(np.unique(images)) for images in seen) == len(np.unique(masks.image_id))
