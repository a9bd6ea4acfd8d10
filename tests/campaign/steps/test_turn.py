"""A turn against the real Label Studio: what is published, read back, lost and made anew."""

import subprocess
import time
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from campaign.derived.dataset import final_masks
from campaign.derived.showing import shown_pages, task_name
from campaign.derived.status import status
from campaign.label_studio.client import Client, ProjectGone
from campaign.label_studio.readback import read_changes
from campaign.pages.completeness import ask_what_is_missing
from campaign.pages.projects import abandon_project
from campaign.records.page import PageKind
from campaign.records.stage import Stage
from campaign.records.verdict import Verdict
from campaign.steps.verify import turn
from campaign.store import Store
from ml_backend.errors import InputError
from tests.campaign.builders import add_page, is_good
from tests.campaign.cli.builders import CAMPAIGN

pytestmark = pytest.mark.label_studio


def answer_all(store: Store, client: Client, project: int) -> int:
    """Answers every open page through Label Studio's API; gives how many there were."""
    count = 0
    for task in list(client.tasks(project, "id,data,annotations", annotations=True)):
        if task["annotations"]:
            continue
        masks = shown_pages(store, [task["id"]])[task["id"]].masks
        wrong = [name for name, mask in masks.items() if not is_good(mask)]
        result = [{"from_name": "status", "to_name": "t", "type": "choices", "value": {"choices": ["reviewed"]}}]
        if wrong:
            result.append({"from_name": "wrong", "to_name": "t", "type": "choices", "value": {"choices": wrong}})
        client.sdk.annotations.create(id=task["id"], result=result, lead_time=9.0)
        count += 1
    return count


def test_turns_to_the_end(make_store, label_studio, label_studio_client):
    store = make_store(label_studio={"url": label_studio.url})
    store.save_secrets({"label_studio_token": label_studio.token})
    first = turn(store, label_studio_client)
    assert first.published > 0 and first.open_questions > 0 and not first.done
    project = store.values.project("verification")
    for _ in range(30):
        answer_all(store, label_studio_client, project)
        if turn(store, label_studio_client).done:
            break
    assert store.rounds.newest().stage == "propagate"
    given = {a.mask_id: a.verdict for a in store.answers.rows()}
    assert given and all(v == ("yes" if is_good(i) else "no") for i, v in given.items())
    assert len(given) == store.questions.count()


