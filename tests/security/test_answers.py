"""Answers forged, doubled, erased and malformed: a page's answers are those of its own task, of its own users."""

from __future__ import annotations

import uuid

import pytest

from campaign.derived.spending import questions_allowed
from campaign.derived.status import status
from campaign.label_studio.readback import AnnotationSnapshot, Changes, ForeignTask, TaskSnapshot, parse_task
from campaign.pages import readback
from campaign.pages.readback import facts, put_aside, read_answers, stamps_of
from campaign.pages.watching import wanted_overlaps
from campaign.quality.answers import standing_answers, verdicts
from campaign.records.page import ShownPage
from campaign.records.verdict import Verdict
from campaign.steps.verify import turn as whole_turn
from tests.campaign.builders import answer, gold_store, turn

T = "2026-01-01T00:00:{:02d}.000000Z"
YES, NO = Verdict.YES, Verdict.NO


def annotation(number: int, user: int, masks, verdict=YES, at: int = 1, **more) -> AnnotationSnapshot:
    return AnnotationSnapshot(number, user, T.format(at), 20.0, False, dict.fromkeys(masks, verdict), **more)


@pytest.fixture
def store(tmp_path):
    return gold_store(tmp_path / "a", {"gold_share": 0})


@pytest.fixture
def page(store):
    """(key, masks) of a page that waits for answers."""
    key = turn(store)[0]
    store.pages.mark_published({key: 77})
    return key, [a.mask_id for a in store.questions.on_pages([key])]


def read(store, monkeypatch, *annotations: AnnotationSnapshot, key: str = "", task: int = 77, foreign=()) -> int:
    """One look at the project, in which the page's task holds these annotations."""
    changes = Changes([TaskSnapshot(task, key, list(annotations))] if key else [], list(foreign), "{}")
    monkeypatch.setattr(readback, "read_changes", lambda *_: changes)
    with store.locked():
        return read_answers(store, None, 1, "cursor")


def test_nobody_outvotes_others_by_answering_often(store, page, monkeypatch):
    key, masks = page
    crowd = [annotation(1, 1, masks, YES), annotation(2, 2, masks, YES)]
    often = [annotation(10 + n, 3, masks, NO, 2 + n) for n in range(5)]
    read(store, monkeypatch, *crowd, *often, key=key)
    assert verdicts(store.answers.rows()) == dict.fromkeys(masks, YES)
    assert len(standing_answers(store.answers.rows())) == 3 * len(masks)
    assert status(store)["set_aside"] == {
        "changed": 0,
        "late": 0,
        "doubled": 4,
        "foreign": 0,
        "unknown": 0,
        "deleted": 0,
    }
    # The newest is heard; once it is deleted, the one before.
    often[-1] = annotation(14, 3, masks, YES, 9)
    read(store, monkeypatch, *crowd, *often, key=key)
    assert {f.verdict for f in standing_answers(store.answers.rows())} == {"yes"}
    read(store, monkeypatch, *crowd, *often[:1], key=key)
    assert [f.annotation_id for f in standing_answers(store.answers.rows()) if f.annotator == "3"] == [10] * len(masks)
    assert status(store)["set_aside"]["deleted"] == 4


def test_what_another_user_wrote_in_somebodys_name_is_set_aside(store, page, monkeypatch):
    key, masks = page
    read(store, monkeypatch, annotation(1, 1, masks, YES, editor=1), key=key)
    changed = annotation(1, 1, masks, NO, 5, editor=6)
    forged = annotation(2, 2, masks, NO, 5, editor=6)
    for _ in range(2):
        assert read(store, monkeypatch, changed, forged, key=key) == 0
    assert verdicts(store.answers.rows()) == dict.fromkeys(masks, YES), "what the user said before stands"
    assert status(store)["set_aside"]["changed"] == 2
    newest = store.aside.newest(5)
    assert {(row.annotator, row.editor, row.page_key) for row in newest} == {("1", "6", key), ("2", "6", key)}
    assert any("set aside: 2 annotations that another user" in e.text for e in store.events())
    # Of the second nothing else is known, so that one more is to answer; the first counts as it was.
    assert wanted_overlaps(store, 1, [key]) == {key: (2, False)}
    # Its own user writes it anew.
    assert read(store, monkeypatch, annotation(1, 1, masks, NO, 8, editor=1), forged, key=key) == len(masks)
    assert verdicts(store.answers.rows()) == dict.fromkeys(masks, NO)
    assert store.aside.counts()["changed"] == 2


