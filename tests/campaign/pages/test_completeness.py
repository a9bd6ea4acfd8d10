"""Pages that ask what is missing: what they show, what their answers mean, and what follows from them."""

import json

import numpy as np
import pytest

from campaign.demo.eyes import Habits
from campaign.demo.finders import Finder, SeenTruth
from campaign.demo.sight import Sight
from campaign.derived.dataset import final_masks
from campaign.derived.recall import (
    complete_images,
    gold_pages,
    is_gold,
    judged,
    points,
    recall_figures,
    recall_of,
    sample,
)
from campaign.label_studio.drawing import DrawnAnnotation
from campaign.pages import completeness
from campaign.pages.completeness import add_complete_pages, clicked_points, shown_masks
from campaign.pages.projects import abandon_project
from campaign.steps.export import export_campaign
from campaign.steps.train import training_set
from campaign.web.serving import StoreCrops
from ml_backend.errors import InputError
from ml_backend.server.app import create_app
from ml_backend.server.signing import part_url
from tests.campaign.looked import (
    PER_IMAGE,
    annotation,
    look,
    looked_store,
    objects_missing,
    place_of,
    rle_of,
    tell,
    truth_file,
)

LACKS = {1: {3, 4}, 4: {0}}


@pytest.fixture
def store(tmp_path):
    return looked_store(tmp_path / "a", LACKS)


def asked(store):
    return [p for p in store.pages.rows(kind="complete") if not is_gold(p)]


def gold(store):
    return [p for p in store.pages.rows(kind="complete") if is_gold(p)]


def test_more_images_go_on_in_the_same_order(store, tmp_path):
    other = looked_store(tmp_path / "b", LACKS)
    add_complete_pages(store, 2)
    add_complete_pages(store, 3)
    add_complete_pages(other, 5)
    order = [[p.place["image_id"] for p in sorted(asked(s), key=lambda p: p.place["unit"])] for s in (store, other)]
    assert order[0] == order[1] and len(set(order[0])) == 5
    assert add_complete_pages(store, 5) == 1, "there are six images"
    assert add_complete_pages(store, 5) == 0


def test_a_draw_notes_what_it_rests_on(store):
    add_complete_pages(store, 6)
    pages = sorted(asked(store), key=lambda p: p.place["unit"])
    masks = final_masks(store)
    left = {str(c): int((masks.class_id == c).sum()) for c in (1, 2)}
    share = 1.0
    for page in pages:
        place = page.place
        assert place["rest"] == {c: n for c, n in left.items() if n} and place["share"] == pytest.approx(share)
        here = masks.mask_id[masks.image_id == place["image_id"]]
        assert sorted(place["masks"]) == sorted(here.tolist())
        left = {c: n - place["shown"].get(c, 0) for c, n in left.items()}
        share *= 1 - place["chance"]
    assert share == pytest.approx(0, abs=1e-9) and not any(left.values())


def test_gold_lacks_known_objects_and_cannot_be_told_from_the_others(store):
    add_complete_pages(store, 4)
    assert len(gold(store)) == 4, "there are four held-out images"
    for page in gold(store):
        assert {k for k in objects_missing(store, page)} >= {7}
        assert len(page.place["missing"]) == len(objects_missing(store, page))
    add_complete_pages(store, 2)
    assert len(gold(store)) == 4
    pages = store.pages.rows(kind="complete")
    tasks = completeness._tasks(store, pages)
    assert {frozenset(tasks[p.name]["data"]) for p in pages} == {frozenset({"key", "image", "title", "rules"})}
    assert {frozenset(tasks[p.name]) for p in pages} == {frozenset({"data", "meta"})}
    assert {(len(p.name), len(tasks[p.name]["data"]["image"])) for p in pages} == {
        (32, len(tasks[pages[0].name]["data"]["image"]))
    }
    names = [image.file_name for image in store.images.records()]
    assert not any(name in str(task) for task in tasks.values() for name in names)


def test_clicks_become_points_of_the_image(store):
    add_complete_pages(store, 6)
    page = next(p for p in asked(store) if len(objects_missing(store, p)) == 2)
    tell(store, page.key, annotation(page.place, [3, 4]))
    (drawing,) = store.drawings.standing()
    assert drawing.state == "missing" and drawing.image_id == page.place["image_id"] and drawing.lead_time == 12
    expected = [{"class_id": 1, "x": place_of(k)[0] + 12.0, "y": place_of(k)[1] + 12.0} for k in (3, 4)]
    assert drawing.masks["points"] == expected
    assert points(store) == [{"image_id": page.place["image_id"], **p} for p in expected]


