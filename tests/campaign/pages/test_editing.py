"""Masks drawn by hand: corrections in the dataset and in the export, paintings as reference, single masks."""

import json

import numpy as np
import pytest
from pycocotools import mask as mask_util

from campaign.derived.dataset import final_masks, obtained
from campaign.derived.showing import shown_pages
from campaign.derived.team import as_json, team
from campaign.label_studio.drawing import DrawnAnnotation, DrawnTask
from campaign.label_studio.readback import parse_verdicts
from campaign.pages import editing, painting
from campaign.records.verdict import Verdict
from campaign.steps.export import export_campaign
from campaign.steps.replay import replay
from campaign.web.serving import StoreCrops
from ml_backend.errors import InputError
from ml_backend.mask_ids import is_drawn
from ml_backend.masks.brush import encode_brush_rles
from ml_backend.masks.editing import edit_prediction, edit_window
from ml_backend.masks.regions import Target, to_regions
from ml_backend.server.app import create_app
from tests.campaign.builders import answer, finish, gold_store, is_good, turn


@pytest.fixture
def store(tmp_path):
    store = gold_store(tmp_path / "a", {"wage_per_hour": 18.0})
    finish(store, 7)
    return store


def page_of(store, mask_id):
    return next(p.key for q, p in store.questions.rows(kind="edit") if q.mask_id == mask_id)


def edit(store, mask_id, change=None, said="corrected", number=1, gone=False):
    """An annotation on the edit page of a mask, as Label Studio tells it: its shape changed by `change`."""
    editing.add_edit_pages(store, [mask_id])
    found = store.masks.read([mask_id])
    height, width = (int(v) for v in found.size[0])
    window = edit_window(found.box[0].tolist(), width, height)
    shape = mask_util.decode(found.rles()[0])
    if change:
        change(shape)
    rle = mask_util.encode(np.asfortranarray(shape))
    result = edit_prediction(rle, window, "cell", "campaign")["result"]
    result[-1]["value"]["choices"] = [said]
    stamp = f"2026-01-01T00:00:{number:02d}.000000Z"
    told = DrawnAnnotation(5000, 7, stamp, 40.0, False, result)
    store.drawings.add(editing.edit_facts(store, [DrawnTask(1, page_of(store, mask_id), [] if gone else [told])]))
    return shape


def widen(shape):
    ys, xs = np.nonzero(shape)
    shape[ys.min() : ys.max() + 1, xs.min() : xs.max() + 4] = 1


def wrong_mask(store):
    return editing.near_misses(store, 1, 1)[0]


def test_masks_to_be_corrected_were_voted_no_and_show_what_the_dataset_has_not(store):
    found = editing.near_misses(store, 1, 10)
    assert found and not any(is_good(i) for i in found)
    scores = store.masks.read(found).score
    assert (np.diff(scores) <= 0).all()
    editing.add_edit_pages(store, found)
    assert editing.near_misses(store, 1, 10) != found, "none is put up twice"
    assert editing.add_edit_pages(store, found) == 0


def test_masks_of_a_cluster_to_be_corrected_leave_out_those_voted_yes(store):
    was = max((d for d in store.decisions.rows() if d.kind == "accept"), key=lambda d: d.size)
    voted = {a.mask_id for a in store.answers.rows() if a.verdict == "yes"}
    found = editing.cluster_masks(store, 1, was.class_id, was.cluster, 1000)
    assert found and not voted & set(found) and len(found) < was.size
    with pytest.raises(InputError, match="cluster"):
        editing.cluster_masks(store, 1, was.class_id, 10**6, 5)


def test_a_corrected_mask_takes_the_place_of_what_it_was(store, tmp_path):
    mask = wrong_mask(store)
    before = set(final_masks(store).mask_id.tolist())
    assert mask not in before
    shape = edit(store, mask, widen)
    (new,) = set(final_masks(store).mask_id.tolist()) - before
    masks = final_masks(store)
    row = masks.mask_id.tolist().index(new)
    assert is_drawn(new) and (mask_util.decode(masks.rles()[row]) == shape).all()
    assert masks.voted[row] and masks.rule[row] == f"edited, mask {mask} before"
    path = tmp_path / "export.json"
    export_campaign(store, path)
    (told,) = [a for a in json.loads(path.read_text())["annotations"] if a["attributes"]["mask_id"] == new]
    assert told["attributes"]["source"] == "edited" and told["area"] == int(shape.sum())
    view = StoreCrops(store).mask(new)
    assert (mask_util.decode(view.rle) == shape).all()


