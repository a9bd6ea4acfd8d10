"""The web server: who is let in, what it answers to requests of any shape, and what it never says."""

import logging
import re
import threading
from pathlib import Path

import pytest
from werkzeug.serving import make_server

import ml_backend
from ml_backend.errors import InputError
from ml_backend.server.app import Access, Limits, create_app
from ml_backend.server.backend import Backend, Project
from ml_backend.server.image_files import ImageFiles
from ml_backend.server.push import push_predictions
from tests.ml_backend.bright_objects import BrightModel, Gate, draw_spots
from tests.ml_backend.file_server import serve_folder
from tests.ml_backend.server.folder import SECRET, Folder

CONFIG = (
    '<View><Image name="img" value="$image"/><BrushLabels name="b" toName="img">'
    '<Label value="apple"/><Label value="pear"/></BrushLabels></View>'
)
OUTSIDE = {"REMOTE_ADDR": "10.1.2.3"}
OPEN = Access(this_machine=True)


@pytest.fixture(autouse=True)
def hosts(monkeypatch):
    """Images lie on this machine, and no Label Studio there is known."""
    monkeypatch.setenv("CAMPAIGN_IMAGE_HOSTS", "127.0.0.1")


@pytest.fixture
def folder(tmp_path):
    return Folder(draw_spots(tmp_path / "a.png"))


@pytest.fixture
def backend(tmp_path):
    return Backend(BrightModel(), ImageFiles(tmp_path / "cache"))


PROTECTED = [
    ("POST", "/setup"),
    ("POST", "/predict"),
    ("POST", "/webhook"),
    ("GET", "/metrics"),
    ("GET", "/is_training"),
]


@pytest.mark.parametrize(("method", "path"), PROTECTED)
@pytest.mark.parametrize(
    ("settings", "request_", "let_in"),
    [
        ({}, {}, False),
        ({"this_machine": True}, {}, True),
        ({"this_machine": True}, {"environ_base": OUTSIDE}, False),
        ({"basic_auth": ("ls", "pw")}, {}, False),
        ({"basic_auth": ("ls", "pw")}, {"auth": ("ls", "pw"), "environ_base": OUTSIDE}, True),
        ({"basic_auth": ("ls", "pw")}, {"auth": ("ls", "no")}, False),
        ({"basic_auth": ("ls", "pw")}, {"auth": ("no", "pw")}, False),
        ({"basic_auth": ("ls", "pw")}, {"headers": {"Authorization": "Bearer pw"}}, False),
        ({"basic_auth": ("ls", "pw")}, {"headers": {"Authorization": "Basic ???"}}, False),
        ({"basic_auth": ("ls", "pw"), "this_machine": True}, {}, True),
        ({"basic_auth": ("ls", "pw"), "this_machine": True}, {"environ_base": OUTSIDE}, False),
        ({"basic_auth": ("ls", "pw"), "this_machine": True}, {"auth": ("ls", "pw"), "environ_base": OUTSIDE}, True),
        ({"basic_auth": ("ls", "pw"), "this_machine": True}, {"auth": ("ls", "no")}, False),
        # A proxy on this machine asks for others, and a page of another host may ask through a browser here.
        ({"this_machine": True}, {"headers": {"X-Forwarded-For": "8.8.8.8"}}, False),
        ({"this_machine": True}, {"headers": {"Host": "evil.example"}}, False),
        ({"this_machine": True}, {"headers": {"Host": "[::1]:9090"}}, True),
        ({"this_machine": True}, {"headers": {"Host": "["}}, False),
    ],
)
def test_label_studio_is_let_in_and_others_are_not(backend, method, path, settings, request_, let_in):
    client = create_app(backend=backend, access=Access(**settings)).test_client()
    body = {"json": {"tasks": [], "action": "ANNOTATION_CREATED"}} if method == "POST" else {}
    answer = client.open(path, method=method, **request_, **body)
    assert (answer.status_code < 300) == let_in and (let_in or answer.status_code == 401)


