"""Simulated annotators who look for what is missing: they click it, all of it, or overlook a share of it."""

import pytest

from campaign.demo.eyes import Habits
from campaign.demo.finders import Finder, SeenTruth, result
from campaign.demo.sight import Sight
from campaign.derived.recall import is_gold
from campaign.pages.completeness import add_complete_pages, clicked_points
from tests.campaign.looked import EXTENT, PER_IMAGE, looked_store, objects_missing, place_of, truth_file

LACKS = {n: set(range(n, n + 6)) for n in range(6)}


@pytest.fixture
def store(tmp_path):
    store = looked_store(tmp_path / "a", LACKS)
    add_complete_pages(store, 6)
    return store


def clicks(store, folder, **habits):
    """{page: (the objects it lacks, the points clicked on it)}."""
    truth = SeenTruth(truth_file(store, folder / "truth.json"))
    sight = Sight(store)
    finder = Finder("http://127.0.0.1:1", "a@example.com", "x", truth, Habits(**habits), 0.0, sight)
    pages = store.pages.rows(kind="complete")
    shown = {page.key: sight.of(page) for page in pages}
    class_of = {name: i for i, name in store.classes().items()}
    return {
        page.key: (
            objects_missing(store, page),
            clicked_points(result(finder.look(shown[page.key]), shown[page.key]), page.place["window"], class_of),
        )
        for page in pages
    }


def test_careful_ones_click_all_that_is_missing(store, tmp_path):
    for missing, points in clicks(store, tmp_path).values():
        assert len(points) == len(missing)
        for number in missing:
            x, y = place_of(number)
            assert any(x <= p["x"] <= x + EXTENT and y <= p["y"] <= y + EXTENT for p in points)


def test_others_overlook_a_share_and_click_some_that_are_there(store, tmp_path):
    told = clicks(store, tmp_path, error=0.3, seed=4).values()
    missing, clicked = sum(len(m) for m, _ in told), sum(len(p) for _, p in told)
    assert 0.4 * missing < clicked < missing + 0.05 * PER_IMAGE * len(told)
    assert clicks(store, tmp_path, error=0.3, seed=4) == clicks(store, tmp_path, error=0.3, seed=4)


def test_gold_is_looked_at_as_all_else(store, tmp_path):
    gold = {p.key for p in store.pages.rows(kind="complete") if is_gold(p)}
    told = clicks(store, tmp_path)
    assert gold and all(told[key][1] for key in gold)
