"""What is asked next: full pages, and places left free filled with what will likely be wanted."""

from campaign.derived.live import live
from tests.campaign.builders import answer, finish, gold_store, turn, verify_store


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
