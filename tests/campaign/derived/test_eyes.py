"""The eyes of a campaign: gold of every IoU, which shows where eyes cut and not who is careless."""

import numpy as np
import pytest

from campaign.derived.eyes import campaign_eyes, eye_figures, gold_ious, gold_table, seen_by_iou
from campaign.derived.gold import gold_supply
from campaign.derived.live import live
from campaign.derived.team import as_json, team
from campaign.pages.gold import GoldPlan
from campaign.pages.instructions import examples
from campaign.store import Store
from ml_backend.mask_ids import is_heldout, row_of
from tests.campaign.builders import add_page, answer, finish, gold_store, is_good, spread_iou, turn

GOLD = {"gold_share": 0.3, "gold_opening": 60}


@pytest.fixture
def store(tmp_path):
    return gold_store(tmp_path / "a", GOLD, iou=spread_iou)


def says(cut):
    """What a user says whose eye cuts there."""
    return lambda mask: spread_iou(row_of(mask)) >= cut - 1e-9 if is_heldout(mask) else is_good(mask)


def answer_all(store, cut, user=7):
    for _ in range(60):
        keys = turn(store)
        if not keys:
            return
        for key in keys:
            answer(store, key, user, says=says(cut))


def test_gold_is_of_every_iou_and_what_is_near_the_threshold_is_marked(store):
    supply = gold_supply(store)
    assert len(supply) == 160 and {round(g.iou, 2) for g in supply} == {
        0.0, 0.3, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0,
    }  # fmt: skip
    assert all(bool(g.truth) == is_good(g.mask_id) for g in supply)
    assert {round(g.iou, 2) for g in supply if g.near} == {0.65, 0.7, 0.75}
    known = gold_ious(store)
    assert known == {g.mask_id: g.iou for g in supply}


def test_tests_and_examples_are_of_clear_gold(store):
    near = {g.mask_id for g in gold_supply(store) if g.near}
    shown = {i for rows in examples(store).values() for ids in rows.values() for i in ids}
    assert shown and not shown & near
    test = GoldPlan(store, wanted=True, near=False)
    drawn = {i for class_id in store.classes() for i in test.take(class_id, 1000)}
    assert drawn and not drawn & near
    pages = {i for class_id in store.classes() for i in GoldPlan(store).take(class_id, 40)}
    assert len(pages & near) >= 20


def test_a_lax_eye_is_no_carelessness(store):
    answer_all(store, 0.65)
    trust = live(store).trust
    wrong = [a for a in trust.gold_answers("7", near=True) if a.verdict != a.truth]
    assert len(wrong) >= 8 and trust.intervals == {}, "as many errors would have withdrawn answers"
    assert trust.gold_tally()[2] == trust.gold_tally()[5] == 0
    (user,) = team(store).users
    assert user.gold.sensitivity.value == user.gold.specificity.value == 1 and user.gold_wrong == ()
    eyes = campaign_eyes(store)
    assert eyes.crowd.cut < 0.68 < 0.75 and eyes.cut_interval[1] < 0.70
    assert eyes.answers == len(trust.gold_answers("7", near=True)) == user.eye.answers
    told = as_json(team(store))
    assert told["users"][0]["eye"]["cut"] == pytest.approx(user.eye.eye.cut) and told["k_iou"] == 0.75
    assert told["eyes"]["cut_low"] < told["eyes"]["cut"] < told["eyes"]["cut_high"]


def test_a_user_is_known_by_clear_gold(store):
    keys = turn(store)
    answer(store, keys[0], 7)
    trust = live(store).trust
    clear, every = trust.gold_answers("7"), trust.gold_answers("7", near=True)
    assert len(clear) < len(every) and trust.answered()["7"] == len(clear)


