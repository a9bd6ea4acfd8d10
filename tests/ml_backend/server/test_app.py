"""The web server: who is let in, what is shown, and what is never shown."""

import io
import logging
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util
from werkzeug.serving import make_server

import ml_backend
from ml_backend.errors import InputError
from ml_backend.server.app import Access, Limits, MaskView, PartView, create_app
from ml_backend.server.backend import Backend, Project
from ml_backend.server.image_files import ImageFiles
from ml_backend.server.push import push_predictions
from ml_backend.server.signing import crop_url, image_url, part_url
from tests.ml_backend.bright_objects import BrightModel, Gate, draw_spots
from tests.ml_backend.file_server import serve_folder

SECRET = "s3cr3t"
CONFIG = (
    '<View><Image name="img" value="$image"/><BrushLabels name="b" toName="img">'
    '<Label value="apple"/><Label value="pear"/></BrushLabels></View>'
)
OUTSIDE = {"REMOTE_ADDR": "10.1.2.3"}
OPEN = Access(this_machine=True)


class Folder:
    """A crop source of one image with two masks, the second of another size than the image."""

    def __init__(self, path):
        self.path = path

    def mask(self, mask_id: int) -> MaskView:
        mask = np.zeros({1: (80, 100), 2: (80, 101)}[mask_id], np.uint8, order="F")
        mask[12:32, 10:40] = 1
        return MaskView(self.path, (10, 12, 30, 20), mask_util.encode(mask))

    def image(self, image_id: int):
        return {1: self.path, 2: self.path.with_name("gone.png")}[image_id]

    def part(self, number: int) -> PartView:
        window = {1: (0, 0, 100, 80), 2: (0, 0, 200, 80), 3: (20, 10, 60, 50)}[number]
        return PartView(self.path, window, [(self.mask(1).rle, 8)])


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


def path_of(url: str) -> str:
    return url.removeprefix("http://h")


def crop(mask_id: int = 1, seconds: float = 86400) -> str:
    return path_of(crop_url("http://h", SECRET, mask_id, time.time() + seconds))


@pytest.mark.parametrize(
    ("query", "size", "kind"),
    [
        ("", (256, 256), "JPEG"),
        ("?size=64", (64, 64), "JPEG"),
        ("?size=999999", (2048, 2048), "JPEG"),
        ("?size=x", (256, 256), "JPEG"),
        ("?fill=0", (256, 256), "JPEG"),
        ("?view=image", (1200, 960), "JPEG"),
        ("?view=edit", (63, 55), "PNG"),
    ],
)
def test_a_crop_is_shown_in_every_view(folder, query, size, kind):
    answer = create_app(folder, secret=SECRET).test_client().get(crop() + query)
    picture = Image.open(io.BytesIO(answer.data))
    assert answer.status_code == 200 and (picture.size, picture.format) == (size, kind)
    assert answer.headers["Access-Control-Allow-Origin"] == "*" and "max-age" in answer.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (crop(seconds=-1), 403),
        (crop(7), 404),
        (crop(2), 404),  # the mask is not of the image's size
        (crop()[:-8] + "x.jpg", 403),
        ("/crops/nothing.jpg", 403),
        ("/images/" + crop()[7:-4], 403),  # signed for a crop
        (path_of(image_url("http://h", "other", 1, time.time() + 86400)), 403),
        (path_of(image_url("http://h", SECRET, 2, time.time() + 86400)), 404),
        (path_of(image_url("http://h", SECRET, 9, time.time() + 86400)), 404),
        ("/nothing", 404),
    ],
    ids=range(10),  # addresses differ from process to process
)
def test_what_may_not_or_cannot_be_shown_is_refused_briefly(folder, path, status):
    answer = create_app(folder, secret=SECRET).test_client().get(path)
    assert answer.status_code == status
    assert str(folder.path.parent) not in answer.text and "Traceback" not in answer.text and len(answer.text) < 200