def test_the_newest_correction_counts_and_a_deleted_one_does_not(store):
    mask = wrong_mask(store)
    before = final_masks(store).mask_id.tolist()
    edit(store, mask, widen)
    first = final_masks(store).mask_id.tolist()
    edit(store, mask, number=2)
    second = final_masks(store).mask_id.tolist()
    assert len(second) == len(first) == len(before) + 1 and first != second
    edit(store, mask, gone=True)
    assert final_masks(store).mask_id.tolist() == before
    assert [d.state for d in store.drawings.standing()] == []


def test_a_mask_that_shows_no_object_leaves_the_dataset(store):
    mask = next(i for i in final_masks(store).mask_id.tolist() if not is_drawn(i))
    edit(store, mask, said="no such object")
    assert mask not in final_masks(store).mask_id
    edit(store, mask, said="unsure", number=2)
    assert mask in final_masks(store).mask_id


def test_rounds_that_are_over_take_corrections_in_and_replay_keeps_them(store):
    store.datasets.save(1, obtained(store, 1))
    store.rounds.end(1, {}, follow=False)
    edit(store, wrong_mask(store), widen)
    store.datasets.save(1, obtained(store, 1))
    assert any(is_drawn(i) for i in final_masks(store).mask_id.tolist())
    assert replay(store)["changed"] == 0


def test_a_malformed_drawing_counts_as_unsure(store):
    mask = wrong_mask(store)
    editing.add_edit_pages(store, [mask])
    bad = to_regions(
        mask_util.encode(np.ones((5, 5), np.uint8, order="F")), Target("BrushLabels", "mask", "image", "x")
    )
    verdict = {"from_name": "verdict", "type": "choices", "value": {"choices": ["corrected"]}}
    told = DrawnAnnotation(1, 7, "2026-01-01T00:00:01.000000Z", 1.0, False, [*bad, verdict])
    store.drawings.add(editing.edit_facts(store, [DrawnTask(1, page_of(store, mask), [told])]))
    assert [d.state for d in store.drawings.standing()] == ["unsure"]


def test_drawing_is_part_of_the_cost(store):
    before = as_json(team(store))
    edit(store, wrong_mask(store), widen)
    after = as_json(team(store))
    assert (after["hours"] - before["hours"]) * 3600 == pytest.approx(40)
    assert after["cost"] == pytest.approx(after["hours"] * 18) and after["drawn"] == 1
    assert after["published_cost_per_drawn_mask"] == pytest.approx(0.4)
    assert sum(c["cost"] for c in after["classes"]) == pytest.approx(after["cost"])
    assert sum(u["cost"] for u in after["users"]) == pytest.approx(after["cost"])


def paint(store, shapes):
    """One painted page with these (class name, mask of the part) regions; gives its key."""
    painting.add_paint_pages(store, 1, 200)
    page = next(p for p in store.pages.rows() if p.kind == "paint")
    result = []
    for name, shape in shapes(page.place["window"]):
        rle = encode_brush_rles([mask_util.encode(np.asfortranarray(shape))])[0]
        region = {"from_name": "mask", "type": "brushlabels", "original_width": 200, "original_height": 200}
        result.append(region | {"id": name, "value": {"brushlabels": [name], "rle": rle}})
    told = DrawnAnnotation(9, 7, "2026-01-01T00:00:01.000000Z", 400.0, False, result)
    store.drawings.add(painting.paint_facts(store, [DrawnTask(1, page.key, [told])]))
    return page


def test_a_part_of_an_image_is_drawn_once_by_the_seed(store):
    assert painting.add_paint_pages(store, 5, 150) == 1, "there is one image"
    assert painting.add_paint_pages(store, 5, 150) == 0
    (page,) = [p for p in store.pages.rows() if p.kind == "paint"]
    x0, y0, x1, y1 = page.place["window"]
    assert x1 - x0 == y1 - y0 == 150 and x1 <= 400 and y1 <= 400


def test_painted_masks_tell_the_sq_of_the_dataset(store):
    def shapes(window):
        x0, y0, x1, y1 = window
        masks = final_masks(store)
        for rle, class_id in zip(masks.rles(), masks.class_id.tolist(), strict=True):
            part = mask_util.decode(rle)[y0:y1, x0:x1]
            if part.sum() * 2 > mask_util.area(rle):
                yield store.classes()[class_id], part

    paint(store, shapes)
    found = painting.reference(store)
    assert found.painted == found.masks == found.matched > 0 and found.sq == pytest.approx(1.0)
    assert len(final_masks(store)) == len(obtained(store, 1)), "painted masks stay out of the dataset"


def test_without_a_painting_there_is_no_sq(store):
    painting.add_paint_pages(store, 1)
    assert painting.reference(store).sq is None and painting.reference(store).answered == 0


