"""Masks corrected by clicks: which come first, gold among them, what is read back, and whose count."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_util

from campaign.derived.clicks import correctors, held_back
from campaign.derived.corrections import counted_corrections
from campaign.derived.dataset import final_masks
from campaign.label_studio.drawing import DrawnAnnotation, DrawnTask
from campaign.pages import correcting, editing
from campaign.records.page import PageKind
from campaign.settings import parse_settings
from campaign.steps.export import export_campaign
from campaign.steps.replay import replay
from campaign.store.clicks import STEPS
from campaign.web.corrections import CampaignSegmenter, interactive
from campaign.web.serving import StoreCrops
from label_config import load
from ml_backend.errors import InputError
from ml_backend.interactive.protocol import correct_prediction
from ml_backend.interactive.steps import StepLog
from ml_backend.mask_ids import drawn_id, is_drawn, is_heldout
from ml_backend.masks.rle import decode_window
from tests.campaign.builders import finish, gold_store, is_good, spread_iou, verify_store
from tests.ml_backend.interactive.colour_segmenter import ColourSegmenter

XML = load("correct", ["cell"]).xml


@pytest.fixture
def store(tmp_path):
    store = gold_store(tmp_path / "a", {"gold_share": 0.3, "gold_opening": 0}, iou=spread_iou)
    finish(store, 7)
    return store


def pages(store, gold=False):
    rows = store.pages.rows(kind=PageKind.CORRECT)
    return [p for p in rows if ("truth" in p.place) == gold]


class Browser:
    """One annotator on the page of a mask: what is sent to the server, and what is submitted in the end."""

    def __init__(self, store, page):
        self.store, self.page = store, page
        store.pages.mark_published({page.key: page.number})
        store.values.set_project("correct", 5)
        self.server = interactive(store, StoreCrops(store).mask, None)
        self.server.segmenter = ColourSegmenter
        self.shown = store.masks.read([page.place["shown"]])
        self.window = correcting.window_of(self.shown)
        part = decode_window(self.shown.rles()[0], *self.window)
        self.regions = {r["id"]: r for r in correct_prediction(part, "cell", "campaign")["result"]}

    def click(self, x, y, positive=True, accepted=True):
        """A click at a pixel of the window."""
        x0, y0, x1, y1 = self.window
        value = {"x": 100 * x / (x1 - x0), "y": 100 * y / (y1 - y0), "width": 0.5}
        new = {"id": f"n{x}", "from_name": "click", "type": "keypoint", "value": value, "is_positive": positive}
        sent = [r for r in self.regions.values() if r["type"] == "keypoint"]
        answer = self.server.answer("5.1", XML, {"id": self.page.number}, {"result": [*sent, new]})
        if accepted:
            self.regions |= {r["id"]: r for r in answer["result"]}
        else:
            self.regions[new["id"]] = new
        return answer

    def submit(self, user=7, number=1, said="corrected", seconds=12.0, mask=None, skipped=False):
        self.regions["verdict"]["value"] = {"choices": [said]}
        regions = dict(self.regions)
        if mask is not None:
            regions |= {r["id"]: r for r in correct_prediction(mask, "cell", "campaign")["result"][:1]}
        stamp = f"2026-01-01T00:00:{number:02d}.000000Z"
        told = DrawnAnnotation(1000 * user + self.page.number, user, stamp, seconds, skipped, list(regions.values()))
        log = StepLog(self.store.folder / STEPS)
        drawings, clicks = correcting.correction_facts(self.store, [DrawnTask(1, self.page.key, [told], False)], log)
        log.close()
        self.store.clicks.add(clicks)
        self.store.drawings.add(drawings)
        return clicks


def test_masks_voted_no_come_first_and_each_once(store):
    found = correcting.candidates(store, [1, 2])
    assert found and not any(is_good(c.mask_id) for c in found)
    values = [c.value for c in found]
    assert values == sorted(values, reverse=True)
    assert correcting.add_correct_pages(store, [c.mask_id for c in found[:4]]) >= 4
    left = [c.mask_id for c in correcting.candidates(store, [1, 2])]
    assert not {c.mask_id for c in found[:4]} & set(left)
    assert not set(editing.near_misses(store, 1, 99)) & {q.mask_id for q, _ in store.questions.rows(kind="edit")}


def test_classes_that_are_hard_to_judge_bring_masks_that_nobody_was_asked_about(tmp_path):
    store = verify_store(tmp_path / "a")
    assert correcting.candidates(store, [1, 2]) == []
    store.settings.page.single_classes = ["dot"]
    found = store.masks.read([c.mask_id for c in correcting.candidates(store, [1, 2])])
    assert len(found) and set(found.class_id.tolist()) == {2}
    assert (np.diff(found.score) <= 1e-6).all()


def test_gold_is_a_heldout_mask_that_is_not_quite_right(store):
    wanted = [c.mask_id for c in correcting.candidates(store, [1, 2])][:8]
    correcting.add_correct_pages(store, wanted)
    gold = pages(store, gold=True)
    assert len(pages(store)) == 8 and len(gold) == 3
    for page in gold:
        assert is_heldout(page.place["shown"]) and 0.35 <= page.place["before"] < 0.75
    in_order = [p.place.get("truth") is not None for p in store.pages.rows(kind=PageKind.CORRECT)]
    assert in_order != sorted(in_order), "gold lies among the others"
    assert not {q.mask_id for q, p in store.questions.rows() if p.kind != "correct"} & {p.place["shown"] for p in gold}


def test_a_corrected_mask_takes_the_place_of_what_it_was(store, tmp_path):
    correcting.add_correct_pages(store, [c.mask_id for c in correcting.candidates(store, [1])][:1])
    (page,) = pages(store)
    browser = Browser(store, page)
    before = final_masks(store).mask_id.tolist()
    browser.click(3, 3)
    browser.click(20, 20, positive=False)
    facts = browser.submit()
    masks = final_masks(store)
    (new,) = set(masks.mask_id.tolist()) - set(before)
    row = masks.mask_id.tolist().index(new)
    x0, y0, x1, y1 = browser.window
    shape = mask_util.decode(masks.rles()[row])[y0:y1, x0:x1].astype(bool)
    start = decode_window(browser.shown.rles()[0], *browser.window)
    assert is_drawn(new) and shape[3, 3] and not shape[20, 20] and start[20, 20] and not start[3, 3]
    assert masks.rule[row] == f"edited by 2 clicks in 12 s with colour-1, mask {page.place['shown']} before"
    # Each step is a fact: where, when, and the masks before and after it.
    assert [f["kind"] for f in facts] == ["positive", "negative"]
    assert [(round(f["x"]), round(f["y"])) for f in facts] == [(x0 + 3, y0 + 3), (x0 + 20, y0 + 20)]
    assert facts[0]["after"] == facts[1]["before"] != facts[0]["before"]
    last = facts[1]["after"]
    assert last["counts"].encode() == masks.rle[row] and facts[0]["clicked_at"] <= facts[1]["clicked_at"]
    path = tmp_path / "export.json"
    export_campaign(store, path)
    (told,) = [a for a in json.loads(path.read_text())["annotations"] if a["attributes"]["mask_id"] == new]
    assert told["attributes"]["source"] == "edited" and "2 clicks" in told["attributes"]["rule"]
    assert replay(store)


def test_answers_that_were_not_accepted_are_what_the_annotator_saw(store):
    correcting.add_correct_pages(store, [c.mask_id for c in correcting.candidates(store, [1])][:1])
    (page,) = pages(store)
    browser = Browser(store, page)
    browser.click(3, 3, accepted=False)
    browser.click(20, 20, positive=False, accepted=False)
    facts = browser.submit()
    (drawing,) = counted_corrections(store).values()
    assert drawing.masks["masks"][0]["counts"] == facts[-1]["after"]["counts"]


@pytest.mark.parametrize(("said", "state"), [("no such object", "none"), ("unsure", "unsure")])
def test_no_mask_where_no_mask_should_be(store, said, state):
    correcting.add_correct_pages(store, [c.mask_id for c in correcting.candidates(store, [1])][:1])
    (page,) = pages(store)
    browser = Browser(store, page)
    browser.click(3, 3)
    before = final_masks(store).mask_id.tolist()
    browser.submit(said=said)
    assert [d.state for d in counted_corrections(store).values()] == [state]
    assert final_masks(store).mask_id.tolist() == before


def test_who_corrects_gold_carelessly_corrects_in_vain(store):
    wanted = [c.mask_id for c in correcting.candidates(store, [1, 2])][:16]
    correcting.add_correct_pages(store, wanted)
    for number, page in enumerate(pages(store, gold=True)):
        careless, careful = Browser(store, page), Browser(store, page)
        careless.submit(user=7, number=number)  # as it was
        truth = {"size": page.place["truth"]["size"], "counts": page.place["truth"]["counts"].encode()}
        careful.submit(user=8, number=number, mask=decode_window(truth, *careful.window))
    mine, theirs = pages(store)[:2]
    for user, page in ((7, mine), (8, theirs)):
        browser = Browser(store, page)
        browser.click(3, 3)
        browser.submit(user=user, number=30)
    assert set(held_back(store)) == {"7"}
    assert {d.annotator for d in counted_corrections(store).values()} == {"8"}
    told = {c.user: c for c in correctors(store)}
    assert told["7"].right == 0 and told["8"].right == told["8"].gold > 0
    assert not any(is_heldout(i) for i in final_masks(store).mask_id)
    state = correcting.summary(store)
    assert state["corrected"] == 1 and state["pages"] == len(wanted)
    assert [p["gold_right"] for p in state["people"]] == [0, told["8"].gold]


def test_a_mask_is_visited_again_until_it_is_left_as_it_is(store):
    store.settings.correct.visits, store.settings.correct.clicks = 3, 2
    correcting.add_correct_pages(store, [c.mask_id for c in correcting.candidates(store, [1])][:1])
    (page,) = pages(store)
    browser = Browser(store, page)
    browser.click(3, 3)
    browser.click(4, 30)
    answer = browser.click(30, 4)
    assert "At most 2 clicks" in answer["result"][-1]["value"]["text"][0]
    browser.submit()
    assert correcting.add_next_visits(store) == 1 and correcting.add_next_visits(store) == 0
    second = pages(store)[-1]
    first = counted_corrections(store)[page.place["shown"]]
    assert second.place == {"shown": drawn_id(first.id), "visit": 2}
    browser = Browser(store, second)
    assert (decode_window(browser.shown.rles()[0], *browser.window)).any()
    browser.submit(number=2)  # as it is
    assert correcting.add_next_visits(store) == 0
    assert len(counted_corrections(store)) == 1


def test_a_share_of_the_time_goes_into_corrections_once_a_round(store):
    assert correcting.ask_for_corrections(store, 1) == 0
    store.settings.rounds.correct = 0.5
    store.settings.correct.seconds = 100.0
    store.settings.search.budget_hours = 1.0
    store.settings.rounds.rounds = 2
    new = correcting.ask_for_corrections(store, 1)
    assert len(pages(store)) == 9 and new == 9 + len(pages(store, gold=True))  # half of half an hour
    assert correcting.ask_for_corrections(store, 1) == 0


def test_clicks_are_answered_for_published_pages_alone(store):
    correcting.add_correct_pages(store, [c.mask_id for c in correcting.candidates(store, [1])][:1])
    (page,) = pages(store)
    browser = Browser(store, page)
    for task in (
        {"id": 999_999},
        {},
        None,
        {"id": page.number, "meta": {"key": "x"}, "data": {"image": "file:///etc"}},
    ):
        answer = browser.server.answer("5.1", XML, task, {"result": []})
        mask = [r for r in answer["result"] if r["type"] == "brushlabels"]
        assert bool(mask) == bool(task and task.get("id") == page.number)
        if not mask:
            assert "expected one that the campaign published" in answer["result"][0]["value"]["text"][0]


def test_without_a_model_the_annotator_is_told_so(store):
    with pytest.raises(InputError, match="train-interactive"):
        CampaignSegmenter(store)()


@pytest.mark.parametrize(
    ("section", "name", "bad"),
    [("rounds", "correct", 1.0), ("correct", "visits", 0), ("correct", "clicks", 65), ("correct", "seconds", 0)],
)
def test_settings_of_corrections_are_checked(section, name, bad):
    with pytest.raises(InputError, match=f"{section}.{name}"):
        parse_settings({"name": "t", section: {name: bad}}, "x")
