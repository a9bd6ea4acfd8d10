"""The contract with label-studio-ml, held by whichever version is installed: 1.0.9 or 2.x."""

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests

import ml_backend
from ml_backend.model import MaskModel, default_backend, project_number
from ml_backend.server.app import Access, create_app
from ml_backend.server.backend import Backend
from ml_backend.server.image_files import ImageFiles
from tests.ml_backend.bright_objects import BrightModel, draw_spots
from tests.ml_backend.file_server import serve_folder

pytestmark = pytest.mark.label_studio_ml
label_studio_ml = pytest.importorskip("label_studio_ml")
VERSION = getattr(label_studio_ml, "__version__", None) or importlib.metadata.version("label-studio-ml")
NEW = not VERSION.startswith("1.")


def config(kind: str = "BrushLabels") -> str:
    return (
        f'<View><Image name="img" value="$image"/><{kind} name="b" toName="img">'
        f'<Label value="fruit" predicted_values="apple"/><Label value="pear"/></{kind}></View>'
    )


@pytest.fixture(autouse=True)
def hosts(monkeypatch):
    """Images lie on this machine, and no Label Studio there is known."""
    monkeypatch.setenv("CAMPAIGN_IMAGE_HOSTS", "127.0.0.1")


@pytest.fixture
def backend(tmp_path, monkeypatch):
    backend = Backend(BrightModel(), ImageFiles(tmp_path / "cache"))
    monkeypatch.setattr(MaskModel, "backend", backend)
    return backend


@pytest.fixture
def web(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    draw_spots(folder / "a.png")
    with serve_folder(folder) as (url, _):
        yield url


def stock_client(tmp_path):
    """The package's own server around our model."""
    from label_studio_ml.api import init_app

    options = {} if NEW else {"model_dir": str(tmp_path / "models")}
    return init_app(model_class=MaskModel, **options).test_client()


def our_client(_tmp_path):
    return create_app(backend=MaskModel.backend, access=Access(this_machine=True)).test_client()


@pytest.fixture(params=[stock_client, our_client], ids=["stock", "ours"])
def client(request, backend, tmp_path):
    return request.param(tmp_path)


def setup_body(project: str = "31.179", xml: str | None = None) -> dict:
    return {
        "project": project,
        "schema": xml or config(),
        "hostname": "http://127.0.0.1:9",
        "access_token": "t0k3n",
        "extra_params": None,
    }


def predict_body(web: str, project: str = "31.179", xml: str | None = None, context: dict | None = None) -> dict:
    tasks = [{"id": i, "project": 31, "data": {"image": f"{web}/{n}.png"}} for i, n in enumerate(("a", "gone", "a"))]
    params = {"login": None, "password": None, "context": context}
    return {"tasks": tasks, "project": project, "label_config": xml or config(), "params": params}


def test_it_is_a_model_of_the_package():
    from label_studio_ml.model import LabelStudioMLBase

    assert issubclass(MaskModel, LabelStudioMLBase)


def test_health_setup_and_predict(client, web):
    assert client.get("/health").json["status"] == "UP"
    setup = client.post("/setup", json=setup_body())
    assert setup.status_code == 200
    answer = client.post("/predict", json=predict_body(web))
    assert answer.status_code == 200
    results = answer.json["results"]
    assert [len(r["result"]) for r in results] == [3, 0, 3]
    labels = [r["value"]["brushlabels"] for r in results[0]["result"]]
    assert labels == [["fruit"], ["fruit"], ["pear"]] and 0 < results[0]["score"] < 1
    assert all(r["model_version"] == "bright-1" for r in results)


def test_predictions_carry_the_version_that_setup_answers(client, web):
    if not NEW and client.application.name != "ml_backend":
        pytest.skip("the server of 1.0.9 answers a version of its own")
    version = client.post("/setup", json=setup_body()).json["model_version"]
    results = client.post("/predict", json=predict_body(web)).json["results"]
    assert {r["model_version"] for r in results} == {version} == {"bright-1"}


def test_several_projects_at_once(client, web):
    if not NEW and client.application.name != "ml_backend":
        pytest.skip("the server of 1.0.9 keeps one model for all projects")
    for project, kind in (("1.1", "BrushLabels"), ("2.1", "PolygonLabels"), ("3.1", "RectangleLabels")):
        client.post("/setup", json=setup_body(project, config(kind)))
    for project, kind in (("3.1", "RectangleLabels"), ("1.1", "BrushLabels"), ("2.1", "PolygonLabels")):
        results = client.post("/predict", json=predict_body(web, project, config(kind))).json["results"]
        assert {r["type"] for r in results[0]["result"]} == {kind.lower()}


def test_an_interactive_prompt_gets_an_empty_answer_and_no_error(client, web):
    client.post("/setup", json=setup_body())
    prompt = {"result": [{"type": "keypointlabels", "value": {"x": 30, "y": 60}}]}
    body = predict_body(web, context=prompt)
    body["tasks"] = body["tasks"][:1]
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200 and answer.json["results"][0]["result"] == []


def test_start_training_returns_at_once(backend, tmp_path):
    asked: list[int] = []
    backend.train = asked.append
    body = {"action": "START_TRAINING", "project": {"id": 31, "label_config": config()}}
    assert our_client(tmp_path).post("/webhook", json=body).status_code == 201
    assert asked == [31]
    if NEW:
        assert stock_client(tmp_path).post("/webhook", json=body).status_code == 201
        assert asked == [31, 31]


def test_making_a_model_is_cheap_and_writes_nothing(backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.rglob("*"))
    start = time.perf_counter()
    for _ in range(100):
        MaskModel(project_id="5", label_config=config())
    assert time.perf_counter() - start < 1
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("project", "number"),
    [("31.179", 31), ("31", 31), (31, 31), ("", 0), (None, 0), ("a.b", 0), ("²", 0), ("1" * 5000, 0)],
)
def test_a_project_is_known_by_its_number(project, number):
    assert project_number(project) == number


