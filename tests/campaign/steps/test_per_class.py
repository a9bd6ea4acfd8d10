"""The loop where every class has a target of its own: what is drawn for classes, promised of them, and said."""

import json
import shutil

import numpy as np
import pytest

from campaign.certification.promise import digest_of
from campaign.derived.dataset import final_masks
from campaign.derived.promises import newest_attempt, standing
from campaign.derived.status import status
from campaign.pages.promises import go_on_promising
from campaign.report.collection import report_data
from campaign.steps.export import export_campaign
from campaign.steps.propagate import finish_round
from campaign.steps.replay import replay
from campaign.store import Store
from tests.campaign.target_builders import CLASSES, Truth, answer, finish, target_store, turn

IMAGES = 12


@pytest.fixture(scope="module")
def truth():
    return Truth(IMAGES)


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory):
    store = target_store(
        tmp_path_factory.mktemp("finished") / "a", images=IMAGES, price=1.5, precision=0.8, precision_per_class=0.75
    )
    finish(store, Truth(IMAGES))
    store.engine.dispose()
    return store.folder


@pytest.fixture
def finished(tmp_path, finished_folder):
    shutil.copytree(finished_folder, tmp_path / "finished")
    return Store.open(tmp_path / "finished")


def of_class(store, class_id):
    masks = final_masks(store)
    return masks.mask_id[masks.class_id == class_id].tolist()


def test_each_class_is_promised_and_delivered_and_everybody_says_so(finished, truth, tmp_path):
    now = standing(finished)
    assert now.promise.met and now.stop is not None
    assert {name: one.met for name, one in now.classes.items()} == dict.fromkeys(CLASSES.values(), True)
    for class_id, name in CLASSES.items():
        ids = of_class(finished, class_id)
        assert now.classes[name].masks == len(ids)
        assert np.mean([truth(i) for i in ids]) >= 0.75
    assert "each class" in now.sentence() and now.missing() is None
    finished.rounds.update(1, stage="propagate")
    finish_round(finished, 1)
    export_campaign(finished, tmp_path / "export.json")
    said = json.loads((tmp_path / "export.json").read_text())["info"]["promise"]["classes"]
    assert said == status(finished)["promise"]["classes"]
    assert said["cell"] == {
        "masks": len(of_class(finished, 1)), "target": 0.75, "met": True, "precision_at_least": 0.75,
        "draws": now.classes["cell"].draws, "missing": None,
    }  # fmt: skip
    assert "0.75 or more are correct" in report_data(finished).certificate["class dot"]
    assert go_on_promising(finished) == 0, "what stands is left as it is"


def test_replay_comes_to_the_same(finished):
    before = standing(finished)
    finished.rounds.update(1, stage="propagate")
    finish_round(finished, 1)
    assert replay(finished)["changed"] == 0
    again = standing(Store.open(finished.folder))
    assert again.as_dict() == before.as_dict()


def test_masks_that_come_in_undo_the_promise_of_their_class_alone(finished):
    tree, _ = finished.trees.read(1, 1)
    finished.overrides.add(1, 1, int(tree.root), "accept")
    now = standing(finished)
    assert not now.classes["cell"].met and now.classes["dot"].met
    assert "cell" in now.missing() and "dot" not in now.missing().replace("cell", "")
    assert now.as_dict()["classes"]["cell"]["precision_at_least"] is None


def test_a_class_that_is_worse_than_it_looks_has_draws_of_its_own_and_nothing_false_is_said_of_it(tmp_path, truth):
    """Every third mask of one class is wrong that the verifier has no way to know."""

    def right(mask: int) -> bool:
        return truth(mask) and not (mask % 2 and mask % 3 == 0)

    store = target_store(
        tmp_path / "a", images=IMAGES, price=1.5, precision=0.7, precision_per_class=0.75,
        quality={"error_accepted": 0.48, "error_limit": 0.5},
    )  # fmt: skip
    seen_due = False
    for _ in range(200):
        keys, done = turn(store)
        seen_due |= newest_attempt(store) is not None and len(standing(store).due) > 0
        if done:
            break
        for key in keys:
            answer(store, key, right)
    now = standing(store)
    assert seen_due and now.stop is not None
    for class_id, name in CLASSES.items():
        one = now.classes[name]
        ids = of_class(store, class_id)
        assert one.met or name in now.missing()
        assert not one.met or np.mean([right(i) for i in ids]) >= 0.75
    assert now.as_dict()["digest"] == digest_of(final_masks(store).mask_id)


def test_killed_in_every_turn_it_asks_and_promises_the_same(tmp_path):
    truth = Truth(6)
    stores = [target_store(tmp_path / name, images=6, precision=0.8, precision_per_class=0.8) for name in "ab"]
    finish(stores[0], truth)
    stores[1].key = stores[0].key
    finish(stores[1], truth, kill=True)
    asked = [sorted(q.mask_id for q, _ in s.questions.rows(gold=True)) for s in stores]
    assert asked[0] == asked[1]
    assert standing(stores[0]).as_dict() == standing(stores[1]).as_dict()


def test_without_a_target_of_classes_nothing_of_them_is_frozen_or_said(tmp_path):
    truth = Truth(4)
    store = target_store(tmp_path / "a", images=4)
    finish(store, truth)
    now = standing(store)
    assert now.attempt.classes is None and now.classes == {} and now.as_dict()["classes"] == {}
    with np.load(store.folder / "promises" / "001.npz") as stored:
        assert not {"class_id", "other_class", "heldout_class"} & set(stored.files)
