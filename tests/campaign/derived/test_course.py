"""The course: what was known after each turn, stored once."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_util

from campaign.derived.course import course, note_course
from campaign.derived.dataset import final_masks
from campaign.derived.expectation import expectation
from campaign.derived.pace import work
from campaign.derived.promises import standing
from campaign.derived.status import status
from campaign.label_studio.drawing import DrawnAnnotation, DrawnTask
from campaign.pages.completeness import add_complete_pages, complete_facts
from campaign.records.course import frozen_at
from campaign.records.page import PageKind
from campaign.steps.propagate import finish_round
from campaign.steps.replay import replay
from campaign.steps.verify import save_views
from campaign.store import Store
from tests.campaign.target_builders import CLASSES, Truth, finish, target_store

IMAGES = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    store = target_store(tmp_path_factory.mktemp("course") / "a", images=IMAGES, price=2.0)
    finish(store, Truth(IMAGES))
    store.engine.dispose()
    return store.folder


@pytest.fixture
def finished(folder, tmp_path) -> Store:
    shutil.copytree(folder, tmp_path / "c")
    return Store.open(tmp_path / "c")


def test_it_runs_from_before_the_first_answer_to_the_promise(finished):
    points, now = finished.course.rows(), standing(finished)
    first, last = points[0], points[-1]
    assert first.questions == 0 and first.seconds == 0 and first.promised is None and first.attempt is None
    assert first.precision.low < first.precision.value < first.precision.high <= 1
    assert [p.questions for p in points] == sorted(p.questions for p in points)
    assert last.questions == work(finished).work["shown"].sum() > finished.questions.count(), "gold is seen too"
    assert last.seconds == pytest.approx(work(finished).pace().seconds + work(finished).pace().gap_seconds, abs=0.1)
    assert last.promised == now.promise.bound and last.masks == len(now.mask_id) and last.attempt == 1
    assert len(frozen_at(points)) == 1 and all((p.promised is None) == (p.attempt is None) for p in points)


def test_what_is_expected_is_near_the_truth(finished):
    truth, last = Truth(IMAGES), finished.course.rows()[-1]
    right = sum(map(truth, final_masks(finished).mask_id.tolist()))
    objects = sum(map(truth, range(50 * IMAGES)))
    assert last.precision.value == pytest.approx(right / last.masks, abs=0.06)
    assert last.recall.value == pytest.approx(right / objects, abs=0.1)
    assert last.recall.low < last.recall.high <= 1


def test_a_turn_that_learns_nothing_adds_nothing_and_replay_rewrites_nothing(finished):
    before = finished.course.rows()
    for _ in range(2):
        save_views(finished)
    assert replay(finished)["changed"] == 0
    assert finished.course.rows() == before


def test_it_outlives_the_views_which_come_out_the_same(finished):
    before = finished.course.rows()
    finished.views.drop()
    shutil.rmtree(finished.folder / "derived")
    again = Store.open(finished.folder)
    save_views(again)
    assert again.course.rows() == before
    anew = expectation(again)
    assert anew.precision.value == pytest.approx(before[-1].precision.value, abs=0.01)
    assert anew.recall.value == pytest.approx(before[-1].recall.value, abs=0.01)


def test_killed_in_every_turn_the_course_is_the_same(tmp_path):
    stores = [target_store(tmp_path / name, images=4) for name in "ab"]
    stores[1].key = stores[0].key
    finish(stores[0], Truth(4))
    finish(stores[1], Truth(4), kill=True)
    first, second = ([(p.questions, p.masks, p.promised, p.precision) for p in s.course.rows()] for s in stores)
    assert first == second


def test_status_carries_it(finished):
    shown = status(finished)["course"]
    assert shown == course(finished) and len(shown) == len(finished.course.rows())
    assert shown[-1]["promised"] == standing(finished).promise.bound


def test_other_policies_have_none(tmp_path):
    store = target_store(tmp_path / "a", images=2, policy="adaptive")
    note_course(store)
    assert store.course.rows() == [] and status(store)["course"] == []


def test_without_held_out_masks_nothing_is_expected_and_the_promise_says_what_it_takes_for_granted(tmp_path):
    store = target_store(tmp_path / "a", images=4, heldout=False)
    finish(store, Truth(4))
    now = standing(store)
    assert "no mask is held out, so annotators are taken at their word" in now.sentence()
    points = store.course.rows()
    assert points[-1].precision is None and points[-1].promised == now.promise.bound
    assert np.isfinite(points[-1].seconds)


def test_the_sentence_says_nothing_of_trust_where_masks_are_held_out(finished):
    assert "word" not in standing(finished).sentence()


def look(store: Store) -> None:
    """Somebody clicks all that is missing on gold, and finds all other images complete."""
    tasks = []
    for n, page in enumerate(store.pages.rows(kind=PageKind.COMPLETE)):
        x0, y0, x1, y1 = page.place["window"]
        result = [{"from_name": "verdict", "type": "choices", "value": {"choices": ["complete"]}}]
        for k, shape in enumerate(page.place.get("missing", [])):
            ys, xs = np.nonzero(mask_util.decode({"size": shape["size"], "counts": shape["counts"].encode()}))
            at = {"x": 100 * (xs.mean() - x0) / (x1 - x0), "y": 100 * (ys.mean() - y0) / (y1 - y0), "width": 0.5}
            labels = at | {"labels": [CLASSES[shape["class_id"]]]}
            result += [
                {"id": f"r{k}", "from_name": "missing", "type": "keypoint", "value": at},
                {"id": f"r{k}", "from_name": "class", "type": "labels", "value": labels},
            ]
        said = DrawnAnnotation(10**7 + n, 1, f"2026-02-01T00:00:{n:02d}.000000Z", 9.0, False, result)
        tasks.append(DrawnTask(1, page.key, [said]))
    store.drawings.add(complete_facts(store, tasks))


def test_people_who_looked_are_in_it(finished):
    before = finished.course.rows()[-1]
    finished.rounds.update(1, stage="propagate")
    finish_round(finished, 1)
    add_complete_pages(finished, 6)
    look(finished)
    save_views(finished)
    last = finished.course.rows()[-1]
    assert (last.questions, last.promised, last.looked) == (before.questions, before.promised, 6)
    assert 0 < last.recall_promised <= last.recall_looked <= 1
