"""A campaign that was begun with an earlier release goes on where it stood, on both databases."""

import json
import threading

import pytest

from campaign.derived.dataset import obtained
from campaign.derived.live import live
from campaign.derived.showing import task_name
from campaign.derived.status import status
from campaign.label_studio.client import Client
from campaign.pages.consistency import findings
from campaign.records.stage import Stage
from campaign.steps.replay import replay
from campaign.steps.verify import turn as whole_turn
from campaign.store import Store
from tests.campaign.builders import answer, finish, is_good, turn
from tests.campaign.store.releases import RELEASES, change_settings, engine_of, migrate, unpack
from tests.security.faults.label_studio import FIRST_TOKEN, LabelStudio
from tests.security.faults.machines import free_port


def came_to(store):
    """What a campaign came to, in the words of `expected.json`."""
    decisions = sorted([d.class_id, d.cluster, d.kind, d.asked, d.yes] for d in store.decisions.rows())
    masks = obtained(store, 1).mask_id.tolist()
    return {"decisions": decisions, "masks": masks, "questions": status(store)["questions"]}


def expected_of(store):
    """(what the release left, what it came to)"""
    expected = json.loads((store.folder / "expected.json").read_text())
    left = {"answers": expected["answers_before"], "pages": expected["pages_before"]}
    return left, {name: expected[name] for name in ("decisions", "masks", "questions")}


@pytest.mark.parametrize("release", RELEASES)
def test_a_campaign_goes_on_to_the_end_that_its_release_comes_to(tmp_path, database, release):
    store = Store.open(unpack(release, tmp_path / "old", database("upgraded")))
    left, expected = expected_of(store)
    pages = store.pages.rows()
    assert {"answers": len(store.answers.rows()), "pages": len(pages)} == left
    assert [p.number for p in pages] == list(range(1, len(pages) + 1))
    turn(store)
    answered = {f.page_key for f in store.answers.rows()}
    for page in store.pages.rows():
        if page.kind == "verify" and page.key not in answered:
            answer(store, page.key, 7)
    finish(store, 7)
    assert came_to(store) == expected


@pytest.fixture
def label_studio():
    """The stand-in for Label Studio, in this process."""
    server = LabelStudio(free_port())
    threading.Thread(target=server.serve, daemon=True).start()
    return server


def answer_open(server, store):
    """One user answers every open page of questions as its crops are named; returns how many there were."""
    asked = {task_name(p): store.questions.on_pages([p.key]) for p in store.pages.rows(kind="verify")}
    tasks = [t for t in server.books.tasks.values() if not t["annotations"] and t["meta"]["key"] in asked]
    for task in tasks:
        mask_of = {a.name or str(a.mask_id): a.mask_id for a in asked[task["meta"]["key"]]}
        wrong = [crop["value"] for crop in task["data"]["crops"] if not is_good(mask_of[crop["value"]])]
        said = [("status", ["reviewed"]), *([("wrong", wrong)] if wrong else [])]
        result = [{"from_name": n, "to_name": "t", "type": "choices", "value": {"choices": c}} for n, c in said]
        server.annotate({"task": task["id"], "user": 1, "result": result})
    return len(tasks)


def test_tasks_that_a_release_published_are_read_on(tmp_path, database, label_studio, monkeypatch):
    """0.2.0 wrote masks' ids into its tasks: they stay in Label Studio, are answered there, and count."""
    folder = unpack("0.2.0", tmp_path / "old", database("read_on"))
    monkeypatch.chdir(folder)  # where its images lie
    change_settings(folder, "label_studio", url=f"http://127.0.0.1:{label_studio.port}")
    books = json.loads((folder / "label_studio.json").read_text())
    label_studio.books.numbers = books["numbers"]
    label_studio.books.hooks = books["hooks"]
    label_studio.books.projects = {int(n): project for n, project in books["projects"].items()}
    label_studio.books.tasks = {int(n): task for n, task in books["tasks"].items()}
    store, client = Store.open(folder), Client(f"http://127.0.0.1:{label_studio.port}", FIRST_TOKEN)
    _, expected = expected_of(store)
    drawn = [(d.state, d.annotator) for d in store.drawings.standing()]
    assert whole_turn(store, client).read == 0, "what the release had read is not read twice"
    while answer_open(label_studio, store):
        whole_turn(store, client)
    assert store.rounds.newest().stage == Stage.PROPAGATE
    assert came_to(store) == expected
    assert [(d.state, d.annotator) for d in store.drawings.standing()] == drawn
    assert drawn == [("corrected", "2"), ("painted", "1")]
    assert replay(store)["changed"] == 0
    store.engine.dispose()
    assert [f"{f.thing} {f.problem}" for f in findings(Store.open(folder, read_only=True), client, pause=0.1)] == []


def test_a_campaign_that_names_no_policy_keeps_the_one_it_was_begun_with(tmp_path):
    folder = unpack("0.1.0", tmp_path / "old")
    path = folder / "campaign.json"
    content = json.loads(path.read_text())
    del content["settings"]["search"]["policy"]
    path.write_text(json.dumps(content))
    assert Store.open(folder).settings.search.policy == "adaptive"
    del content["settings"]["search"]
    path.write_text(json.dumps(content))
    assert Store.open(folder).settings.search.policy == "adaptive"


def test_a_campaign_that_went_back_a_release_goes_on(tmp_path, database):
    url = database("back")
    store = Store.open(unpack("0.2.0", tmp_path / "old", url))
    turn(store)
    store.engine.dispose()
    engine = engine_of(store.folder, url)
    migrate(engine, "0004")
    engine.dispose()
    again = Store.open(store.folder)
    assert sum(f["answered"] for f in live(again).summaries(1).values()) > 0