@pytest.mark.parametrize(
    ("headers", "environ", "status"),
    [
        ({"X-Campaign-Secret": "hook"}, OUTSIDE, 201),
        ({"X-Campaign-Secret": "other"}, OUTSIDE, 401),
        ({}, {}, 401),
    ],
)
def test_a_webhook_carries_the_shared_secret(headers, environ, status):
    events = []
    app = create_app(access=Access(webhook_secret="hook"), on_event=lambda *event: events.append(event))
    body = {"action": "ANNOTATION_CREATED", "annotation": {"id": 5}}
    answer = app.test_client().post("/webhook", json=body, headers=headers, environ_base=environ)
    assert answer.status_code == status and len(events) == (status == 201)


@pytest.mark.parametrize(
    ("this_machine", "request_", "queued"),
    [
        (False, {"auth": ("ls", "pw")}, True),
        (False, {"auth": ("ls", "pw"), "environ_base": OUTSIDE}, True),
        (False, {"headers": {"X-Campaign-Secret": "hook"}, "environ_base": OUTSIDE}, True),
        (False, {}, False),
        (True, {}, True),
        (True, {"auth": ("ls", "pw"), "environ_base": OUTSIDE}, True),
        (True, {"environ_base": OUTSIDE}, False),
    ],
)
def test_start_training_needs_no_webhook_secret_and_is_queued(backend, this_machine, request_, queued):
    trained, events = [], []
    backend.train = trained.append
    app = create_app(
        backend=backend,
        access=Access(("ls", "pw"), this_machine, "hook"),
        on_event=lambda *e: events.append(e),
    )
    body = {"action": "START_TRAINING", "project": {"id": 31}}
    answer = app.test_client().post("/webhook", json=body, **request_)
    assert (answer.status_code == 201) == queued and (queued or answer.status_code == 401)
    assert trained == [31] * queued and events == []


def test_a_training_that_cannot_start_is_no_error_of_the_server(backend):
    def train(project):
        raise InputError("/secret/redis", "a Redis that answers", "none")

    backend.train = train
    answer = create_app(access=OPEN, backend=backend).test_client().post("/webhook", json={"action": "START_TRAINING"})
    assert answer.status_code == 503
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"data": "no json", "content_type": "application/json"}, 400),
        ({"json": [1]}, 400),
        ({"json": {}}, 400),
        ({"json": {"action": 5}}, 400),
        ({"json": {"action": "SOMETHING_NEW"}}, 201),
    ],
)
def test_a_webhook_of_any_shape_is_answered(body, status):
    assert (
        create_app(access=OPEN, on_event=lambda *_: None).test_client().post("/webhook", **body).status_code == status
    )


def test_an_event_that_fails_is_no_traceback(caplog):
    def fail(*_: object) -> None:
        raise RuntimeError("/secret/path")

    answer = (
        create_app(access=OPEN, on_event=fail).test_client().post("/webhook", json={"action": "ANNOTATION_CREATED"})
    )
    assert answer.status_code == 500 and "secret" not in answer.text and "/secret/path" in caplog.text


@pytest.mark.parametrize("body", [{"json": {}}, {"json": {"tasks": 5}}, {"json": []}, {"data": b"\xff"}])
def test_a_malformed_predict_is_a_400(backend, body):
    assert create_app(access=OPEN, backend=backend).test_client().post("/predict", **body).status_code == 400


@pytest.mark.parametrize(
    "body", [b"[" * 100_000 + b"]" * 100_000, b'{"tasks":' + b"[" * 100_000 + b"]" * 100_000 + b"}"]
)
def test_a_body_nested_without_end_is_a_400(backend, body):
    client = create_app(access=OPEN, backend=backend).test_client()
    assert client.post("/predict", data=body, content_type="application/json").status_code == 400


