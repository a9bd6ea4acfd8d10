"""What the ranking model makes of corrections: who is visited again, and what is trained on."""

import numpy as np
import pytest

from campaign.derived.corrections import counted_corrections
from campaign.derived.dataset import obtained
from campaign.derived.ranking import accepted_unseen, facts_features, judgements, ranker_path
from campaign.pages import correcting
from campaign.records.page import PageKind
from campaign.steps.train import training_set
from ml_backend.interactive.ranking import NAMES, Ranker, visit_features
from ml_backend.interactive.segmenter import Click
from ml_backend.mask_ids import drawn_id
from ml_backend.masks.coco import decode
from tests.campaign.builders import finish, gold_store, spread_iou
from tests.campaign.pages.test_correcting import Browser, pages

PLACES = ((3, 3), (20, 20), (12, 5))


@pytest.fixture
def store(tmp_path):
    """Three masks are corrected, by one, two and three clicks."""
    store = gold_store(tmp_path / "a", iou=spread_iou)
    finish(store, 7)
    store.settings.correct.visits = 3
    correcting.add_correct_pages(store, [c.mask_id for c in correcting.candidates(store, [1])][:3])
    for number, page in enumerate(pages(store), 1):
        browser = Browser(store, page)
        for place in PLACES[:number]:
            browser.click(*place)
        browser.submit(number=number)
    return store


def fit(store, of_clicks):
    """A ranker for which a mask's IoU follows from how many clicks its visit had."""
    rng = np.random.default_rng(0)
    table = np.tile(np.array([0, 1, 0.5, 0.3, 0.2, 0.9, 1.0], np.float32), (300, 1))
    table[:, NAMES.index("clicks")] = clicks = rng.integers(1, 4, 300)
    share = np.array([0, *of_clicks])[clicks]
    path = ranker_path(store, 1, "colour-1")
    path.parent.mkdir(parents=True)
    Ranker(table, np.where(rng.random(300) < share, 0.9, 0.5), store.settings.search.k_iou).save(path)


def by_clicks(store):
    """The drawn masks, by how many clicks they had."""
    corrections = counted_corrections(store).values()
    steps = store.clicks.of_annotations([d.annotation_id for d in corrections])
    return {len(steps[d.annotation_id, d.answered_at]): drawn_id(d.id) for d in corrections}


def test_what_is_stored_of_clicks_says_what_the_masks_themselves_do(store):
    d = next(d for d in counted_corrections(store).values() if drawn_id(d.id) == by_clicks(store)[3])
    steps = store.clicks.of_annotations([d.annotation_id])[d.annotation_id, d.answered_at]
    before, after = (
        decode({"size": m["size"], "counts": m["counts"].encode()}).astype(bool)
        for m in (steps[0].before, steps[-1].after)
    )
    clicks = [Click(s.x, s.y, True) for s in steps]
    expected = visit_features(before, after, clicks, 1, steps[-1].predicted_iou)
    assert facts_features(d, steps, 1) == pytest.approx(expected)
    assert expected[0] == 3 and expected[3] > 0


def test_likely_correct_masks_are_not_visited_again_and_the_least_likely_come_first(store):
    fit(store, (0.99, 0.5, 0.1))
    mask = by_clicks(store)
    judged = judgements(store, counted_corrections(store).values())
    assert judged[mask[1]].chance > 0.9 > judged[mask[2]].chance > judged[mask[3]].chance
    assert accepted_unseen(store, judged) == {mask[1]}
    state = correcting.summary(store)
    assert state["judged"] == 3 and state["accepted_unseen"] == 1
    assert state["expected_correct"] == pytest.approx(1.6, abs=0.3)
    assert correcting.add_next_visits(store) == 2
    assert [p.place["shown"] for p in pages(store)[3:]] == [mask[3], mask[2]]
    assert correcting.add_next_visits(store) == 0


def test_together_they_keep_the_precision(store):
    fit(store, (1.0, 1.0, 0.8))
    assert correcting.add_next_visits(store) == 0
    store.settings.search.precision = 0.98
    assert correcting.add_next_visits(store) == 1
    assert pages(store)[-1].place["shown"] == by_clicks(store)[3]


def test_without_a_ranker_all_are_visited_again(store):
    assert judgements(store, counted_corrections(store).values()) == {}
    assert correcting.summary(store)["expected_correct"] is None
    assert correcting.add_next_visits(store) == 3


def test_a_mask_that_the_brush_changed_after_the_clicks_is_not_judged(store):
    fit(store, (1.0, 1.0, 1.0))
    (page,) = [
        p for p in pages(store) if p.place["shown"] == store.questions.on_pages([pages(store)[0].key])[0].mask_id
    ]
    browser = Browser(store, page)
    browser.click(3, 3)
    x0, y0, x1, y1 = browser.window
    painted = np.zeros((y1 - y0, x1 - x0), bool)
    painted[5:15, 5:15] = True
    browser.submit(number=40, mask=painted)
    judged = judgements(store, counted_corrections(store).values())
    assert len(judged) == 2
    assert correcting.add_next_visits(store) == 1
    assert store.pages.rows(kind=PageKind.CORRECT)[-1].key.endswith("-2")


def test_masks_more_likely_wrong_than_right_are_not_trained_on(store):
    store.datasets.save(1, obtained(store, 1))
    before = training_set(store, 2)
    fit(store, (0.99, 0.9, 0.1))
    after = training_set(store, 2)
    gone = {a.rle["counts"] for a in before.annotations} - {a.rle["counts"] for a in after.annotations}
    assert gone == {store.masks.read([by_clicks(store)[3]]).rles()[0]["counts"]}
    assert len(after.annotations) == len(before.annotations) - 1
