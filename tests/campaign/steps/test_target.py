"""The loop under the policy of a target, from the first question to the export with its promise."""

import json
import shutil

import numpy as np
import pytest

from campaign.certification.promise import digest_of
from campaign.derived.answered import answered
from campaign.derived.dataset import final_masks, obtained
from campaign.derived.promises import newest_attempt, standing
from campaign.derived.selection import round_selection
from campaign.derived.status import status
from campaign.pages.promises import go_on_promising
from campaign.records.page import PageKind, is_promise
from campaign.records.verdict import Verdict
from campaign.search.selection import NONE
from campaign.steps.export import export_campaign
from campaign.steps.propagate import finish_round
from campaign.steps.replay import replay
from campaign.store import Store
from ml_backend.mask_ids import is_heldout
from tests.campaign.cli.builders import campaign
from tests.campaign.target_builders import Truth, answer, finish, target_store, turn

IMAGES = 16  # of the campaign that is finished: enough that not every mask is asked about


@pytest.fixture(scope="module")
def truth():
    return Truth(IMAGES)


@pytest.fixture(scope="module")
def finished_folder(tmp_path_factory, truth):
    store = target_store(tmp_path_factory.mktemp("finished") / "a", images=IMAGES, price=2.0)
    finish(store, Truth(IMAGES))
    store.engine.dispose()
    return store.folder


@pytest.fixture
def finished(tmp_path, finished_folder):
    shutil.copytree(finished_folder, tmp_path / "finished")
    return Store.open(tmp_path / "finished")


def end(store):
    store.rounds.update(1, stage="propagate")
    finish_round(store, 1)


def test_a_promise_is_said_where_label_studio_is_away(finished):
    done = campaign("certify", finished.folder, "--json")
    said = json.loads(done.stdout)
    assert done.returncode == 0 and said["met"] and "label_studio.url" in said["unknown"]


def precision(store, truth):
    ids = final_masks(store).mask_id.tolist()
    return sum(map(truth, ids)) / len(ids)


def test_what_was_asked_for_is_promised_and_delivered(finished, truth, tmp_path):
    promise = standing(finished).promise
    assert promise.met and promise.bound >= 0.9
    assert precision(finished, truth) >= promise.bound
    good = sum(map(truth, range(50 * IMAGES)))
    assert len(final_masks(finished)) >= 0.7 * good, "not by delivering next to nothing"
    end(finished)
    assert finished.rounds.newest().number == 1 and finished.rounds.newest().stage == "done"
    export_campaign(finished, tmp_path / "export.json")
    content = json.loads((tmp_path / "export.json").read_text())
    told, ids = content["info"]["promise"], [a["attributes"]["mask_id"] for a in content["annotations"]]
    assert told["met"] and told["masks"] == len(ids) and told["digest"] == digest_of(np.array(ids))
    assert told["questions"] == finished.questions.count() and told["missing"] is None
    state = status(finished)
    assert state["promise"] == told and state["masks"] == len(ids)
    assert state["answered"] == state["questions"] - sum(verdict == -1 for verdict in _open(finished)), (
        "pages that lie open when it ends are all that is not answered"
    )


def _open(store):
    return answered(store).rows["verdict"].tolist()


def test_no_mask_is_asked_about_twice_and_gold_is_hidden_among_draws(finished):
    asked = [q.mask_id for q, p in finished.questions.rows()]
    assert len(asked) == len(set(asked))
    kinds = {p.kind for p in finished.pages.rows()}
    assert any(map(is_promise, kinds)) and kinds <= {PageKind.VERIFY, "promise1"}
    assert finished.questions.count_gold("promise1") > 0


def test_masks_voted_down_are_not_delivered_and_those_voted_yes_are(finished):
    ids = set(final_masks(finished).mask_id.tolist())
    now = standing(finished)
    rows = answered(finished).rows
    no = set(rows["mask"][np.isin(rows["verdict"], (Verdict.NO, Verdict.UNSURE))].tolist())
    assert not ids & no
    frozen = now.attempt.mask_id[: now.promise.size]
    kept = {int(m) for m in frozen if int(m) not in no}
    assert kept <= ids


def test_killed_in_every_turn_it_asks_and_promises_the_same(tmp_path):
    truth = Truth(8)
    stores = [target_store(tmp_path / name) for name in "ab"]
    finish(stores[0], truth)
    stores[1].key = stores[0].key
    finish(stores[1], truth, kill=True)
    pages = [[(p.kind, p.class_id) for p in s.pages.rows()] for s in stores]
    assert pages[0] == pages[1]
    asked = [sorted(q.mask_id for q, _ in s.questions.rows(gold=True)) for s in stores]
    assert asked[0] == asked[1]
    first, second = (standing(s) for s in stores)
    assert first.promise == second.promise and first.mask_id.tolist() == second.mask_id.tolist()


def test_replay_comes_to_the_same(finished):
    end(finished)
    before = standing(finished)
    assert replay(finished)["changed"] == 0
    again = standing(Store.open(finished.folder))
    assert again.promise == before.promise and again.mask_id.tolist() == before.mask_id.tolist()


def test_what_is_frozen_stays(finished):
    attempt = newest_attempt(finished)
    path = finished.folder / "promises" / "001.npz"
    content = path.read_bytes()
    for _ in range(3):
        turn(finished)
    finished.companions.clear()
    assert path.read_bytes() == content
    assert newest_attempt(finished).mask_id.tolist() == attempt.mask_id.tolist()
    assert (np.diff(attempt.frozen.chance) <= 0).all()