@pytest.mark.parametrize(
    "change",
    [
        {"project": None, "tasks": [None]},
        {"project": "", "tasks": ["x"]},
        {"project": "abc", "tasks": [5, []]},
        {"project": "", "tasks": [{"id": 1, "project": "²"}]},
        {"project": "", "tasks": [{"id": 1, "project": "1" * 5000}]},
        {"project": "1" * 5000},
        {"params": {"context": [1]}},
        {"params": {"context": "x"}},
        {"params": {"context": {"result": [1]}}, "tasks": [None]},
        {"label_config": "<View>\ud800</View>"},
        {"tasks": [{"id": [1], "data": {"image": "http://[::1"}}]},
    ],
)
def test_a_predict_of_any_shape_is_answered(backend, change):
    client = create_app(access=OPEN, backend=backend).test_client()
    for project in ("1.2", "1" * 5000):
        setup = {"project": project, "schema": CONFIG, "hostname": "\ud800", "access_token": "t"}
        assert client.post("/setup", json=setup).status_code == 200
    body = {"tasks": [{"id": 1, "data": {"image": "/data/upload/1/a.png"}}], "project": "1.2", "label_config": CONFIG}
    answer = client.post("/predict", json=body | change)
    assert answer.status_code == 200 and len(answer.json["results"]) == len((body | change)["tasks"])


def test_too_large_a_body_is_refused(backend):
    client = create_app(backend=backend, access=Access(("ls", "pw")), limits=Limits(1000, 3000)).test_client()
    json = {"content_type": "application/json", "auth": ("ls", "pw")}
    for path, size, status in (
        ("/webhook", 2000, 413),
        ("/setup", 2000, 413),
        ("/predict", 4000, 413),
        ("/predict", 2000, 400),
    ):
        assert client.post(path, data=b"x" * size, **json).status_code == status
    assert client.post("/predict", data=b"x" * 4000, content_type="application/json").status_code == 401


def test_tasks_come_with_all_that_was_predicted_before(tmp_path):
    """As after a retraining: 70 MB here, of which only the tasks' data is kept."""
    queued = []
    backend = Backend(BrightModel(), ImageFiles(tmp_path / "cache"), inline_tasks=1)
    backend.enqueue = lambda _project, _config, later: queued.extend(later)
    old = [{"id": 5, "result": [{"value": {"rle": [255] * 35_000}}], "data": {"predictions": []}}]
    data = {"image": "http://127.0.0.1:9/a.png", "predictions": "x"}
    tasks = [{"id": i, "data": data, "annotations": old, "predictions": old, "drafts": old} for i in range(1, 161)]
    body = {"tasks": tasks, "project": "1.2", "label_config": CONFIG}
    answer = create_app(access=OPEN, backend=backend).test_client().post("/predict", json=body)
    assert answer.status_code == 200 and answer.json["results"] == [[]] * 160
    assert queued == [{"id": i, "data": data} for i in range(1, 161)]


def test_metrics_count_what_happened(backend, tmp_path):
    draw_spots(tmp_path / "a.png")
    app = create_app(access=OPEN, backend=backend, queue_depth=lambda: 3)
    client = app.test_client()
    with serve_folder(tmp_path) as (url, _):
        tasks = [{"id": 1, "data": {"image": f"{url}/a.png"}}, {"id": 2, "data": {}}]
        client.post("/predict", json={"tasks": tasks, "project": "1.2", "label_config": CONFIG})
    client.get("/nothing/here")
    text = client.get("/metrics").text
    for line in (
        'campaign_requests_total{route="/predict",status="200"} 1.0',
        'campaign_requests_total{route="none",status="404"} 1.0',
        'campaign_request_seconds_count{route="/predict"} 1.0',
        "campaign_images_total 1.0",
        'campaign_bad_tasks_total{reason="image"} 1.0',
        "campaign_queue_depth 3.0",
        'campaign_model_info{version="bright-1"} 1.0',
        "campaign_gpu_memory_bytes",
    ):
        assert line in text
    assert "campaign_images_per_second 0.0" not in text


def test_a_queue_that_is_away_does_not_break_the_metrics():
    def away() -> int:
        raise ConnectionError

    assert "campaign_queue_depth NaN" in create_app(access=OPEN, queue_depth=away).test_client().get("/metrics").text


def test_training_status_is_answered():
    app = create_app(access=OPEN, training=lambda project: {"is_training": True, "project": project})
    assert app.test_client().get("/is_training?project=31.179").json == {"is_training": True, "project": 31}
    assert create_app(access=OPEN).test_client().get("/is_training").json == {"is_training": False}


