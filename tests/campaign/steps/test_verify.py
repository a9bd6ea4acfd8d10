"""Verify: pages from asks, facts from snapshots, and the fold that may be stopped anywhere."""

import numpy as np
import pytest
from PIL import Image

from campaign.clustering import Tree, linkage
from campaign.label_studio.readback import AnnotationSnapshot, TaskSnapshot
from campaign.quality.answers import standing_answers, verdicts
from campaign.records.verdict import Verdict
from campaign.settings import CampaignSettings, LabelStudioSettings
from campaign.steps.propagate import obtained
from campaign.steps.replay import replay
from campaign.steps.verify import facts, open_searches, plan_pages, save_decisions
from campaign.store import Store
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions

CLASSES = {1: "cell", 2: "dot"}
GOOD, BAD = 0.9, 0.3


@pytest.fixture
def make_store(tmp_path):
    """A store whose round 1 is at verify: per class 40 good masks in one place of feature space, 40 bad in another."""

    def make(name="campaign", label_studio=None, **search) -> Store:
        (tmp_path / name).mkdir()
        image = tmp_path / name / "a.png"
        Image.new("RGB", (400, 400)).save(image)
        pool = CocoDataset([ImageRecord(1, "a.png", 400, 400, image)], CLASSES)
        settings = CampaignSettings(name="t", search={"policy": "paper", "k_pa": 0.1, "k_pr": 0.0} | search)
        if label_studio:
            settings = settings.model_copy(update={"label_studio": LabelStudioSettings(**label_studio)})
        store = Store.create(tmp_path / name / "c", settings, {"pool": pool})
        store.rounds.start(1, "verify")
        store.rounds.update(1, model_version="v1")
        stored = store.masks.save_shard(1, "pool", 0, predictions(), images=1, seconds=0.0)
        for class_id in CLASSES:
            mine = stored.select(stored.class_id == class_id)
            tree = Tree.build(linkage(mine.features, mine.score), mine.score)
            tree.save(store.trees.folder(1, class_id))
            store.trees.save(1, class_id, mine.mask_id, 0, {"k_pr": 0.0, "k_pa": 0.1, "note": "", "curves": None})
        return store

    return make


def predictions() -> Predictions:
    from pycocotools import mask as mask_util

    rng = np.random.default_rng(0)
    n = 160
    good = np.tile(np.repeat([True, False], 40), 2)
    rle = np.empty(n, object)
    boxes = [[(i % 16) * 24, (i // 16) * 24, 20, 20] for i in range(n)]
    for i, (x, y, w, h) in enumerate(boxes):
        mask = np.zeros((400, 400), np.uint8, order="F")
        mask[y : y + h, x : x + w] = 1
        rle[i] = mask_util.encode(mask)["counts"]
    return Predictions(
        np.arange(n), np.ones(n), np.repeat([1, 2], 80), np.array(boxes), rle, np.full((n, 2), 400),
        np.where(good, GOOD, BAD), np.ones(n), rng.normal(0, 0.1, (n, 8)) + np.where(good, 1, -1)[:, None],
    )  # fmt: skip


def is_good(mask_id: int) -> bool:
    return (mask_id & 0xFFFFF) % 80 < 40


def answer(store: Store, key: str, annotation: int = 0, flip: bool = False, stamp: str = "1") -> dict[int, Verdict]:
    """Answers one page as a person who is right would, or one who is wrong throughout."""
    masks = [q.mask_id for q, p in store.questions.rows() if p.key == key]
    given = {i: Verdict(int(is_good(i) != flip)) for i in masks}
    snapshot = TaskSnapshot(
        1, key, (AnnotationSnapshot(annotation or abs(hash(key)) % 10**6, "a", stamp, 3.0, False, given),)
    )
    store.answers.add(facts(store, [snapshot]))
    return given


def turn(store: Store) -> list[str]:
    """What a turn does between reading and publishing; gives the keys of new pages."""
    searches = open_searches(store, 1)
    pages = list(plan_pages(store, 1, searches))
    for page in pages:
        store.pages.add(*page)
    for s in searches:
        save_decisions(store, 1, s)
    return [key for key, *_ in pages]


def finish(store: Store, order=lambda keys: keys) -> None:
    for _ in range(50):
        keys = turn(store)
        if not keys:
            assert all(t.searched for t in store.trees.rows(1))
            return
        for key in order(keys):
            answer(store, key)
    raise AssertionError("the search does not end")


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
    searches = open_searches(store, 1)
    for page in list(plan_pages(store, 1, searches))[:1]:
        store.pages.add(*page)  # killed after the first page
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
    yes = answer(store, key, annotation=5, stamp="1")
    assert verdicts(store.answers.rows()) == yes
    answer(store, key, annotation=5, flip=True, stamp="2")
    assert verdicts(store.answers.rows()) == {i: Verdict(1 - v) for i, v in yes.items()}
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
    row = {
        "page_key": "audit", "annotation_id": 9, "mask_id": int(mask), "annotator": "b", "verdict": "no",
        "answered_at": "9", "lead_time": None,
    }  # fmt: skip
    store.answers.add([row, row | {"annotation_id": 10, "annotator": "c"}])
    assert mask not in obtained(store, 1).mask_id