def test_a_page_is_answered_skipped_deleted_and_answered_again(store):
    add_complete_pages(store, 1)
    (page,) = asked(store)
    missing = objects_missing(store, page)

    def states():
        return [d.state for d in store.drawings.standing()]

    first = annotation(page.place, missing, number=5)
    tell(store, page.key, first)
    tell(store, page.key, first)
    assert len(states()) == 1
    tell(store, page.key)
    assert states() == []
    doubt = annotation(page.place, [], "cannot tell", number=6)
    tell(store, page.key, doubt)
    assert states() == ["unsure"]
    tell(store, page.key, doubt, annotation(page.place, []))
    assert recall_figures(store)["complete"] == 1, "the newest answer counts"


SURE = {"from_name": "verdict", "value": {"choices": ["complete"]}}


@pytest.mark.parametrize(
    "result",
    [
        [],
        [{"from_name": "verdict", "value": {"choices": ["cannot tell"]}}],
        [{"from_name": "missing", "value": {"x": "a", "y": 3}}, SURE],
        [{"from_name": "missing", "value": {"x": 400, "y": 3}}, SURE],
    ],
)
def test_what_says_nothing_counts_as_unsure(store, result):
    add_complete_pages(store, 1)
    (page,) = asked(store)
    tell(store, page.key, DrawnAnnotation(1, 7, "2026-01-01T00:00:01.000000Z", 1.0, False, result))
    assert [d.state for d in store.drawings.standing()] == ["unsure"]


def test_a_click_without_a_class_has_the_only_one_or_none():
    click = [{"id": "a", "from_name": "missing", "value": {"x": 50.0, "y": 10.0}}]
    assert clicked_points(click, [100, 0, 300, 100], {"cell": 4}) == [{"class_id": 4, "x": 200.0, "y": 10.0}]
    assert clicked_points(click, [100, 0, 300, 100], {"cell": 4, "dot": 5})[0]["class_id"] is None


def test_recall_is_known_once_a_batch_is_answered(store):
    add_complete_pages(store, 6)
    assert recall_of(store, 1.0) is None
    look(store)
    recall = recall_of(store, 1.0, precision_error=0.0)
    true = 1 - 3 / (6 * PER_IMAGE)
    assert recall.overall.estimate == pytest.approx(true, abs=0.002)
    assert 0.5 < recall.overall.bound <= true and recall.complete == 4 and recall.overall.clicked == 3
    assert recall.classes[2].clicked == 1 and recall.finder.known >= 4 and recall.finder.sensitivity == 1
    half = recall_of(store, 0.5, precision_error=0.0)
    assert half.overall.bound == pytest.approx(recall.overall.bound / 2)


def test_an_open_page_waits_and_an_older_batch_counts(store):
    add_complete_pages(store, 2)
    look(store)
    add_complete_pages(store, 4)
    draws, looks = sample(store)
    assert len(draws) == 2 and looks == [2]
    look(store)
    assert len(sample(store)[0]) == 6 and sample(store)[1] == [2, 6]


def test_whoever_overlooks_much_lowers_the_bound(tmp_path):
    bounds = []
    for name, careless in (("a", False), ("b", True)):
        store = looked_store(tmp_path / name, LACKS)
        add_complete_pages(store, 6)
        for n, page in enumerate(store.pages.rows(kind="complete")):
            missing = objects_missing(store, page)
            tell(
                store,
                page.key,
                annotation(page.place, missing[1:] if careless and is_gold(page) and n % 2 else missing),
            )
        bounds.append(recall_of(store, 1.0, precision_error=0.0).overall.bound)
        assert (sum(p.found < p.known for p in gold_pages(store)) > 0) == careless
    assert bounds[1] < bounds[0]


def test_a_click_beside_an_object_means_it_and_one_elsewhere_is_false(store):
    add_complete_pages(store, 1)
    shape = next(s for s in gold(store)[0].place["missing"] if s["counts"] == rle_of(7)["counts"].decode())
    place, (x, y) = {"missing": [shape], "doubtful": []}, place_of(7)
    for dx, found in ((-4, 1), (-7, 0)):
        judgement = judged(place, [{"class_id": shape["class_id"], "x": x + dx, "y": y + 5}])
        assert (judgement.found, judgement.false) == (found, 1 - found)
    wrong_class = 3 - shape["class_id"]
    assert judged(place, [{"class_id": wrong_class, "x": x + 3, "y": y + 5}]).found == 0


def test_images_without_anything_missing_are_exhaustive_in_training(store):
    add_complete_pages(store, 6)
    look(store)
    images = store.images.records("pool")
    masks = final_masks(store)
    whole = {image.id for n, image in enumerate(images) if n not in LACKS}
    assert complete_images(store, masks) == whole
    data = training_set(store, 2)
    assert {i.id for i in data.images if i.exhaustive} == whole
    # A mask that is gone leaves its object without one.
    some = next(iter(whole))
    gone = int(np.flatnonzero(masks.image_id == some)[0])
    left = masks.select([i for i in range(len(masks)) if i != gone])
    assert complete_images(store, left) == whole - {some}