def test_who_passes_everything_promises_nothing(tmp_path):
    store = target_store(tmp_path / "a", quality={"error_accepted": 0.48, "error_limit": 0.5})
    finish(store, lambda mask: True, user=5)
    now = standing(store)
    assert not now.promise.met, "gold shows that this user's yes says nothing"
    assert now.promise.bound < 0.9 and "0.9 is the target" in now.missing()


def test_answers_that_are_withdrawn_are_waited_for_again(tmp_path):
    truth = Truth(8)
    store = target_store(tmp_path / "a", quality={"gold_share": 0.3})
    keys, _ = turn(store)
    for key in keys:
        answer(store, key, lambda mask: not truth(mask), user=5)
    asked = {q.mask_id for q, p in store.questions.rows() if p.key in keys}
    assert asked and (answered(store).of(np.array(sorted(asked)), "verdict") == NONE).all()
    for key in keys:
        answer(store, key, truth, user=1)
    finish(store, truth)
    assert standing(store).promise.met and precision(store, truth) >= 0.9


def test_a_withdrawn_yes_leaves_the_set(finished, truth):
    before = standing(finished)
    page = next(p.key for p in finished.pages.rows() if p.kind == "promise1")
    masks = {q.mask_id for q, p in finished.questions.rows(kind="promise1") if p.key == page}
    for user in (2, 3):
        answer(finished, page, lambda mask: is_heldout(mask) and truth(mask), user)
    now = standing(finished)
    assert not masks & set(now.mask_id.tolist()) and masks & set(before.mask_id.tolist())


def test_an_order_of_the_lead_is_reckoned_with_at_its_worst(finished, truth):
    before = standing(finished)
    tree, ids = finished.trees.read(1, 1)
    delivered = set(before.mask_id[~before.voted].tolist())
    sizes = {
        c: len(delivered & set(ids[tree.members(c)].tolist())) for c in range(tree.n, 2 * tree.n - 1)
    }  # fmt: skip
    cluster = max((c for c in sizes if sizes[c] <= 12), key=sizes.get)
    finished.overrides.add(1, 1, cluster, "reject")
    now = standing(finished)
    rejected = delivered & set(ids[tree.members(cluster)].tolist())
    assert rejected and not rejected & set(now.mask_id.tolist())
    assert now.promise.bound < before.promise.bound or now.promise.size != before.promise.size
    assert now.as_dict()["digest"] == digest_of(final_masks(finished).mask_id)
    finished.overrides.add(1, 1, cluster, None)
    assert standing(finished).promise == before.promise


def test_masks_that_the_lead_brings_in_count_as_wrong(finished, truth):
    before = standing(finished)
    tree, ids = finished.trees.read(1, 1)
    known = set(answered(finished).rows["mask"].tolist()) | set(before.mask_id.tolist())
    fresh = {
        c: [i for i in ids[tree.members(c)].tolist() if i not in known] for c in range(tree.n, 2 * tree.n - 1)
    }  # fmt: skip
    cluster = max((c for c in fresh if len(fresh[c]) <= 80), key=lambda c: len(fresh[c]))
    finished.overrides.add(1, 1, cluster, "accept")
    now = standing(finished)
    brought = set(now.mask_id.tolist()) - set(before.mask_id.tolist())
    assert brought and brought <= set(fresh[cluster])
    assert not now.promise.met or now.promise.size < before.promise.size


def test_a_promise_that_was_undone_is_made_again_with_less_error(finished, truth):
    end(finished)
    assert go_on_promising(finished) == 0, "one that stands is left as it is"
    tree, _ = finished.trees.read(1, 1)
    finished.overrides.add(1, 1, int(tree.root), "accept")
    undone = standing(finished)
    assert not undone.promise.met and len(undone.brought)
    waiting = go_on_promising(finished)
    for _ in range(40):
        if not waiting:
            break
        for page in finished.pages.rows():
            if not finished.answers.rows({page.key}):
                answer(finished, page.key, truth)
        waiting = go_on_promising(finished)
    now = standing(finished)
    assert now.attempt.number >= 2 and set(undone.brought) & set(now.attempt.mask_id)
    assert undone.promise.bound < now.promise.bound <= precision(finished, truth)


def test_a_budget_leaves_questions_for_the_promise(tmp_path):
    truth = Truth(8)
    store = target_store(tmp_path / "a", budget_questions=60)
    finish(store, truth)
    kinds = [store.questions.count("verify"), store.questions.count("promise1")]
    assert sum(kinds) <= 60 and kinds[1] >= 25
    told = standing(store).as_dict()
    assert told["met"] or "target" in told["missing"]


def test_before_the_last_round_nothing_is_frozen(tmp_path):
    truth = Truth(8)
    store = target_store(tmp_path / "a")
    store.settings.rounds.rounds = 2
    finish(store, truth)
    assert newest_attempt(store) is None and status(store)["promise"]["sentence"] == "precision not promised yet"
    masks = obtained(store, 1)
    chosen = round_selection(store, 1)
    assert set(masks.mask_id.tolist()) <= set(chosen.columns.mask_id[chosen.delivered].tolist())
    end(store)
    assert store.rounds.newest().number == 2
