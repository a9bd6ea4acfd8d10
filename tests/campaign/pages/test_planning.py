"""What is asked next: full pages, and places left free filled with what will likely be wanted."""

import numpy as np

from campaign.derived import selection
from campaign.derived.answered import answered
from campaign.derived.live import live
from campaign.derived.promises import newest_attempt
from campaign.derived.selection import round_selection
from campaign.pages.selecting import known_answers, wanted
from campaign.search import verifier
from campaign.search.selection import NONE
from campaign.search.stock import AHEAD_SHARE, pages_ahead
from tests.campaign.builders import answer, finish, gold_store, turn, verify_store
from tests.campaign.target_builders import Truth, target_store
from tests.campaign.target_builders import answer as answer_page
from tests.campaign.target_builders import turn as target_turn


def outcome(store):
    return sorted((d.class_id, d.cluster, d.kind, d.asked, d.yes) for d in store.decisions.rows())


def turns(store) -> int:
    """Turns that published something, until the search ended."""
    count = 0
    while keys := turn(store):
        count += 1
        for key in keys:
            answer(store, key)
    return count


def test_asking_ahead_takes_fewer_turns_and_changes_no_decision(tmp_path):
    search = {"policy": "curtailed", "n_s": 8}
    usual = verify_store(tmp_path / "a", search)
    early = verify_store(tmp_path / "b", search | {"ask_ahead": True})
    assert turns(early) <= turns(usual)
    assert outcome(early) == outcome(usual)
    sizes = [len(store.questions.on_pages([p.key])) for store in (early,) for p in store.pages.rows()]
    assert max(sizes) <= early.settings.page.page_size


def test_nothing_is_asked_ahead_under_a_budget(tmp_path):
    store = verify_store(tmp_path / "a", {"ask_ahead": True, "budget_questions": 30})
    turn(store)
    for view in live(store).views(1):
        waited = {leaf for ask in view.search.open for leaf in ask.leaves}
        assert set(view.search.asked_leaves()) == waited


def test_no_mask_is_asked_about_twice(tmp_path):
    store = verify_store(tmp_path / "a", {"policy": "adaptive", "ask_ahead": True})
    finish(store)
    masks = [q.mask_id for q, _ in store.questions.rows()]
    assert len(masks) == len(set(masks)) > 0


def test_pages_of_one_mask_leave_no_place_beside_gold(tmp_path):
    store = gold_store(tmp_path / "a", {"gold_share": 0.1}, {"ask_ahead": True, "policy": "curtailed"})
    store.settings.page.page_size = 1
    keys = turn(store)
    assert keys and all(len(store.questions.on_pages([key])) == 1 for key in keys)


def lying(store):
    return {row["page"] for row in answered(store).rows if row["verdict"] == NONE}


def test_for_a_target_pages_lie_ready_for_everybody_at_work_and_no_more(tmp_path):
    store, truth = target_store(tmp_path / "a", images=8, price=0.02), Truth(8)
    keys, _ = target_turn(store)
    assert len(keys) == 6, "the least, and the first questions beside them"
    for user, key in enumerate(keys, 1):
        answer_page(store, key, truth, user)
    keys, _ = target_turn(store)
    assert len(keys) == 12 == len(lying(store)), "two for each of the six who answered"
    assert target_turn(store)[0] == [], "nothing new is known"
    answer_page(store, keys[0], truth, 1)
    assert len(target_turn(store)[0]) == 1


def test_for_a_target_pages_are_of_one_class_and_full(tmp_path):
    store, truth = target_store(tmp_path / "a", images=8, price=0.02), Truth(8)
    for _ in range(3):
        keys, _ = target_turn(store)
        for key in keys:
            shown = store.questions.on_pages([key])
            assert len(shown) == 15
            masks = store.masks.read([a.mask_id for a in shown])
            assert len(set(masks.class_id.tolist())) == 1
            answer_page(store, key, truth)


def test_draws_are_published_in_their_order(tmp_path):
    store, truth = target_store(tmp_path / "a", images=4), Truth(4)
    drawn = []
    while newest_attempt(store) is None:
        for key in target_turn(store)[0]:
            answer_page(store, key, truth)
    attempt = newest_attempt(store)
    drawn = [q.mask_id for q, p in store.questions.rows(kind=attempt.kind)]
    place = {mask: n for n, mask in enumerate(attempt.drawn.tolist())}
    assert drawn and max(place[mask] for mask in drawn) < len(drawn) + 30, "a few behind where a class fills no page"


def test_for_a_target_pages_lie_ready_for_all_who_are_expected(tmp_path):
    store, truth = target_store(tmp_path / "a", images=8, price=0.02), Truth(8)
    store.settings.page.annotators = 3
    keys, _ = target_turn(store)
    assert len(keys) == 8, "two for each and the first questions, before anybody has answered"
    for key in keys:
        answer_page(store, key, truth)
    assert len(target_turn(store)[0]) == 4, "one came, and there is never less than this"


def test_what_is_asked_ahead_brings_less_than_the_price_and_not_nothing(tmp_path):
    store, truth = target_store(tmp_path / "a", images=4), Truth(4)
    for key in target_turn(store)[0]:  # the first questions are asked whatever they bring
        answer_page(store, key, truth)
    chosen = round_selection(store, 1)
    _, gain = chosen.wanted(0.0)
    price = float(np.median(gain[gain > 0]))
    usual, _ = chosen.wanted(price)
    rows, gain = chosen.wanted(price, 20)
    assert rows[: len(usual)].tolist() == usual.tolist() and len(rows) == len(set(rows.tolist()))
    more = gain[len(usual) :]
    assert 0 < len(more) <= 20 and (more < price).all() and (more >= price * AHEAD_SHARE).all()
    assert not chosen.asked[rows].any()


def test_where_a_fit_is_awaited_pages_are_filled_with_what_comes_next(tmp_path, monkeypatch):
    monkeypatch.setattr(verifier, "_FIRST", 40)
    monkeypatch.setattr(selection, "AHEAD_SHARE", 0.0)
    store, truth = target_store(tmp_path / "a", images=4, price=0.02), Truth(4)
    keys, _ = target_turn(store)
    for key in keys[:2]:
        answer_page(store, key, truth)
    store.settings.search.price = 50.0  # nothing is worth that
    known, open_ = known_answers(store, 1), len(lying(store))
    assert known < 40 <= known + 15 * open_ and not len(wanted(store, 1)[0])
    store.settings.rounds.rounds = 2
    assert target_turn(store)[0] == [], "before the last round nothing more is frozen, and nothing is waited for"
    store.settings.rounds.rounds = 1
    assert len(target_turn(store)[0]) == pages_ahead(known, open_, 15) > 0
    assert target_turn(store)[0] == [] and newest_attempt(store) is None