def test_without_a_checkpoint_it_says_what_is_missing(monkeypatch):
    from ml_backend.errors import InputError

    monkeypatch.delenv("CAMPAIGN_CHECKPOINT", raising=False)
    with pytest.raises(InputError, match="CAMPAIGN_CHECKPOINT"):
        default_backend()
    monkeypatch.setenv("CAMPAIGN_CHECKPOINT", "/nowhere/at/all")
    with pytest.raises(InputError, match="checkpoint: expected"):
        default_backend()


def write_results(folder: Path) -> Path:
    """A COCO results file with one mask of class 7 on image 0."""
    polygon = [[10, 10, 40, 10, 40, 30, 10, 30]]
    path = folder / "results.json"
    path.write_text(json.dumps([{"image_id": 0, "category_id": 7, "score": 0.9, "segmentation": polygon}]))
    return path


def test_label_studio_ml_starts_the_folder(tmp_path, web):
    """The command of the package on our folder, with masks from a COCO results file as the model."""
    folder = Path(ml_backend.__file__).parent
    checkpoint = write_results(tmp_path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {
        "CAMPAIGN_CHECKPOINT": str(checkpoint),
        "CAMPAIGN_DETECTOR": "coco-results",
        "CAMPAIGN_IMAGE_CACHE": str(tmp_path / "images"),
        "CAMPAIGN_THIS_MACHINE_WITHOUT_PASSWORD": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    command = [sys.executable, "-m", "label_studio_ml.server", "start", str(folder), "-p", str(port)]
    log = tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=out, stderr=out, start_new_session=True
        )
    try:
        url = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 240
        while time.monotonic() < until and process.poll() is None:
            try:
                if requests.get(f"{url}/health", timeout=2).json() == {"status": "UP"}:
                    break
            except requests.RequestException:
                time.sleep(0.2)
        version = requests.post(f"{url}/setup", json=setup_body(), timeout=10).json()["model_version"]
        body = predict_body(web, xml=config().replace("apple", "7"))
        for task in body["tasks"]:
            task["data"]["image"] += "?sig=s1gn3d"
        results = requests.post(f"{url}/predict", json=body, timeout=30).json()["results"]
        assert version and {r["model_version"] for r in results} == {version}, log.read_text()
        assert [r["value"]["brushlabels"] for r in results[0]["result"]] == [["fruit"]]
        logged = log.read_text()
        assert "/predict" in logged and not any(secret in logged for secret in ("s1gn3d", "t0k3n"))
    finally:
        os.killpg(process.pid, 15)
        process.wait(10)
