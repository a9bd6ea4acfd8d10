"""Columns of a round: worked out part by part they are those of all masks together."""

import numpy as np
import pytest
from PIL import Image

from campaign.derived import columns
from campaign.derived.columns import FeatureRows, RoundColumns
from campaign.search.rivals import COVERED, overlaps_of
from campaign.search.verifier import Projection, mask_inputs
from campaign.settings import CampaignSettings
from campaign.store import Store
from ml_backend.masks.coco import CocoDataset, ImageRecord
from tests.campaign.target_builders import CLASSES, hard_predictions

IMAGES, SHARDS = 8, 4


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Eight images of 50 masks in four shards, the masks of both classes in trees but for a few."""
    folder = tmp_path_factory.mktemp("columns")
    Image.new("RGB", (200, 200)).save(folder / "a.png")
    pool = CocoDataset([ImageRecord(1, "a.png", 200, 200, folder / "a.png")], CLASSES)
    made = Store.create(folder / "c", CampaignSettings(name="t"), {"pool": pool})
    made.rounds.start(1, "verify")
    masks, _ = hard_predictions(IMAGES, 0)
    length = len(masks) // SHARDS
    for number in range(SHARDS):
        made.masks.save_shard(1, "pool", number, masks.select(slice(number * length, (number + 1) * length)), 2, 0.0)
    stored = made.masks.predictions(1, "pool")
    for class_id in CLASSES:
        made.trees.save(1, class_id, stored.mask_id[stored.class_id == class_id][3:], 0, {})
    return made


@pytest.mark.parametrize("part", [1, 150, 1 << 16])
def test_columns_and_inputs_are_those_of_all_masks_together(store, part, monkeypatch):
    monkeypatch.setattr(columns, "PART", part)
    store.views.drop()
    view = RoundColumns(store)
    found, inputs = view.of_round(1), view.inputs(1).pool
    masks = store.masks.read(np.sort(np.concatenate([store.trees.mask_ids(1, c) for c in CLASSES])))
    overlaps = overlaps_of(masks)
    first, second = overlaps.rivals(store.settings.rounds.dedupe_iou, COVERED)
    assert len(first) > 10
    assert np.array_equal(found.pairs[0], first) and np.array_equal(found.pairs[1], second)
    for name, want in (("mask_id", masks.mask_id), ("class_id", masks.class_id), ("image", masks.image_id)):
        assert np.array_equal(getattr(found, name), want)
    features = FeatureRows(store, masks.mask_id)
    want = mask_inputs(masks, overlaps, Projection.learn(features, store.settings.seed).apply(features))
    assert np.array_equal(inputs.select(slice(None)).inputs, want.inputs, equal_nan=True)
    some = np.array([7, 3, 90])
    assert np.array_equal(inputs.select(some).inputs, want.inputs[some], equal_nan=True)
    assert np.array_equal(inputs.class_id, want.class_id) and np.array_equal(inputs.image, want.image)