@pytest.mark.parametrize(("known", "counts"), [(True, False), (False, True)])
def test_of_an_editor_who_is_gone_no_change_is_believed(store, page, monkeypatch, known, counts):
    key, masks = page
    if known:
        read(store, monkeypatch, annotation(1, 1, masks, YES, 1, editor=1), key=key)
    read(store, monkeypatch, annotation(1, 1, masks, NO, 5, editor=0), key=key)
    said = set(verdicts(store.answers.rows()).values())
    assert said == ({NO} if counts else {YES})


def test_a_task_that_was_imported_with_a_pages_name_counts_for_nothing(store, page, monkeypatch):
    key, masks = page
    read(store, monkeypatch, annotation(1, 1, masks, YES), key=key)
    name = store.pages.some([key])[key].name
    foreign = [ForeignTask(901, name, T.format(9)), ForeignTask(902, "something else", T.format(9))]
    read(store, monkeypatch, foreign=foreign)
    read(store, monkeypatch, foreign=[foreign[0]._replace(at=T.format(12))])
    assert verdicts(store.answers.rows()) == dict.fromkeys(masks, YES)
    assert status(store)["set_aside"] == {
        "changed": 0,
        "late": 0,
        "doubled": 0,
        "foreign": 1,
        "unknown": 0,
        "deleted": 0,
    }


def test_an_annotation_that_is_malformed_withdraws_nothing(store, page, monkeypatch):
    key, masks = page
    read(store, monkeypatch, annotation(1, 1, masks, YES), key=key)
    names = {a.name: a.mask_id for a in store.questions.on_pages([key])}
    for rows in ([{"id": 1}], [{"id": "1"}], "x", [None], [{"id": 1, "completed_by": [], "updated_at": 5}]):
        task = {"id": 77, "updated_at": T.format(3), "annotations": rows}
        s = parse_task(task, ShownPage(key, names))
        read(store, monkeypatch, *s.annotations, key=key if s.whole else "")
        assert verdicts(store.answers.rows()) == dict.fromkeys(masks, YES)
        assert not [f for f in facts(store, [s]) if f["verdict"] == "withdrawn"]
    whole = TaskSnapshot(77, key, [], whole=False)
    put_aside(store, [whole], stamps_of(store, [key], ()))
    assert status(store)["set_aside"]["unknown"] == 2


def test_what_is_not_understood_is_counted_for_its_user(store, page, monkeypatch):
    key, masks = page
    names = {a.name: a.mask_id for a in store.questions.on_pages([key])}
    result = [
        {"from_name": ["wrong"], "value": ["x"]},
        {"from_name": "status", "value": {"choices": ["reviewed"]}},
        {"from_name": "wrong", "value": {"choices": [next(iter(names)), "\x00forged\n"]}},
    ]
    row = {"id": 5, "completed_by": 4, "updated_by": 4, "updated_at": T.format(3), "lead_time": -1e9, "result": result}
    task = {"id": 77, "updated_at": T.format(3), "annotations": [row]}
    snapshot = parse_task(task, ShownPage(key, names))
    read(store, monkeypatch, *snapshot.annotations, key=key)
    said = verdicts(store.answers.rows())
    assert said == dict.fromkeys(masks, YES) | {names[next(iter(names))]: NO}
    (aside,) = store.aside.newest(5)
    assert (aside.reason, aside.annotator) == ("unknown", "4")
    assert aside.what.isprintable() and "malformed region" in aside.what and "lead time" in aside.what
    assert {f.lead_time for f in store.answers.rows()} == {None}


@pytest.mark.parametrize("stated", [1e9, -1e9, float("nan"), float("inf"), None, 0.0])
def test_no_stated_time_spends_the_hours_or_makes_them_endless(tmp_path, monkeypatch, stated):
    monkeypatch.setattr("campaign.derived.spending.MEASURED", 15)
    store = gold_store(tmp_path / "a", {"gold_share": 0}, {"budget_hours": 1})
    keys = turn(store)
    for user, key in enumerate(keys[:2], 1):
        answer(store, key, user, lead_time=45)  # three seconds each
    honest = questions_allowed(store)
    answer(store, keys[1], 3, lead_time=stated)
    assert 0.3 * honest < questions_allowed(store) < 1.7 * honest