def test_a_part_of_an_image_is_served(store):
    from ml_backend.server.signing import image_url

    app = create_app(StoreCrops(store), secret=store.secret("crop_key")).test_client()
    url = image_url("", store.secret("crop_key"), store.images.records("pool")[0].id, 4e9)
    assert app.get(f"{url}?bright=1&window=10,20,60,50").mimetype == "image/png"
    for bad in ("10,20,60", "60,20,10,50", "0,0,500,500", "a,b,c,d", "-1,0,5,5"):
        assert app.get(f"{url}?bright=1&window={bad}").status_code == 400


def test_difficult_classes_are_asked_one_mask_at_a_time(tmp_path):
    plain = gold_store(tmp_path / "a", {"gold_share": 0.1})
    single = gold_store(tmp_path / "b", {"gold_share": 0.1})
    single.settings.page.single_classes = [single.classes()[1]]
    finish(plain, 7)
    finish(single, 7)
    decisions = [sorted((d.class_id, d.cluster, d.kind) for d in s.decisions.rows()) for s in (plain, single)]
    assert decisions[0] == decisions[1]
    for page in single.pages.rows():
        masks = [q for q, p in single.questions.rows(gold=True) if p.key == page.key]
        assert page.screen == ("single" if page.class_id == 1 else "verification")
        assert (len(masks) == 1) == (page.screen == "single")
    alone = [q.gold for q, p in single.questions.rows(gold=True) if p.screen == "single"]
    assert "yes" in alone and "no" in alone and None in alone


@pytest.mark.parametrize(
    ("said", "masks", "meant"),
    [("yes", [4], {4: Verdict.YES}), ("no", [4], {4: Verdict.NO}), ("unsure", [4], {4: Verdict.UNSURE}),
     ("maybe", [4], {}), ("yes", [4, 5], {})],
)  # fmt: skip
def test_the_verdict_on_a_single_mask(said, masks, meant):
    named = {str(i): i for i in masks}
    assert parse_verdicts([{"from_name": "verdict", "value": {"choices": [said]}}], named) == meant


def test_audits_of_single_masks(store):
    from campaign.pages.audits import begin_audit

    store.settings.page.single_audits = True
    begin_audit(store, 12)
    pages = [p for p in store.pages.rows() if p.kind == "audit1"]
    assert pages and {p.screen for p in pages} == {"single"}
    assert len(store.questions.rows(kind="audit1")) == len(pages)
    keys = turn(store)
    assert keys == []
    for page in pages:
        answer(store, page.key, 7)
    from campaign.pages.audits import finish_audit

    assert not isinstance(finish_audit(store), int)


@pytest.mark.label_studio
def test_corrections_paintings_and_single_masks_go_through_label_studio(tmp_path, label_studio, label_studio_client):
    from campaign.steps.verify import turn as whole_turn

    client = label_studio_client
    store = gold_store(tmp_path / "a", url=label_studio.url)
    store.save_secrets({"label_studio_token": label_studio.token})
    store.settings.page.single_classes = [store.classes()[1]]
    whole_turn(store, client)
    single = store.values.project("single")
    asked = {"project": single, "fields": "all", "page_size": 1000}
    tasks = client.request("GET", "api/tasks/", params=asked)["tasks"]
    assert len(tasks) == sum(p.screen == "single" for p in store.pages.rows()) > 0
    for task in tasks:
        (mask,) = shown_pages(store, [task["id"]])[task["id"]].masks.values()
        said = "yes" if is_good(mask) else "no"
        result = [{"from_name": "verdict", "to_name": "title", "type": "choices", "value": {"choices": [said]}}]
        client.request("POST", f"api/tasks/{task['id']}/annotations/", body={"result": result})
    assert whole_turn(store, client).read == len(tasks)
    assert all(a.verdict == ("yes" if is_good(a.mask_id) else "no") for a in store.answers.rows())
    (mask,) = shown_pages(store, [tasks[0]["id"]])[tasks[0]["id"]].masks.values()
    editing.add_edit_pages(store, [mask])
    assert editing.publish_edits(store, client) == 1 and editing.publish_edits(store, client) == 0
    painting.add_paint_pages(store, 1)
    painting.publish_paintings(store, client)
    project = store.values.project("edit")
    (task,) = client.request("GET", "api/tasks/", params=asked | {"project": project})["tasks"]
    body = {"result": task["predictions"][0]["result"], "lead_time": 30.0}
    client.request("POST", f"api/tasks/{task['id']}/annotations/", body=body)
    assert editing.read_edits(store, client) == 1 and editing.read_edits(store, client) == 0
    assert painting.read_paintings(store, client) == 0
    (drawing,) = store.drawings.standing()
    same = store.masks.read([int(i) for i in final_masks(store).mask_id if is_drawn(int(i))])
    assert drawing.state == "corrected" and same.rle[0] == store.masks.read([mask]).rle[0]
