"""Predictions pushed to a Label Studio that refuses, stumbles and forgets to answer."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

import pytest

from ml_backend.errors import InputError
from ml_backend.masks.coco import ImageRecord
from ml_backend.server import push as push_module
from ml_backend.server.backend import Backend, Project, StoredMasks
from ml_backend.server.image_files import ImageFiles
from ml_backend.server.push import PushThread, push_predictions
from tests.ml_backend.bright_objects import BrightModel, BrightObjects, draw_spots
from tests.ml_backend.file_server import serve_folder

CONFIG = (
    '<View><Image name="img" value="$image"/><BrushLabels name="b" toName="img">'
    '<Label value="apple"/><Label value="pear"/></BrushLabels></View>'
)


class Stub(BaseHTTPRequestHandler):
    """Lists tasks with predictions, and takes predictions of the tasks that are not `server.deleted`.

    `server.statuses` are answered first; one below 0 stores the predictions and answers its absolute value.
    """

    def do_GET(self) -> None:
        self.server.asked.append("list")
        items = json.loads(parse_qs(urlparse(self.path).query)["query"][0])["filters"]["items"]
        ids = [
            number
            for number, versions in sorted(self.server.stored.items())
            if items[0]["value"] < number <= items[2]["value"] and items[1]["value"][0] in versions
        ]
        self.server.listed += len(ids)
        self.answer(200, {"tasks": [{"id": number} for number in ids[:1000]], "total": len(ids)})

    def do_POST(self) -> None:
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(len(rows))
        status = self.server.statuses.pop(0) if self.server.statuses else 201
        if status > 201:
            self.answer(status, {})
            return
        if any(row["task"] in self.server.deleted for row in rows):
            self.answer(400, {"detail": "task not found"})
            return
        for row in rows:
            self.server.stored.setdefault(row["task"], []).append(row["model_version"])
            self.server.regions[row["task"]] = len(row["result"])
        self.answer(abs(status), {"created": len(rows)})

    def answer(self, status: int, body: dict) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Waits are short; the Label Studio is on this machine, so its images may be."""
    monkeypatch.setattr(push_module, "PAUSES", (0.01, 0.01, 0.01))


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    server.asked, server.stored, server.regions, server.statuses = [], {}, {}, []
    server.deleted, server.listed = set(), 0
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def project(server):
    return Project(7, f"http://127.0.0.1:{server.server_port}", "t0k3n")


@pytest.fixture
def backend(tmp_path):
    return Backend(BrightModel(), ImageFiles(tmp_path / "cache"))


@pytest.fixture
def tasks(tmp_path):
    """A function that makes so many tasks with a good image."""
    folder = tmp_path / "web"
    folder.mkdir()
    draw_spots(folder / "a.png")
    with serve_folder(folder) as (url, _):
        yield lambda many: [{"id": i, "data": {"image": f"{url}/a.png"}} for i in range(1, many + 1)]


def counts(backend) -> tuple[float, float]:
    return (
        backend.metrics.registry.get_sample_value("campaign_pushed_tasks_total"),
        backend.metrics.registry.get_sample_value("campaign_push_failures_total"),
    )


def test_predictions_reach_their_tasks_and_are_not_doubled(server, project, backend, tasks):
    assert push_predictions(backend, project, CONFIG, tasks(20), batch=8) == 20
    assert push_predictions(backend, project, CONFIG, tasks(22), batch=8) == 2
    assert all(len(versions) == 1 for versions in server.stored.values()) and set(server.regions.values()) == {3}
    assert counts(backend) == (22, 0)


def test_asking_what_is_there_does_not_grow_with_each_batch(server, project, backend, tasks):
    server.stored = {i: ["bright-1"] for i in range(1, 3001)}
    many = tasks(3000)
    assert push_predictions(backend, project, CONFIG, list(reversed(many))) == 0
    assert server.listed == 3000


def test_a_refused_task_costs_its_batch_nothing(server, project, backend, tasks):
    server.deleted = {5, 6, 30}
    assert push_predictions(backend, project, CONFIG, tasks(40)) == 37
    assert set(server.stored) == set(range(1, 41)) - {5, 6, 30} and counts(backend) == (37, 3)


@pytest.mark.parametrize("statuses", [[502], [500, 429, 503]])
def test_a_label_studio_that_stumbles_is_asked_again(server, project, backend, tasks, statuses):
    server.statuses = statuses
    assert push_predictions(backend, project, CONFIG, tasks(5)) == 5
    assert len(server.stored) == 5 and counts(backend) == (5, 0)


def test_what_was_taken_without_an_answer_is_not_sent_twice(server, project, backend, tasks):
    server.statuses = [-502]
    assert push_predictions(backend, project, CONFIG, tasks(5)) == 5
    assert all(len(versions) == 1 for versions in server.stored.values()) and counts(backend) == (5, 0)


@pytest.mark.parametrize(("statuses", "asked"), [([500] * 9, 4), ([403], 1)])
def test_in_the_end_it_is_given_up_and_counted(server, project, backend, tasks, statuses, asked):
    server.statuses = statuses
    with pytest.raises(InputError, match="an answer of Label Studio, got"):
        push_predictions(backend, project, CONFIG, tasks(10), batch=4)
    assert [what for what in server.asked if what != "list"] == [4] * asked and counts(backend) == (0, 10)


def test_what_cannot_be_pushed_is_left_out(server, project, backend, tasks):
    good, away, text = tasks(3)
    away["data"]["image"] = "http://127.0.0.1:9/a.png"
    text["data"]["image"] = 5
    odd = [None, "x", {}, {"id": [1]}, {"id": "5", "data": {}}, {"id": True}, {"id": 1 << 70}]
    assert push_predictions(backend, project, CONFIG, [*odd, good, away, text]) == 2
    # No answer is no image without objects, so its task gets no prediction at all.
    assert server.regions == {1: 3, 3: 0}
    thread = PushThread(backend)
    thread(project, CONFIG, odd)
    assert thread.depth() == 0


def test_stored_masks_are_pushed_without_the_model(server, project, backend, tasks, tmp_path):
    masks = next(BrightObjects().predict([ImageRecord(0, "a.png", 100, 80, draw_spots(tmp_path / "a.png"))]))
    known = StoredMasks(masks, {0: "apple", 1: "pear"}, 80, 100, "bright-1")
    backend.stored = lambda _project, many: [known if task["id"] != 3 else None for task in many]
    assert push_predictions(backend, project, CONFIG, tasks(5)) == 5
    assert set(server.regions.values()) == {3} and backend.model.detector().calls == [3]


def test_the_thread_takes_each_task_once_and_goes_on_after_a_failure(server, project, backend, tasks):
    thread = PushThread(backend)
    server.statuses = [403]
    thread(project, CONFIG, tasks(3))
    thread.join()
    assert counts(backend) == (0, 3) and thread.depth() == 0
    for _ in range(3):
        thread(project, CONFIG, tasks(100))
    assert thread.depth() in (1, 2)
    thread.join()
    assert len(server.stored) == 100 and counts(backend) == (100, 3) and thread.depth() == 0
