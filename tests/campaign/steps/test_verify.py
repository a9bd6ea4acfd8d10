"""Verify: pages from wishes, facts from snapshots, and the fold that may be stopped anywhere."""

import pytest

from campaign.derived.dataset import obtained
from campaign.label_studio.readback import AnnotationSnapshot, TaskSnapshot
from campaign.pages.planning import plan_pages
from campaign.pages.readback import facts
from campaign.quality.answers import standing_answers, verdicts
from campaign.records.verdict import Verdict
from campaign.steps.replay import replay
from campaign.store import Store
from tests.campaign.builders import add_page, answer, finish, is_good, turn


def outcome(store: Store):
    return (
        sorted((d.class_id, d.cluster, d.kind, d.asked, d.yes) for d in store.decisions.rows()),
        obtained(store, 1).mask_id.tolist(),
    )


def test_good_clusters_are_obtained_and_bad_ones_not(make_store):
    store = make_store()
    finish(store)
    masks = obtained(store, 1).mask_id.tolist()
    assert len(masks) == 80 and all(is_good(i) for i in masks)
    assert store.questions.count() < 80


def test_the_order_of_answers_changes_nothing(make_store):
    a, b = make_store("a"), make_store("b")
    finish(a)
    finish(b, order=lambda keys: keys[::-1])
    assert outcome(a) == outcome(b)


def test_a_turn_run_twice_makes_no_page_twice(make_store):
    store = make_store()
    first = turn(store)
    assert first and turn(store) == []
    assert len(store.pages.rows()) == len(first)


def test_a_turn_that_was_killed_before_it_published_is_mended_by_the_next(make_store):
    store, other = make_store("a"), make_store("b")
    store.pages.add(list(plan_pages(store, 1))[:1])  # killed after the first page
    finish_with_open_pages(store)
    finish(other)
    assert outcome(store) == outcome(other)


def finish_with_open_pages(store: Store) -> None:
    for page in store.pages.rows():
        answer(store, page.key)
    finish(store)


def test_replay_gives_the_same_dataset(make_store):
    store = make_store()
    finish(store)
    store.datasets.save(1, obtained(store, 1))
    store.rounds.end(1, {}, follow=False)
    before = outcome(store)
    assert replay(store)["changed"] == 0
    assert outcome(store) == before


@pytest.mark.parametrize("budget", [0, 7, 20, 50])
def test_a_budget_is_never_passed(make_store, budget):
    store = make_store(budget_questions=budget)
    finish(store)
    assert store.questions.count() <= budget


def test_pages_are_full_unless_nothing_else_is_open(make_store):
    store = make_store(n_s=4)
    keys = turn(store)
    assert len(keys) == 2  # four questions of each class, none of which could wait for more
    answer(store, keys[0])
    for page in store.pages.rows():
        assert len([q for q, p in store.questions.rows() if p.key == page.key]) <= store.settings.page.page_size


def test_edits_and_deletions_count(make_store):
    store = make_store()
    key = turn(store)[0]
    yes = answer(store, key)
    assert verdicts(store.answers.rows()) == yes
    no = {i: Verdict(1 - v) for i, v in yes.items()}
    edited = AnnotationSnapshot(store.answers.rows()[0].annotation_id, 1, "2026-01-01T23:59:59.000000Z", 3.0, False, no)
    store.answers.add(facts(store, [TaskSnapshot(1, key, (edited,))]))
    assert verdicts(store.answers.rows()) == no
    store.answers.add(facts(store, [TaskSnapshot(1, key, ())]))
    assert verdicts(store.answers.rows()) == {} and standing_answers(store.answers.rows()) == []
    assert len(store.answers.rows()) == 3 * len(yes), "facts are never rewritten"


def test_two_annotators_who_disagree_are_unsure(make_store):
    store = make_store()
    key = turn(store)[0]
    masks = [q.mask_id for q, p in store.questions.rows() if p.key == key]
    people = [
        AnnotationSnapshot(n, f"a{n}", "1", 1.0, False, dict.fromkeys(masks, v))
        for n, v in enumerate((Verdict.YES, Verdict.NO), 1)
    ]
    store.answers.add(facts(store, [TaskSnapshot(1, key, tuple(people))]))
    assert set(verdicts(store.answers.rows()).values()) == {Verdict.UNSURE}


def test_answers_about_masks_that_were_not_asked_are_left_out(make_store):
    store = make_store()
    key = turn(store)[0]
    odd = AnnotationSnapshot(1, "a", "1", 1.0, False, {12345: Verdict.YES})
    assert facts(store, [TaskSnapshot(1, key, (odd,))]) == []


def test_a_mask_voted_no_later_leaves_the_dataset(make_store):
    store = make_store()
    finish(store)
    mask = obtained(store, 1).mask_id[0]
    add_page(store, "audit", [int(mask)], "audit1")
    row = {
        "page_key": "audit", "annotation_id": 9, "mask_id": int(mask), "annotator": "b", "verdict": "no",
        "answered_at": "9", "lead_time": None,
    }  # fmt: skip
    store.answers.add([row, row | {"annotation_id": 10, "annotator": "c"}])
    assert mask not in obtained(store, 1).mask_id