def test_the_eyes_are_the_same_after_everything_was_dropped_and_in_another_process(store):
    answer_all(store, 0.70)
    first = campaign_eyes(store)
    assert campaign_eyes(store) is first, "worked out once"
    other = campaign_eyes(Store.open(store.folder))
    assert np.array_equal(first.draws, other.draws) and first.users == other.users
    store.companions.clear()
    store.views.drop()
    again = campaign_eyes(store)
    assert np.array_equal(first.draws, again.draws) and first.crowd == again.crowd


def test_before_any_gold_the_eyes_are_what_is_believed(tmp_path):
    plain = gold_store(tmp_path / "a")
    finish(plain, 7)
    eyes, figures = eye_figures(plain)
    assert eyes.answers == 0 and figures == {} and eyes.crowd.cut == pytest.approx(0.75, abs=0.01)
    assert team(plain).users[0].eye is None and as_json(team(plain))["users"][0]["eye"] is None


def test_gold_that_users_confirmed_tells_nothing_of_eyes(store):
    mask = store.masks.predictions(1, "pool").mask_id[0].item()
    add_page(store, "confirmed", [mask], "verify", {mask: "yes"})
    answer(store, "confirmed", 7)
    assert len(live(store).trust.gold_answers("7")) == 1 and campaign_eyes(store).answers == 0


def test_a_careless_user_is_not_the_crowd_and_is_shown(store):
    keys = turn(store)
    for key in keys:
        answer(store, key, 8, wrong=True)
    answer_all(store, 0.75)
    for key in keys:
        answer(store, key, 7, says=says(0.75))
    assert list(live(store).trust.intervals) == ["8"]
    table = gold_table(store)
    assert table.weight[table.user == "8"].sum() < 0.01 * table.weight[table.user == "7"].sum()
    eyes, figures = eye_figures(store)
    assert eyes.crowd.pass_rate < 0.05 and figures["8"].eye.pass_rate > 0.3


def test_the_gold_of_answers_that_stay_counts_like_them(store):
    keys = turn(store)
    for key in keys:
        answer(store, key, 8, wrong=True)
    answer_all(store, 0.75)
    for key in keys:
        answer(store, key, 7, says=says(0.75))
    before = campaign_eyes(store).crowd
    store.rounds.end(1, {}, follow=False)
    store.rounds.update(1, ended_at=store.rounds.all()[0].started_at.replace(year=2020))
    table = gold_table(store)
    assert table.weight[table.user == "8"].sum() > 0.1 * table.weight[table.user == "7"].sum()
    assert campaign_eyes(store).crowd.pass_rate > before.pass_rate + 0.05


def test_gold_weighs_as_its_user_answered_questions(store):
    for key in turn(store)[:3]:
        answer(store, key, 7)
    rows = live(store).trust.questions
    for n, mask in enumerate(rows["mask"].tolist()[:20]):  # one who sees hardly anything but gold
        add_page(store, f"gold-{n}", [mask], "verify", {mask: "yes" if is_good(mask) else "no"})
        answer(store, f"gold-{n}", 9)
    table = gold_table(store)
    each = {user: table.weight[table.user == user] for user in ("7", "9")}
    assert each["9"].max() < each["7"].min() and each["9"].min() > 0


def test_where_only_qualified_users_count_the_others_eyes_do_not(tmp_path):
    store = gold_store(tmp_path / "a", {**GOLD, "qualification": True}, iou=spread_iou)
    for key in turn(store):
        answer(store, key, 7)
    assert campaign_eyes(store).answers == 0 and gold_table(store).weight.sum() == 0


def test_what_was_seen_is_in_bins_that_part_at_the_threshold():
    seen = seen_by_iou(np.array([0.0, 0.74, 0.75, 0.76, 1.0]), np.array([False, True, True, False, True]), 0.75)
    assert [(round(s.low, 2), round(s.high, 2), s.asked, s.yes) for s in seen] == [
        (0.0, 0.05, 1, 0), (0.7, 0.75, 1, 1), (0.75, 0.8, 2, 1), (1.0, 1.0, 1, 1),
    ]  # fmt: skip
