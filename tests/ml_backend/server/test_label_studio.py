"""The ML backend in a real Label Studio: added, asked for predictions, asked to train."""

import threading
import time

import pytest
from werkzeug.serving import make_server

from ml_backend.masks.brush import decode_brush
from ml_backend.server.app import Access, create_app
from ml_backend.server.backend import Backend, Project
from ml_backend.server.image_files import ImageFiles
from ml_backend.server.push import PushThread, push_predictions
from tests.ml_backend.bright_objects import SPOTS, BrightModel, draw_spots

pytestmark = pytest.mark.label_studio

CONFIG = (
    '<View><Image name="img" value="$image"/><BrushLabels name="b" toName="img">'
    '<Label value="apple"/><Label value="pear"/></BrushLabels></View>'
)
AUTH = ("ls", "passw0rd")


@pytest.fixture
def backend(tmp_path):
    backend = Backend(BrightModel(), ImageFiles(tmp_path / "cache"), inline_tasks=10)
    backend.enqueue = PushThread(backend)
    return backend


@pytest.fixture
def served(backend):
    """The address of our server for `backend`."""
    server = make_server("127.0.0.1", 0, create_app(backend=backend, access=Access(AUTH)), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def files(label_studio):
    """A folder whose images Label Studio serves to its projects as local files."""
    folder = label_studio.files / "fruit"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def project(files, label_studio_client):
    """A project whose images are local files of Label Studio: call it with their names."""

    def make(*names: str) -> int:
        number = label_studio_client.request("POST", "api/projects/", body={"title": "fruit", "label_config": CONFIG})[
            "id"
        ]
        tasks = [{"data": {"image": f"/data/local-files/?d=fruit/{name}"}} for name in names]
        if tasks:
            label_studio_client.request("POST", f"api/projects/{number}/import", body=tasks)
        folder = {"project": number, "path": str(files), "regex_filter": ".*", "use_blob_urls": False}
        label_studio_client.request("POST", "api/storages/localfiles", body=folder)
        made.append(number)
        return number

    made: list[int] = []
    yield make
    for number in made:
        label_studio_client.request("DELETE", f"api/projects/{number}/")


def add_backend(client, project: int, url: str) -> int:
    body = {
        "project": project,
        "url": url,
        "title": "masks",
        "auth_method": "BASIC_AUTH",
        "basic_auth_user": AUTH[0],
        "basic_auth_pass": AUTH[1],
    }
    return client.request("POST", "api/ml/", body=body)["id"]


def retrieve(client, project: int) -> None:
    body = {"selectedItems": {"all": True, "excluded": []}, "ordering": []}
    client.request(
        "POST", "api/dm/actions/", params={"id": "retrieve_tasks_predictions", "project": project}, body=body
    )


def predictions(client, project: int) -> dict[str, list[dict]]:
    """Predictions by the image's name."""
    found = client.tasks(project, "id,data,predictions", annotations=True)
    return {task["data"]["image"].rpartition("/")[2]: task["predictions"] for task in found}


def test_a_team_adds_it_and_retrieves_predictions(files, label_studio_client, backend, served, project):
    draw_spots(files / "a.png")
    (files / "broken.png").write_bytes(b"no image")
    number = project("a.png", "broken.png", "missing.png")
    add_backend(label_studio_client, number, served)
    [listed] = label_studio_client.request("GET", "api/ml/", params={"project": number})
    assert listed["state"] == "CO" and listed["model_version"] == "bright-1"
    retrieve(label_studio_client, number)
    found = predictions(label_studio_client, number)
    assert [len(found[name]) for name in ("a.png", "broken.png", "missing.png")] == [1, 1, 1]
    good = found["a.png"][0]
    assert good["model_version"] == "bright-1" and found["broken.png"][0]["result"] == []
    areas = sorted(int(decode_brush(r["value"]["rle"], 80, 100).sum()) for r in good["result"])
    assert areas == sorted(w * h for _, (_, _, w, h) in SPOTS)
    retrieve(label_studio_client, number)
    assert all(len(p) == 1 for p in predictions(label_studio_client, number).values())


def test_more_tasks_than_fit_are_pushed_afterwards(files, label_studio, label_studio_client, backend, served, project):
    draw_spots(files / "a.png")
    number = project(*["a.png"] * 150)
    add_backend(label_studio_client, number, served)
    start = time.monotonic()
    retrieve(label_studio_client, number)
    assert time.monotonic() - start < 60
    backend.enqueue.join()
    tasks = list(label_studio_client.tasks(number, "id,predictions", annotations=True))
    assert len(tasks) == 150 and all(len(t["predictions"]) == 1 for t in tasks)
    assert all(len(t["predictions"][0]["result"]) == 3 for t in tasks)
    # Pushed again, as after a kill, nothing is doubled.
    where = Project(number, label_studio.url, label_studio.token)
    rows = [{"id": t["id"], "data": {"image": "/data/local-files/?d=fruit/a.png"}} for t in tasks]
    assert push_predictions(backend, where, CONFIG, rows) == 0


def test_start_training_reaches_the_queue(label_studio_client, backend, served, project):
    asked: list[int] = []
    backend.train = asked.append
    number = project()
    added = add_backend(label_studio_client, number, served)
    label_studio_client.request("POST", f"api/ml/{added}/train", body={})
    assert asked == [number]


def test_a_wrong_password_is_seen_in_label_studio(label_studio_client, served, project):
    number = project()
    body = {"project": number, "url": served, "title": "masks"}
    with pytest.raises(ValueError, match=r"401|validat|Unauthorized"):
        label_studio_client.request("POST", "api/ml/", body=body)


def test_polygons_and_rectangles_are_taken(files, label_studio_client, backend, served, project):
    draw_spots(files / "a.png")
    for kind in ("PolygonLabels", "RectangleLabels"):
        number = project("a.png")
        xml = CONFIG.replace("BrushLabels", kind)
        label_studio_client.request("PATCH", f"api/projects/{number}/", body={"label_config": xml})
        add_backend(label_studio_client, number, served)
        retrieve(label_studio_client, number)
        [[prediction]] = predictions(label_studio_client, number).values()
        assert {r["type"] for r in prediction["result"]} == {kind.lower()} and len(prediction["result"]) == 3
