"""Practice pages: they say what was right and why, and nothing of them is ever used in real work."""

import re

import pytest

from campaign.pages.gold import GoldPlan, clear_pages
from campaign.pages.instructions import examples
from campaign.pages.practice import begin_practice, practices
from campaign.pages.readback import read_back
from campaign.store.values import Key
from ml_backend.errors import InputError
from tests.campaign.builders import gold_store, is_good, turn, verify_store


def practised_masks(store) -> set[int]:
    made = store.values.get(Key.PRACTICE)["made"]
    return {int(i) for practice in made for page in practice["pages"] for i in page["gold"]}


def gold_left(store) -> set[int]:
    plan = GoldPlan(store, wanted=True)
    return {mask for class_id in store.classes() for mask in plan.take(class_id, 1000)}


def test_so_many_pages_are_drawn_of_clear_gold_the_classes_in_turn(tmp_path):
    store = gold_store(tmp_path / "a")
    drawn = clear_pages(store, 3)
    assert [c for c, _ in drawn] == [1, 2, 1] and all(len(gold) == 15 for _, gold in drawn)
    assert all((word == "yes") == is_good(mask) for _, gold in drawn for mask, word in gold.items())


@pytest.mark.label_studio
def test_practice_teaches_and_its_masks_are_never_gold(tmp_path, label_studio, label_studio_client):
    store = gold_store(
        tmp_path / "a", {"gold_share": 0.1}, url=label_studio.url, iou=lambda i: 1.0 if is_good(i) else 0.5
    )
    store.save_secrets({"label_studio_token": label_studio.token})
    turn(store)
    before = {q.mask_id for q, _ in store.questions.gold()}
    pages = store.pages.newest()
    project = begin_practice(store, label_studio_client, 2)
    assert practices(store) == [{"number": 1, "project": project}] and store.pages.newest() == pages
    tasks = list(label_studio_client.tasks(project, "id,data,meta"))
    assert len(tasks) == 2
    for task in tasks:
        lessons = [re.search(r"cv-lesson cv-is-(yes|no)'.*</b> (.*?)</span>", c["html"]) for c in task["data"]["crops"]]
        assert {lesson[1] for lesson in lessons} == {"yes", "no"}
        said = {(lesson[1], lesson[2]) for lesson in lessons}
        assert said == {("yes", "The mask is correct."), ("no", "Too large: 50 % of the mask lies beside the object.")}
        assert not {c["value"] for c in task["data"]["crops"]} & {str(i) for i in practised_masks(store)}

    masks = practised_masks(store)
    assert len(masks) == 30 and not masks & before
    # A process that was killed before it noted the project goes on with the same practice.
    made = store.values.get(Key.PRACTICE)["made"]
    store.values.set(Key.PRACTICE, {"made": [made[0] | {"project": None}]})
    assert begin_practice(store, label_studio_client, 2) == project
    assert len(list(label_studio_client.tasks(project, "id"))) == 2 and practised_masks(store) == masks

    again = begin_practice(store, label_studio_client, 1)
    assert again != project and len(practised_masks(store)) == 45
    masks = practised_masks(store)
    left = gold_left(store)
    assert left and not left & masks
    shown = {i for rows in examples(store).values() for ids in rows.values() for i in ids}
    assert not shown & masks
    assert read_back(store, label_studio_client) == 0 and store.answers.rows() == []
    for number in (project, again):
        label_studio_client.request("DELETE", f"api/projects/{number}/")


@pytest.mark.label_studio
def test_without_gold_there_is_no_practice(tmp_path, label_studio, label_studio_client):
    store = verify_store(tmp_path / "a", label_studio={"url": label_studio.url})
    with pytest.raises(InputError, match="practice: expected held-out images"):
        begin_practice(store, label_studio_client)
    assert practices(store) == [] and store.values.get(Key.PRACTICE) is None
