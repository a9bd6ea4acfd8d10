"""What annotators are told: the lead's files with example crops, in the pages and in Label Studio."""

import re

import pytest

from campaign.pages.gold import GoldPlan
from campaign.pages.instructions import (
    class_rules,
    examples,
    keep_instructions,
    project_instructions,
    write_templates,
)
from campaign.pages.projects import ensure_project
from campaign.pages.publishing import build_pages
from campaign.store import Store
from ml_backend.errors import InputError
from tests.campaign.builders import gold_store, is_good, turn, verify_store


@pytest.fixture
def store(tmp_path):
    return gold_store(tmp_path / "a", {"gold_share": 0.1})


def pictures(html):
    return re.findall(r'src=.(http[^\'" ]+/crops/[^\'" ]+\.jpg)', html)


def test_examples_are_held_out_masks_of_known_verdict_and_never_gold(store):
    found = examples(store)
    shown = {i for rows in found.values() for ids in rows.values() for i in ids}
    assert found.keys() == store.classes().keys() and shown
    for rows in found.values():
        assert all(is_good(i) for i in rows["good"]) and not any(is_good(i) for i in rows["bad"])
    assert examples(store) == found
    plan = GoldPlan(store)
    drawn = {mask for class_id in store.classes() for mask in plan.take(class_id, 1000)}
    assert drawn and not drawn & shown


def test_pages_show_the_rules_of_their_class_with_examples(store):
    turn(store)
    page = build_pages(store, store.pages.rows())[0]
    assert "Correct" in page.rules and "Wrong" in page.rules and len(pictures(page.rules)) > 1
    assert "When is a mask correct?" in page.rules


def test_the_lead_s_texts_come_first_and_name_their_own_crops(store):
    paths = write_templates(store)
    name = store.classes()[1]
    path = next(p for p in paths if p.parent.name == "classes" and f"classes: {name}" in p.read_text())
    assert class_rules(store)[1].count("<img") > 1, "a template alone changes nothing"
    mask = examples(store)[1]["good"][0]
    path.write_text(f"classes: {name}\n\nRound ones. ![like this](crop:{mask})\n")
    assert write_templates(store) == paths and "Round ones" in path.read_text(), "the lead's file stays"
    html = class_rules(store, {1})[1]
    assert len(pictures(html)) == 1 and html.index("Round ones") < html.index("When is a mask correct?")
    assert "Round ones" in project_instructions(store) and "How it works" in project_instructions(store)
    assert "brush" in project_instructions(store, "edit").lower()


def test_no_examples_before_there_are_predictions(tmp_path):
    store = gold_store(tmp_path / "a")
    with store.session() as session:
        from campaign.store import models as m

        for shard in session.query(m.Shard).filter_by(split="heldout"):
            session.delete(shard)
    assert examples(store) == {} and "<img" not in class_rules(store)[1]


@pytest.mark.label_studio
def test_label_studio_is_told_where_the_texts_changed(tmp_path, label_studio, label_studio_client):
    store = gold_store(tmp_path / "a", url=label_studio.url)
    store.save_secrets({"label_studio_token": label_studio.token})
    project = ensure_project(store, label_studio_client)
    keep_instructions(store, label_studio_client)
    assert keep_instructions(store, label_studio_client) == 0
    (store.folder / "instructions").mkdir()
    (store.folder / "instructions" / "rules.md").write_text("Only **whole** ones.")
    assert keep_instructions(store, label_studio_client) == 1
    told = label_studio_client.project(project)
    assert "<strong>whole</strong>" in told["expert_instruction"] and told["show_instruction"]


def test_desks_share_their_texts_and_take_none_back(tmp_path, postgres_server, s3, machines, monkeypatch):
    jobs = {"database_url": postgres_server.database("texts"), "redis_url": "redis://127.0.0.1:1/0"}

    def at(name):
        """One of the leads at their desk."""
        monkeypatch.chdir(machines(name))
        return Store.open(f"{s3}/mine"), machines(name) / "instructions" / "task.md"

    machines("one")
    verify_store(tmp_path / "a", place=f"{s3}/mine", jobs=jobs)
    store, ours = at("one")
    paths = write_templates(store)
    other, theirs = at("two")
    assert ours in paths and [p.name for p in write_templates(other)] == [p.name for p in paths]
    store, _ = at("one")
    ours.write_text("first")
    write_templates(store)
    other, _ = at("two")
    assert theirs.read_text() != "first"
    write_templates(other)  # an old copy takes what is newer
    assert theirs.read_text() == "first" and "first" in project_instructions(other)
    theirs.write_text("second")
    write_templates(other)
    store, _ = at("one")
    ours.write_text("third")
    (ours.parent / "classes" / "more.md").write_text("classes: more\n\nAlso these.")
    with pytest.raises(InputError, match=r"task.md: expected a text .*; remove it to take the shared one, or use"):
        write_templates(store)
    assert ours.read_text() == "third" and "second" in project_instructions(store)
    assert not store.files.has(store.folder / "instructions" / "classes" / "more.md")
    write_templates(store, take_desk=True)
    assert "third" in project_instructions(store)
    other, _ = at("two")
    theirs.write_text("fourth")
    (theirs.parent / ".shared.json").unlink()  # a copy of an earlier release
    with pytest.raises(InputError, match="not both, got another than the shared one"):
        write_templates(other)
    theirs.unlink()
    write_templates(other)
    assert theirs.read_text() == "third"
