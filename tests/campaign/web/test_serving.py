"""What a campaign's web server does for Label Studio: who is let in, training, events, masks that are known."""

import json
import time

import pytest
from rq.job import JobStatus
from sqlalchemy import update

from campaign.jobs.broker import broker
from campaign.jobs.queues import fetch_job
from campaign.jobs.step_jobs import step_queue
from campaign.steps.rounds import StepName
from campaign.store import Store
from campaign.store import models as m
from campaign.web.serving import CampaignBackend, CampaignModel, StoredPredictions, Waker, build_app
from ml_backend.server.backend import Project
from tests.campaign.builders import gold_store, verify_store

OUTSIDE = {"REMOTE_ADDR": "172.18.0.3"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CAMPAIGN_IMAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "the-campaigns-token")
    return gold_store(tmp_path / "a", url="http://label-studio:8080").folder


@pytest.mark.parametrize(
    ("public_url", "environ", "password", "status"),
    [
        ("http://localhost:9090", {}, None, 401),
        ("http://localhost:9090", {}, "right", 200),
        ("http://localhost:9090", OUTSIDE, None, 401),
        ("http://localhost:9090", OUTSIDE, "right", 200),
        ("http://localhost:9090", OUTSIDE, "wrong", 401),
        ("https://crops.example.com", {}, None, 401),
        ("https://crops.example.com", OUTSIDE, "right", 200),
    ],
)
def test_label_studio_is_let_in(folder, public_url, environ, password, status):
    content = json.loads((folder / "campaign.json").read_text())
    content["settings"]["page"] = {"public_url": public_url}
    (folder / "campaign.json").write_text(json.dumps(content))
    store = Store.open(folder)
    secret = store.secret("backend_password") if password == "right" else "wrong"
    auth = {"auth": ("campaign", secret)} if password else {}
    body = {"project": "7.1", "schema": "<View/>", "hostname": "http://localhost:8080", "access_token": "t"}
    answer = build_app(folder).test_client().post("/setup", json=body, environ_base=environ, **auth)
    assert answer.status_code == status


def test_without_redis_an_answer_waits_and_training_is_refused_in_a_line(folder, caplog):
    store = Store.open(folder)
    assert Waker(store).wake()
    assert "waits for the next poll" in caplog.text
    client = build_app(folder).test_client()
    body = {"action": "START_TRAINING", "project": {"id": 7}}
    auth = ("campaign", Store.open(folder).secret("backend_password"))
    assert client.post("/webhook", json=body).status_code == 401
    assert client.post("/webhook", json=body, auth=auth).status_code == 503


@pytest.mark.redis
def test_an_answer_during_a_turn_has_another_follow_it(tmp_path):
    store = verify_store(tmp_path / "a")
    waker = Waker(store)
    with broker(store) as connection:
        queue = step_queue(store, "default", connection)
        begun = time.monotonic()
        for _ in range(20):
            waker("ANNOTATION_CREATED", {})
        assert time.monotonic() - begun < 0.1
        (turn,) = [fetch_job(job, connection) for job in wait_until(lambda: queue.job_ids)]
        assert turn.args[1] == StepName.SYNC
        # A worker takes it; it may have read before the next answer.
        queue.remove(turn)
        turn.set_status(JobStatus.STARTED)
        waker("ANNOTATION_UPDATED", {})
        assert not waker.wake() and not queue.job_ids
        turn.set_status(JobStatus.FINISHED)
        assert wait_until(lambda: queue.job_ids) == [turn.id]


def test_a_webhook_wakes_after_one_that_failed(folder, monkeypatch, caplog):
    waker, woken = Waker(Store.open(folder)), []

    def wake():
        woken.append(1)
        if len(woken) == 1:
            raise OSError("a socket that is gone")
        return True

    monkeypatch.setattr(waker, "wake", wake)
    waker("ANNOTATION_CREATED", {})
    wait_until(lambda: woken)
    waker("ANNOTATION_CREATED", {})
    assert wait_until(lambda: len(woken) == 2 or None)
    assert "an answer waits for the next poll" in caplog.text


def wait_until(asked, seconds=10.0):
    until = time.monotonic() + seconds
    while not (found := asked()) and time.monotonic() < until:
        time.sleep(0.02)
    return found


def test_the_source_project_is_reached_as_the_campaign_does(folder):
    store = Store.open(folder)
    store.settings.label_studio.source_project = 7
    backend = CampaignBackend(CampaignModel(store), None, store=store)
    for project in (7, 8):
        backend.set_up(project, "http://localhost:8080", "a-users-token")
    assert (backend.project(7).hostname, backend.project(7).token) == (
        "http://label-studio:8080",
        "the-campaigns-token",
    )
    assert backend.project(8).hostname == "http://localhost:8080"


def test_one_bad_task_costs_the_others_nothing(folder):
    store = Store.open(folder)
    store.settings.label_studio.source_project = 7
    known = StoredPredictions(store)
    with store.session() as session:
        session.execute(update(m.Image).where(m.Image.id == store.images.ids("pool")[0].item()).values(source_task=168))
    store.rounds.update(1, checkpoint="model.pt", model_version="v")
    tasks = [{"id": 168}, {"id": "168"}, {"id": "abc"}, {}, None, {"id": [1]}, {"id": 9}]
    masks = known(Project(7), tasks)
    assert masks[0] is not None and len(masks[0].masks) > 0
    assert masks[1:] == [None] * 6
    assert known(Project(8), tasks) == [None] * 7
