"""Masks that resemble one: by feature, in its class, in others, and among masks whose truth is known."""

import numpy as np
import pytest

from campaign.derived import resemblance
from campaign.derived.resemblance import resembling
from ml_backend.mask_ids import is_heldout
from tests.campaign.builders import gold_store, is_good


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return gold_store(tmp_path_factory.mktemp("alike") / "a")


def features(store, class_id):
    masks = store.masks.predictions(1, "pool", class_id)
    return masks.mask_id, masks.features.astype(np.float32)


def test_neighbours_are_the_nearest_in_feature_space(store):
    ids, own = features(store, 1)
    found = resembling(store, int(ids[3]), 1, 7)
    distance = np.linalg.norm(own - own[3], axis=1)
    assert [n.mask_id for n in found.own] == ids[np.argsort(distance, kind="stable")[1:8]].tolist()
    assert [n.distance for n in found.own] == pytest.approx(np.sort(distance)[1:8].tolist(), rel=1e-3)
    assert all(n.class_id == 1 and is_good(n.mask_id) for n in found.own)


def test_other_classes_and_known_masks_stand_beside(store):
    ids, own = features(store, 1)
    other_ids, others = features(store, 2)
    found = resembling(store, int(ids[3]), 1, 5)
    near = np.argsort(np.linalg.norm(others - own[3], axis=1), kind="stable")[:5]
    assert [n.mask_id for n in found.others] == other_ids[near].tolist()
    assert all(is_heldout(n.mask_id) and n.class_id == 1 for n in found.known) and len(found.known) == 5
    assert all((n.iou >= 0.75) == is_good(n.mask_id) for n in found.known)
    assert found.masks == 160 and found.compared == 80 + 80 + 80


def test_of_many_masks_the_nearest_cells_are_compared(store, monkeypatch):
    ids, own = features(store, 1)
    store.views.drop("cells/")
    monkeypatch.setattr(resemblance, "COMPARED", 30)
    monkeypatch.setattr(resemblance.cells_of, "__defaults__", (10,))
    found = resembling(store, int(ids[3]), 1, 5)
    assert 30 <= found.compared - 80 < 120
    nearest = ids[np.argsort(np.linalg.norm(own - own[3], axis=1), kind="stable")[1:6]].tolist()
    assert len({n.mask_id for n in found.own} & set(nearest)) >= 3
    store.views.drop("cells/")


def test_a_mask_that_is_not_there_has_no_neighbours(store):
    with pytest.raises((KeyError, IndexError, FileNotFoundError)):
        resembling(store, 5, 1, 5)