def test_no_secret_stands_in_the_log(backend, caplog, tmp_path):
    draw_spots(tmp_path / "a.png")
    caplog.set_level(logging.DEBUG)
    client = create_app(backend=backend, access=Access(("ls", "passw0rd"), webhook_secret="h00k")).test_client()
    setup = {"project": "1.2", "schema": CONFIG, "hostname": "http://127.0.0.1:9", "access_token": "t0k3n"}
    client.post("/setup", json=setup, auth=("ls", "passw0rd"))
    tasks = [{"id": 1, "data": {"image": "/data/upload/1/a.png?sig=s1gn3d"}}]
    client.post("/predict", json={"tasks": tasks, "project": "1.2", "label_config": CONFIG}, auth=("ls", "passw0rd"))
    client.post("/webhook", json={"action": "X"}, headers={"X-Campaign-Secret": "h00k"})
    with serve_folder(tmp_path) as (url, asked):
        tasks = [{"id": 1, "data": {"image": f"{url}/a.png?sig=s1gn3d"}}]
        tasks += [{"id": 2, "data": {"image": f"{url.replace('http:', 'https:')}/a.png?sig=s1gn3d"}}]
        body = {"tasks": tasks, "project": "1.2", "label_config": CONFIG}
        client.post("/predict", json=body, auth=("ls", "passw0rd"))
        project = Project(1, url, "t0k3n")
        with pytest.raises(InputError):
            push_predictions(backend, project, CONFIG, tasks)
        assert len(asked) == 2 and "sig=s1gn3d" in asked[0]
    assert "task 1" in caplog.text and "task 2" in caplog.text
    # Of the whole process, not of this package alone.
    assert not any(secret in caplog.text for secret in ("passw0rd", "h00k", "t0k3n", "s1gn3d"))
    assert "t0k3n" not in repr(backend.project("1.2"))


def test_projects_of_two_label_studios_may_have_one_number(backend):
    client = create_app(access=OPEN, backend=backend).test_client()
    for project, token in (("31.111", "first"), ("31.222", "second")):
        setup = {"project": project, "schema": CONFIG, "hostname": f"http://{token}", "access_token": token}
        client.post("/setup", json=setup)
    where, seen = [], backend._record
    backend._record = lambda project, *rest: (where.append(project), seen(project, *rest))[1]
    for project in ("31.111", "31.222"):
        body = {"tasks": [{"id": 1, "data": {}}], "project": project, "label_config": CONFIG}
        client.post("/predict", json=body)
    assert where == [Project(31, "http://first", "first"), Project(31, "http://second", "second")]


def test_health_is_answered_while_the_model_works(tmp_path):
    import requests

    draw_spots(tmp_path / "a.png")
    gate = Gate()
    backend = Backend(BrightModel(gate), ImageFiles(tmp_path / "cache"))
    server = make_server("127.0.0.1", 0, create_app(access=OPEN, backend=backend), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        with serve_folder(tmp_path) as (url, _):
            tasks = [{"id": i, "data": {"image": f"{url}/a.png"}} for i in range(4)]
            body = {"tasks": tasks, "project": "1.2", "label_config": CONFIG}
            address = f"http://127.0.0.1:{server.server_port}"
            sent = threading.Thread(target=lambda: requests.post(f"{address}/predict", json=body))
            sent.start()
            assert gate.reached.wait(60)
            answered_during = [requests.get(f"{address}/health").json()["status"] for _ in range(5)]
            assert sent.is_alive() and answered_during == ["UP"] * 5
            gate.open()
            sent.join()
    finally:
        gate.open()
        server.shutdown()
        thread.join()


def test_every_route_and_setting_is_documented(folder, backend):
    text = (Path(ml_backend.__file__).parent / "README.md").read_text()
    app = create_app(folder, secret=SECRET, backend=backend)
    for rule in app.url_map.iter_rules():
        if rule.endpoint != "static":
            assert f"{rule.rule.replace('<path:', '<')}`" in text, f"{rule.rule}: expected it in README.md"
    sources = " ".join(p.read_text() for p in Path(ml_backend.__file__).parent.rglob("*.py"))
    names = set(re.findall(r'(?:environ\.get\(|environ\[|HOSTS = )"(\w+)"', sources)) - {"MODEL_DIR"}
    assert len(names) >= 9 and all(f"`{name}`" in text for name in names), names