@pytest.mark.parametrize(
    ("number", "status", "size"), [(1, 200, (1200, 960)), (2, 404, None), (3, 200, (480, 480)), (4, 404, None)]
)
def test_a_part_of_an_image_is_shown_with_its_masks(folder, number, status, size):
    client = create_app(folder, secret=SECRET).test_client()
    answer = client.get(path_of(part_url("http://h", SECRET, number, time.time() + 86400)))
    assert answer.status_code == status
    if size:
        assert Image.open(io.BytesIO(answer.data)).size == size and answer.mimetype == "image/jpeg"
        assert answer.headers["Content-Security-Policy"] == "sandbox"
    assert client.get(path_of(part_url("http://h", SECRET, number, time.time() - 1))).status_code == 403


def test_an_image_is_shown_as_it_is_or_brightened(folder):
    client = create_app(folder, secret=SECRET).test_client()
    path = path_of(image_url("http://h", SECRET, 1, time.time() + 86400))
    assert client.get(path).data == folder.path.read_bytes()
    assert Image.open(io.BytesIO(client.get(path + "?bright=1").data)).size == (100, 80)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"GIF89a/*\x00\x00\x00\x00\x00*/<script>alert(1)</script>", "application/octet-stream"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "application/octet-stream"),
        (b"<script>alert(1)</script>", "application/octet-stream"),
    ],
)
def test_an_image_is_never_a_page_on_this_origin(folder, content, kind):
    """Whatever its file is called: names come with tasks."""
    path = folder.path.with_name("abc__x.html")
    path.write_bytes(content)
    client = create_app(Folder(path), secret=SECRET).test_client()
    answer = client.get(path_of(image_url("http://h", SECRET, 1, time.time() + 86400)))
    assert answer.data == content and answer.mimetype == kind


@pytest.mark.parametrize(
    "path",
    [crop(), crop() + "?view=edit", path_of(image_url("http://h", SECRET, 1, 4e9))],
    ids=["crop", "edit", "image"],
)
@pytest.mark.parametrize("query", ["", "bright=1"])
def test_pictures_are_nothing_but_pictures(folder, path, query):
    answer = create_app(folder, secret=SECRET).test_client().get(path + ("&" if "?" in path else "?") + query)
    assert answer.status_code == 200
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox"


def test_a_truncated_image_is_named_in_the_log_only(folder, caplog):
    folder.path.write_bytes(folder.path.read_bytes()[:60])
    answer = create_app(folder, secret=SECRET).test_client().get(crop())
    assert answer.status_code == 404 and answer.json == {"error": "the image cannot be shown"}
    assert "a.png" in caplog.text


def test_crops_need_a_secret(folder):
    with pytest.raises(InputError, match="secret"):
        create_app(folder, secret="")


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


class Counting(Folder):
    """The same, with pages, which notes what is looked up."""

    def __init__(self, path):
        super().__init__(path)
        self.asked: list[int] = []

    def page(self, number: int) -> list[int]:
        return {5: [1, 2]}.get(number, [])

    def mask(self, mask_id: int) -> MaskView:
        self.asked.append(mask_id)
        return super().mask(mask_id)


@pytest.mark.parametrize("first", [1, 2])
def test_the_crops_of_a_page_are_drawn_together_whichever_is_asked_for_first(folder, first):
    source = Counting(folder.path)
    client = create_app(source, secret=SECRET).test_client()
    paths = {i: path_of(crop_url("http://h", SECRET, i, time.time() + 9, page=5)) for i in (1, 2, 3)}
    statuses = {i: client.get(paths[i]).status_code for i in (first, 3 - first, 3)}
    assert statuses == {1: 200, 2: 404, 3: 404}, "the second is not of its image's size, the third not on the page"
    assert source.asked == [1, 2]
    # A size of one's own is drawn like any other, and a view of one alone after the others.
    for query in ("?size=257", "?size=300", "?size=512"):
        assert client.get(paths[first] + query).status_code == statuses[first]
    assert source.asked == [1, 2] * 2
    client.get(paths[first] + "?view=edit")
    assert source.asked[:4] == [1, 2] * 2 and source.asked[4:] in ([], [1], [2])
