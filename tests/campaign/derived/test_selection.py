"""What is chosen over all masks of a round follows from the facts alone, in whatever pieces they were read."""

import shutil

import numpy as np
import pytest

from campaign.derived import forests, selection
from campaign.derived import live as live_module
from campaign.derived.answered import answered
from campaign.derived.answers import counted_verdicts
from campaign.derived.columns import round_columns
from campaign.derived.selection import round_selection
from campaign.records.verdict import Verdict
from campaign.search import verifier
from campaign.search.selection import NONE
from campaign.search.verifier import milestone
from campaign.store import Store
from tests.campaign.target_builders import Truth, answer, target_store, turn


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    store = target_store(tmp_path_factory.mktemp("target") / "a", images=4, price=0.3)
    turn(store)
    store.engine.dispose()
    return store.folder


@pytest.fixture
def store(template, tmp_path):
    shutil.copytree(template, tmp_path / "c")
    return Store.open(tmp_path / "c")


@pytest.fixture(scope="module")
def truth():
    return Truth(4)


def seen(store):
    chosen = round_selection(store, 1)
    rows = answered(store).rows
    return (
        chosen.chance.tolist(), chosen.verdict.tolist(), chosen.asked.tolist(), chosen.delivered.tolist(),
        chosen.wanted(0.3)[0].tolist(), rows[["mask", "verdict", "own", "round"]].tolist(),
    )  # fmt: skip


def test_the_fold_in_pieces_equals_one_from_the_beginning(store, truth):
    rng = np.random.default_rng(0)
    for step in range(6):
        keys, _ = turn(store)
        for page in store.pages.rows():
            if page.key in keys or rng.random() < 0.2:
                careless = rng.random() < 0.2
                answer(store, page.key, (lambda m: not truth(m)) if careless else truth, user=1 + int(careless))
        if step % 2:
            store.companions.clear()
        kept = seen(store)
        assert kept == seen(Store.open(store.folder))
        live_module.forget(store)
        assert seen(store) == kept
    rows = answered(store).rows
    known = rows[rows["verdict"] != NONE]
    verdicts = {m: Verdict(v) for m, v in zip(known["mask"].tolist(), known["verdict"].tolist(), strict=True)}
    assert verdicts == counted_verdicts(store)


def test_every_mask_of_the_trees_is_there_once_with_its_rivals(store):
    columns = round_columns(store).of_round(1)
    ids = np.concatenate([store.trees.mask_ids(1, c) for c in store.classes()])
    assert columns.mask_id.tolist() == sorted(ids.tolist())
    first, second = columns.pairs
    assert len(first) and (columns.image[first] == columns.image[second]).all()
    assert (columns.class_id[first] == columns.class_id[second]).all()


def test_of_rivals_one_is_delivered(store, truth):
    chosen = round_selection(store, 1)
    delivered = np.zeros(len(chosen.columns), bool)
    delivered[chosen.delivered] = True
    first, second = chosen.columns.pairs
    assert not (delivered[first] & delivered[second]).any()


def test_verdicts_come_in_at_once_and_fits_at_milestones(store, truth, monkeypatch):
    fitted, grown = [], []
    fit, grow = selection.calibrate, forests.grow
    monkeypatch.setattr(selection, "calibrate", lambda *args: fitted.append(len(args[3])) or fit(*args))
    monkeypatch.setattr(forests, "grow", lambda *args: grown.append(len(args[2])) or grow(*args))
    chance = round_selection(store, 1).chance
    for page in store.pages.rows():
        answer(store, page.key, truth)
    chosen = round_selection(store, 1)
    count = int((chosen.verdict != NONE).sum())
    assert 0 < count < 150 and chosen.chance.tolist() == chance.tolist() and not fitted
    monkeypatch.setattr(verifier, "_FIRST", 10)
    store.companions.clear()
    chosen = round_selection(store, 1)
    assert chosen.chance.tolist() != chance.tolist() and fitted == [milestone(count)] and grown == [20]
    store.companions.clear()
    assert round_selection(store, 1).chance.tolist() == chosen.chance.tolist()
    assert grown == [20], "another process goes on from the snapshot"


def test_masks_voted_down_are_never_delivered_and_those_voted_yes_are(store, truth):
    for page in store.pages.rows():
        answer(store, page.key, truth)
    chosen = round_selection(store, 1)
    delivered = set(chosen.delivered.tolist())
    assert not delivered & set(np.flatnonzero(chosen.verdict == Verdict.NO).tolist())
    yes = set(np.flatnonzero(chosen.verdict == Verdict.YES).tolist())
    assert yes & delivered == set(chosen.selection.kept.tolist()) and len(yes - delivered) < 5


def test_orders_of_the_lead_go_before_chances(store):
    tree, ids = store.trees.read(1, 1)
    before = round_selection(store, 1)
    store.overrides.add(1, 1, int(tree.root), "reject")
    chosen = round_selection(store, 1)
    assert not set(chosen.columns.mask_id[chosen.delivered].tolist()) & set(ids.tolist())
    store.overrides.add(1, 1, int(tree.root), "accept")
    chosen = round_selection(store, 1)
    assert set(ids.tolist()) <= set(chosen.columns.mask_id[chosen.delivered].tolist())
    store.overrides.add(1, 1, int(tree.root), None)
    assert round_selection(store, 1).delivered.tolist() == before.delivered.tolist()


def test_without_held_out_masks_it_asks_by_chance_first(tmp_path, truth):
    store = target_store(tmp_path / "a", images=4)
    for path in (store.folder / "rounds" / "001" / "predictions").glob("heldout*"):
        path.unlink()
    from sqlalchemy import delete

    from campaign.store import models as m

    with store.session() as session:
        session.execute(delete(m.Shard).where(m.Shard.split == "heldout"))
    chosen = round_selection(store, 1)
    rows, _ = chosen.wanted(50.0)
    assert len(rows) == 150 and len(set(rows.tolist())) == 150
