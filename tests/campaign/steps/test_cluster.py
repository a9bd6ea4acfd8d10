"""Cluster: one class at a time, whole or not at all."""

import numpy as np
import pytest
from PIL import Image

from campaign.clustering import engine
from campaign.settings import CampaignSettings
from campaign.steps.cluster import cluster
from campaign.store import Store
from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset, ImageRecord
from tests.campaign.builders import CLASSES, predictions

THRESHOLDS = {"k_pr": 0.1, "k_pa": 0.5, "note": "", "curves": None}


@pytest.fixture
def make_store(tmp_path):
    """A store whose masks are detected and not clustered yet: 80 masks of each class."""

    def make(**clustering) -> Store:
        image = tmp_path / "a.png"
        Image.new("RGB", (400, 400)).save(image)
        pool = CocoDataset([ImageRecord(1, "a.png", 400, 400, image)], CLASSES)
        store = Store.create(tmp_path / "c", CampaignSettings(name="t", clustering=clustering), {"pool": pool})
        store.rounds.start(1, "cluster")
        store.rounds.update(1, metrics={"thresholds": {str(c): THRESHOLDS for c in CLASSES}})
        store.masks.save_shard(1, "pool", 0, predictions(), images=1, seconds=0.0)
        return store

    return make


def test_every_mask_of_a_class_is_a_leaf(make_store):
    store = make_store()
    steps = []
    cluster(store, 1, 1, lambda name, done, total: steps.append((name, done, total)))
    tree, mask_ids = store.trees.read(1, 1)
    assert tree.n == 80 and sorted(mask_ids) == sorted(store.masks.predictions(1, "pool", 1).mask_id)
    assert steps and steps[-1][1] == steps[-1][2]
    assert [t.class_id for t in store.trees.rows(1)] == [1]
    assert "clustered 80 masks of cell: exact, cpu" in store.events()[-1].text


def test_a_class_that_is_done_is_left_as_it_is(make_store):
    store = make_store()
    cluster(store, 1, 1)
    before = (store.trees.folder(1, 1) / "tree.json").stat().st_mtime_ns
    cluster(store, 1, 1, lambda *_: pytest.fail("clustered again"))
    assert (store.trees.folder(1, 1) / "tree.json").stat().st_mtime_ns == before


def test_an_interrupted_class_is_made_again_and_the_finished_one_kept(make_store):
    store = make_store()
    cluster(store, 1, 1)

    def interrupt(name, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cluster(store, 1, 2, interrupt)
    assert [t.class_id for t in store.trees.rows(1)] == [1]
    cluster(store, 1, 2)
    assert [t.class_id for t in store.trees.rows(1)] == [1, 2]
    assert store.trees.read(1, 2)[0].n == 80


@pytest.mark.parametrize("engine", ["exact", "approximate"])
def test_the_engine_that_is_set_runs(make_store, engine):
    store = make_store(engine=engine)
    cluster(store, 1, 1)
    assert f": {engine}, " in store.events()[-1].text
    heights = store.trees.read(1, 1)[0].height
    assert np.isfinite(heights).all() and heights.max() > 0


def test_too_little_memory_leaves_nothing_behind(make_store):
    store = make_store(memory_gib=1e-4)
    with pytest.raises(InputError, match="memory: expected at least"):
        cluster(store, 1, 1)
    assert store.trees.rows(1) == []


def test_a_class_too_large_for_an_exact_tree_gets_an_approximate_one_and_the_log_says_so(make_store, monkeypatch):
    monkeypatch.setitem(engine.EXACT_LIMIT, "cpu", 50)
    store = make_store(device="cpu")
    cluster(store, 1, 1)
    assert store.trees.read(1, 1)[0].n == 80
    first, second = (event.text for event in store.events()[-2:])
    assert "clustered 80 masks of cell: approximate, cpu" in first
    assert "cell has more masks than an exact tree is built of here, so its tree is approximate" in second
