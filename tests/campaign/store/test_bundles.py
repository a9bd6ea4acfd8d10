"""Bundles: a class read from them is what the shards say, and they are made anew wherever they are missing."""

import numpy as np
import pytest
from PIL import Image

from campaign.clustering import Tree, linkage
from campaign.settings import CampaignSettings
from campaign.steps.cluster import cluster, linkage_options
from campaign.steps.rounds import due, progress_of, run_step
from campaign.store import Store, bundles
from campaign.store.shards import feature_path
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions
from tests.campaign.builders import CLASSES, predictions

THRESHOLDS = {"k_pr": 0.1, "k_pa": 0.5, "note": "", "curves": None}
SHARDS = 8


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A store whose 160 masks lie in eight shards, the last of them without any, in bundles of at most 50."""
    monkeypatch.setattr(bundles, "MASKS", 50)
    image = tmp_path / "a.png"
    Image.new("RGB", (400, 400)).save(image)
    pool = CocoDataset([ImageRecord(1, "a.png", 400, 400, image)], CLASSES)
    store = Store.create(tmp_path / "c", CampaignSettings(name="t"), {"pool": pool})
    store.rounds.start(1, "cluster")
    store.rounds.update(1, metrics={"thresholds": {str(c): THRESHOLDS for c in CLASSES}})
    masks = predictions()
    masks = masks.select(np.random.default_rng(0).permutation(len(masks)))
    for number in range(SHARDS):
        part = masks.select(slice(number * 23, (number + 1) * 23)) if number < SHARDS - 1 else Predictions.empty()
        store.masks.save_shard(1, "pool", number, part, images=1, seconds=0.0)
    return store


def gather_all(store):
    while steps := [s for s in due(progress_of(store)) if s.name == "gather"]:
        run_step(store, steps[0].name, 1, *steps[0].args)


def same(left: Predictions, right: Predictions, but=()) -> bool:
    names = [name for name in Predictions.COLUMNS if name not in but]
    return all(np.array_equal(getattr(left, n), getattr(right, n), equal_nan=n == "stability") for n in names)


def test_bundles_hold_every_shard_once(store):
    plans = store.bundles.planned(1)
    assert [n for p in plans for n in range(p.first, p.end)] == list(range(SHARDS))
    assert len(plans) == 4 and all(p.masks <= 50 for p in plans)
    gather_all(store)
    assert [s.name for s in due(progress_of(store))] == ["cluster", "cluster"]


@pytest.mark.parametrize("class_id", CLASSES)
def test_a_class_from_bundles_is_that_from_shards(store, class_id):
    gather_all(store)
    want = store.masks.predictions(1, "pool", class_id)
    assert same(store.bundles.read(1, class_id), want)
    light = store.bundles.read(1, class_id, masks=False)
    assert same(light, want, but=("rle",)) and all(rle == b"" for rle in light.rle)


def test_a_class_without_masks_has_none_in_bundles(store):
    gather_all(store)
    assert len(store.bundles.read(1, 7)) == 0


def cut(path):
    path.write_bytes(path.read_bytes()[:-50])


DAMAGE = {
    "one is not made yet": lambda store: store.bundles.path(1, 1).unlink(),
    "one is cut short": lambda store: cut(store.bundles.path(1, 1)),
    "its features are cut short": lambda store: cut(feature_path(store.bundles.path(1, 1))),
    "all are gone": lambda store: store.bundles.drop(1),
    "a shard came after": lambda store: store.masks.save_shard(1, "pool", 9, predictions(), 1, 0.0),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_where_bundles_are_not_whole_the_shards_are_read(store, damage):
    gather_all(store)
    damage(store)
    assert same(store.bundles.read(1, 2), store.masks.predictions(1, "pool", 2))


def test_a_bundle_is_made_anew_where_shards_came_after(store):
    gather_all(store)
    store.masks.save_shard(1, "pool", SHARDS, predictions().select(slice(3)), 1, 0.0)
    made = store.bundles.finished(1, store.bundles.planned(1))
    for number, plan in enumerate(store.bundles.planned(1)):
        assert (number in made) == (plan.end <= SHARDS)
        store.bundles.gather(1, number)
    rows = [(row.first, row.end, row.masks) for row in store.bundles.rows(1)]
    assert rows == [(plan.first, plan.end, plan.masks) for plan in store.bundles.planned(1)]
    assert same(store.bundles.read(1, 1), store.masks.predictions(1, "pool", 1))


def test_trees_are_the_same_from_bundles_and_from_shards(store):
    gather_all(store)
    cluster(store, 1, 1)
    tree, ids = store.trees.read(1, 1)
    shards = store.masks.predictions(1, "pool", 1)
    want = Tree.build(linkage(shards.features, shards.score, linkage_options(store)), shards.score)
    assert np.array_equal(ids, shards.mask_id)
    assert np.array_equal(tree.height, want.height) and np.array_equal(tree.children, want.children)


def test_a_round_whose_first_tree_is_there_gathers_no_more(store):
    cluster(store, 1, 1)
    assert [s.args for s in due(progress_of(store))] == [(2,)]


def test_nothing_is_left_of_bundles_once_they_are_dropped(store):
    gather_all(store)
    assert store.bundles.path(1, 0).exists()
    store.bundles.drop(1)
    assert not store.bundles.path(1, 0).parent.exists() and not store.bundles.rows(1)