def test_an_image_that_is_empty_and_complete_teaches_background(tmp_path):
    store = looked_store(tmp_path / "a", {2: set(range(PER_IMAGE))}, heldout=2)
    empty = store.images.records("pool")[2].id
    assert empty not in {i.id for i in training_set(store, 2).images}
    add_complete_pages(store, 6)
    for page in asked(store):
        tell(store, page.key, annotation(page.place, []))
    (record,) = [i for i in training_set(store, 2).images if i.id == empty]
    assert record.exhaustive


def test_recall_stands_in_the_export(store, tmp_path):
    add_complete_pages(store, 6)
    look(store)
    path = tmp_path / "export.json"
    export_campaign(store, path)
    told = json.loads(path.read_text())["info"]["recall"]
    assert told["bound"] is None and told["estimate"] == pytest.approx(0.98, abs=0.002)
    assert set(told["per_class"]) == {"cell", "dot"} and "not certified" in told["notes"][-1]


def test_a_page_shows_a_picture_with_the_masks_of_then(store):
    add_complete_pages(store, 6)
    page = asked(store)[0]
    app = create_app(StoreCrops(store), secret=store.secret("crop_key")).test_client()
    url = part_url("", store.secret("crop_key"), page.number, 4e9)
    shown = app.get(url)
    assert shown.status_code == 200 and shown.mimetype == "image/jpeg"
    assert app.get(part_url("", store.secret("crop_key"), 999, 4e9)).status_code == 404
    assert app.get(url[:-8] + "xxxx.jpg").status_code == 403
    assert len(shown_masks(store, page.place)) == len(page.place["masks"])


def test_an_empty_dataset_has_nothing_to_ask_about(tmp_path):
    store = looked_store(tmp_path / "a", {n: set(range(PER_IMAGE)) for n in range(6)})
    with pytest.raises(InputError, match="dataset"):
        add_complete_pages(store, 3)
    assert store.pages.rows(kind="complete") == []


@pytest.mark.label_studio
def test_what_is_missing_is_asked_through_label_studio(tmp_path, label_studio, label_studio_client):
    client = label_studio_client
    store = looked_store(tmp_path / "a", LACKS, label_studio={"url": label_studio.url})
    add_complete_pages(store, 6)
    assert completeness.publish_complete(store, client) == 10 and completeness.publish_complete(store, client) == 0
    project = store.values.project("complete")
    truth = SeenTruth(truth_file(store, tmp_path / "truth.json"))
    finder = Finder(label_studio.url, label_studio.user, label_studio.password, truth, Habits(), 0.0, Sight(store))
    finder.enter(None)
    while finder.answer_next(project):
        pass
    assert completeness.read_complete(store, client) == 10 and completeness.read_complete(store, client) == 0
    found = {(p["image_id"], p["x"], p["y"]) for p in points(store)}
    images = store.images.records("pool")
    middles = {n: (place_of(k)[0] + 12.0, place_of(k)[1] + 12.0) for n, ks in LACKS.items() for k in ks}
    assert len(found) == 3 and {image for image, _, _ in found} == {images[n].id for n in middles}
    assert recall_figures(store)["estimate"] == pytest.approx(0.98, abs=0.002)
    asked_tasks = {"project": project, "fields": "all", "page_size": 1000}
    tasks = client.request("GET", "api/tasks/", params=asked_tasks)["tasks"]
    gone = next(
        t
        for t in tasks
        if len(t["annotations"][0]["result"]) > 1 and not is_gold(store.pages.of_tasks([t["id"]])[t["id"]])
    )
    client.request("DELETE", f"api/annotations/{gone['annotations'][0]['id']}/")
    assert completeness.read_complete(store, client) == 1
    assert len(points(store)) < 3 and recall_figures(store)["estimate"] is None
    client.sdk.projects.delete(id=project)
    abandon_project(store, client)
    assert len(store.pages.rows(published=False, kind="complete")) == 1, "answers that were read stay"
    assert completeness.publish_complete(store, client) == 1 and store.values.project("complete") != project


def test_one_training_sees_so_many_images_complete_ones_first(store):
    add_complete_pages(store, 6)
    look(store)
    masks = final_masks(store)
    labelled = {image.id for image in store.images.records("labelled")}
    complete = complete_images(store, masks)
    everything = {image.id for image in training_set(store, 2).images} - labelled
    assert 0 < len(complete) < len(everything)
    store.settings.rounds.train_images = len(complete) + 1
    data = training_set(store, 2)
    chosen = {image.id for image in data.images} - labelled
    assert complete < chosen < everything and len(chosen) == len(complete) + 1
    assert {a.image_id for a in data.annotations} - labelled <= chosen