@pytest.mark.parametrize("stated", [1e9, -1e9, float("nan"), None, 0.0])
def test_one_annotator_alone_is_believed_within_bounds_too(tmp_path, monkeypatch, stated):
    monkeypatch.setattr("campaign.derived.spending.MEASURED", 15)
    store = gold_store(tmp_path / "a", {"gold_share": 0}, {"budget_hours": 1})
    for key in turn(store)[:2]:
        answer(store, key, 1, lead_time=stated)
    assert 45 < questions_allowed(store) < 3600 / 0.2 + 31


@pytest.mark.label_studio
def test_an_afternoon_of_attacks(tmp_path, label_studio, label_studio_client):
    """A member of the project with an admin's token forges, changes, doubles and erases; honest answers stand."""
    import requests

    client = label_studio_client
    store = gold_store(tmp_path / "a", {"gold_share": 0}, url=label_studio.url)
    store.save_secrets({"label_studio_token": label_studio.token})
    whole_turn(store, client)
    project = store.values.project("verification")
    pages = store.pages.rows(published=True)
    listed = client.request("GET", "api/tasks/", params={"project": project, "fields": "all", "page_size": 1000})
    tasks = {t["id"]: t for t in listed["tasks"]}
    assert {p.task_id for p in pages} <= tasks.keys()
    text = str([(t["data"], t["meta"]) for t in tasks.values()])
    assert not any(str(q.mask_id) in text or p.key in text for q, p in store.questions.rows())
    assert "pool.png" not in text and "heldout.png" not in text

    cheat = requests.Session()
    cheat.trust_env = False
    form = {"email": f"{uuid.uuid4().hex[:8]}@example.com", "password": "a cheat's password"}
    address = f"{label_studio.url}/user/signup/?token={label_studio.invite_token()}"
    cheat.get(address)
    form["csrfmiddlewaretoken"] = cheat.cookies["csrftoken"]
    assert cheat.post(address, data=form, headers={"Referer": address}, allow_redirects=False).status_code == 302

    def ask(method: str, path: str, body) -> dict:
        headers = {"X-CSRFToken": cheat.cookies["csrftoken"], "Referer": label_studio.url}
        reply = cheat.request(method, label_studio.url + path, json=body, headers=headers)
        assert reply.status_code in (200, 201, 204), reply.text
        return reply.json() if reply.content else {}

    def choice(name: str, *values: str) -> dict:
        return {
            "id": name,
            "from_name": name,
            "to_name": "title",
            "type": "choices",
            "value": {"choices": list(values)},
        }

    first, second = pages
    reviewed = [choice("status", "reviewed")]
    honest = {
        p.key: client.request("POST", f"api/tasks/{p.task_id}/annotations/", body={"result": reviewed, "lead_time": 20})
        for p in (first, second)
    }
    me = honest[first.key]["completed_by"]
    whole_turn(store, client)
    before = verdicts(store.answers.rows())
    assert set(before.values()) == {YES} and len(before) == 30

    no = [choice("status", "reviewed"), choice("wrong", *(c["value"] for c in tasks[first.task_id]["data"]["crops"]))]
    copy = {"data": tasks[first.task_id]["data"], "meta": tasks[first.task_id]["meta"]}
    ask("POST", f"/api/projects/{project}/import", [copy | {"annotations": [{"result": no}]}, copy])
    ask("PATCH", f"/api/annotations/{honest[first.key]['id']}/", {"result": no})
    ask("POST", f"/api/tasks/{second.task_id}/annotations/", {"result": no, "completed_by": me})
    for _ in range(3):
        ask("POST", f"/api/tasks/{second.task_id}/annotations/", {"result": reviewed, "lead_time": 1e9})
    bad = [{"id": "a", "from_name": ["wrong"], "value": ["x"]}, {"id": "b", "from_name": "status", "value": ["x"]}]
    ask("POST", f"/api/tasks/{second.task_id}/annotations/", {"result": bad, "lead_time": -1e9})
    whole_turn(store, client)
    now = verdicts(store.answers.rows())
    assert {m: now[m] for m in before} == before
    counts = status(store)["set_aside"]
    assert counts == {"changed": 2, "late": 0, "doubled": 3, "foreign": 2, "unknown": 1, "deleted": 0}