def test_a_deleted_project_is_told_and_replaced(make_store, label_studio, label_studio_client):
    store = make_store(label_studio={"url": label_studio.url})
    store.save_secrets({"label_studio_token": label_studio.token})
    turn(store, label_studio_client)
    old = store.values.project("verification")
    with pytest.raises(InputError, match="still there"):
        abandon_project(store, label_studio_client)
    label_studio_client.sdk.projects.delete(id=old)
    with pytest.raises(ProjectGone):
        turn(store, label_studio_client)
    for command in ("sync", "run"):
        done = subprocess.run([CAMPAIGN, command, str(store.folder)], capture_output=True, text=True)
        assert done.returncode == 1 and f"project {old}" in done.stderr and len(done.stderr.splitlines()) == 1
    done = subprocess.run([CAMPAIGN, "publish", str(store.folder), "--new-project"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    new = store.values.project("verification")
    assert new != old
    tasks = list(label_studio_client.tasks(new, "id,data"))
    assert sorted(t["data"]["key"] for t in tasks) == sorted(task_name(p) for p in store.pages.rows())


def test_a_wrong_token_gets_one_line(make_store, label_studio):
    store = make_store(label_studio={"url": label_studio.url})
    store.save_secrets({"label_studio_token": "0" * 40})
    done = subprocess.run([CAMPAIGN, "sync", str(store.folder)], capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "401" in done.stderr
    assert "0" * 40 not in done.stderr


def test_an_answer_changed_in_label_studio_changes_the_fact(make_store, label_studio, label_studio_client):
    store = make_store(label_studio={"url": label_studio.url})
    turn(store, label_studio_client)
    project = store.values.project("verification")
    answer_all(store, label_studio_client, project)
    turn(store, label_studio_client)
    snapshots = read_changes(label_studio_client, project, partial(shown_pages, store)).tasks
    page = next(s for s in snapshots if s.annotations and s.annotations[0].verdicts)
    masks = list(page.annotations[0].verdicts)
    label_studio_client.sdk.annotations.update(
        id=page.annotations[0].id,
        result=[{"from_name": "status", "to_name": "t", "type": "choices", "value": {"choices": ["unsure"]}}],
    )
    turn(store, label_studio_client)
    from campaign.quality.answers import verdicts

    now = verdicts(store.answers.rows())
    assert {now[i] for i in masks} == {Verdict.UNSURE}


def test_a_verified_round_asks_what_is_missing_and_waits_for_no_answer(make_store, label_studio, label_studio_client):
    store = make_store(label_studio={"url": label_studio.url})
    store.save_secrets({"label_studio_token": label_studio.token})
    store.settings.rounds.complete_images = 1
    turn(store, label_studio_client)
    for _ in range(30):
        assert store.values.project("complete") is None
        answer_all(store, label_studio_client, store.values.project("verification"))
        if turn(store, label_studio_client).done:
            break
    assert store.rounds.newest().stage == "propagate"
    (page,) = store.pages.rows(kind="complete")
    assert page.task_id and len(page.place["masks"]) == len(final_masks(store)) > 0
    assert ask_what_is_missing(store, 1) == 0, "once for each round"
    state = status(store)["recall"]
    assert state["images"] == 1 and state["images_answered"] == 0 and state["estimate"] is None


def test_a_turn_asks_only_for_what_changed(make_store, label_studio, label_studio_client, monkeypatch):
    """However many pages were answered before, a turn with one new answer makes the same calls and lists one task."""
    monkeypatch.setattr("campaign.label_studio.readback.OVERLAP", timedelta(0))
    store, client = make_store(label_studio={"url": label_studio.url}), label_studio_client
    ids = [int(mask) for class_id in store.classes() for mask in store.trees.mask_ids(1, class_id)]
    for number in range(20):
        add_page(store, f"{store.key}-{number}", ids[number : number + 1], PageKind.VERIFY)
    store.rounds.update(1, stage=Stage.DONE)
    assert turn(store, client).published == 20
    tasks = [int(page.task_id or 0) for page in store.pages.rows()]
    calls: list[str] = []
    listed: list[int] = []
    whole, ask = client.tasks, client.request

    def request(method: str, path: str, **options: Any) -> Any:
        answer = ask(method, path, **options)
        calls.append(f"{method} {path}")
        listed.extend(task["id"] for task in (answer.get("tasks", ()) if isinstance(answer, dict) else ()))
        return answer

    monkeypatch.setattr(client, "tasks", lambda *a, **k: whole(*a, **k | {"page_size": 3}))
    monkeypatch.setattr(client, "request", request)

    def answered(own: list[int]) -> tuple[list[str], list[int]]:
        for task in own:
            body = {"result": [{"from_name": "status", "to_name": "t", "type": "choices",
                                "value": {"choices": ["reviewed"]}}]}  # fmt: skip
            ask("POST", f"api/tasks/{task}/annotations/", body=body)
        time.sleep(1)  # Label Studio states its clock in whole seconds; what changed in the newest is read twice
        calls.clear()
        listed.clear()
        assert turn(store, client).read == len(own)
        return list(calls), sorted(set(listed))

    answered(tasks[:2])
    few, _ = answered(tasks[2:3])
    many, _ = answered(tasks[3:19])
    assert len(many) > len(few), "all that is new is read, in portions"
    last, found = answered(tasks[19:20])
    assert last == few and set(found) <= {tasks[18], tasks[19]}
