"""Predictions for many projects and tasks: bad tasks cost the others nothing, too many go to the queue."""

import queue
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ml_backend.errors import InputError
from ml_backend.masks.coco import ImageRecord
from ml_backend.server import backend as backend_module
from ml_backend.server import push as push_module
from ml_backend.server.backend import Backend, Project, StoredMasks, parse_labels
from ml_backend.server.image_files import ImageFiles
from ml_backend.server.push import PushThread
from tests.ml_backend.bright_objects import BrightModel, BrightObjects, Clock, Gate, draw_spots
from tests.ml_backend.file_server import serve_folder, serve_status


def config(kind: str = "BrushLabels", key: str = "image") -> str:
    return (
        f'<View><Image name="img" value="${key}"/><{kind} name="b" toName="img">'
        f'<Label value="apple"/><Label value="pear"/></{kind}></View>'
    )


@pytest.fixture(autouse=True)
def hosts(monkeypatch):
    """Images lie on this machine, and no Label Studio there is known."""
    monkeypatch.setenv("CAMPAIGN_IMAGE_HOSTS", "127.0.0.1")


@pytest.fixture
def web(tmp_path):
    """An address that serves a good image, a truncated one, a text, one on which the detector breaks."""
    folder = tmp_path / "web"
    folder.mkdir()
    good = draw_spots(folder / "good.png")
    (folder / "truncated.png").write_bytes(good.read_bytes()[:80])
    (folder / "text.png").write_text("no image")
    draw_spots(folder / "breaks.png", [], (13, 13))
    draw_spots(folder / "empty.png", [])
    Image.new("RGB", (500, 500)).save(folder / "large.png")
    with serve_folder(folder) as (url, _):
        yield url


@pytest.fixture
def backend(tmp_path):
    return Backend(BrightModel(), ImageFiles(tmp_path / "cache"), max_pixels=200_000)


def tasks(*names: str, url: str, key: str = "image") -> list[dict]:
    return [{"id": i, "project": 1, "data": {key: f"{url}/{name}.png"}} for i, name in enumerate(names)]


def regions(answers: list) -> list[int]:
    return [len(a["result"]) for a in answers]


@pytest.mark.parametrize("bad", ["truncated", "text", "breaks", "large", "missing"])
def test_one_bad_task_costs_the_others_nothing(backend, web, bad, caplog):
    answers = backend.predict(1, config(), tasks("good", bad, "good", url=web))
    assert regions(answers) == [3, 0, 3]
    assert [a["model_version"] for a in answers] == ["bright-1"] * 3
    assert answers[1]["score"] == 0.0 and "task 1 gets an empty prediction" in caplog.text
    assert 'campaign_bad_tasks_total{reason="' in backend.metrics.text().decode()


@pytest.mark.parametrize("task", [{}, {"id": 1}, {"id": 1, "data": None}, {"id": 1, "data": {"image": 5}}, "x", None])
def test_a_malformed_task_gets_an_empty_result(backend, web, task):
    assert regions(backend.predict(1, config(), [task, *tasks("good", url=web)])) == [0, 3]


@pytest.mark.parametrize(
    "address",
    ["http://[::1", "http://[", "http://\ud800/a.png", "\ud800", "http://%00/", "x" * 100_000, "http://x:99999/"],
)
def test_an_address_of_any_shape_costs_the_others_nothing(backend, web, address):
    bad = {"id": 9, "data": {"image": address}}
    assert regions(backend.predict(1, config(), [bad, *tasks("good", url=web)]))[-1] == 3


def test_what_nobody_thought_of_costs_one_task_only(backend, web, tmp_path, monkeypatch, caplog):
    real = backend.images.get
    masks = next(BrightObjects().predict([ImageRecord(0, "a.png", 100, 80, draw_spots(tmp_path / "a.png"))]))
    damaged = replace(masks, rle=np.array([b"\xff"] * len(masks), object))

    def get(url: str, **options: object):
        if "breaks" in url:
            raise ZeroDivisionError("a secret thing")
        return real(url, **options)

    monkeypatch.setattr(backend.images, "get", get)
    assert regions(backend.predict(1, config(), tasks("good", "breaks", "good", url=web))) == [3, 0, 3]
    backend.stored = lambda _project, many: [
        StoredMasks(damaged if t["id"] else masks, {0: "apple", 1: "pear"}, 80, 100, "bright-1") for t in many
    ]
    assert regions(backend.predict(1, config("PolygonLabels"), tasks("good", "good", url=web))) == [3, 0]
    assert 'campaign_bad_tasks_total{reason="internal"} 2.0' in backend.metrics.text().decode()
    assert "task 1 gets an empty prediction: a secret thing" in caplog.text and "Traceback" in caplog.text


def test_a_config_without_labels_gets_empty_results(backend, web):
    for xml in ("<View/>", "<View>\ud800</View>", "<View>\0</View>"):
        assert regions(backend.predict(1, xml, tasks("good", url=web))) == [0]


def test_an_image_without_objects_gets_an_empty_result(backend, web):
    assert regions(backend.predict(1, config(), tasks("empty", url=web))) == [0]
    assert "bad_tasks_total{" not in backend.metrics.text().decode()


def test_projects_have_their_own_configs(backend, web):
    first = backend.predict(1, config("RectangleLabels"), tasks("good", url=web))
    second = backend.predict(2, config("PolygonLabels", "photo"), tasks("good", url=web, key="photo"))
    assert {r["type"] for r in first[0]["result"]} == {"rectanglelabels"}
    assert {r["type"] for r in second[0]["result"]} == {"polygonlabels"}


def test_a_token_never_goes_to_another_label_studio(backend, monkeypatch):
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://ours")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "key")
    backend.set_up(1, "http://theirs", "")
    backend.set_up(2, "http://theirs", "token")
    assert backend.project(1) == Project(1, "http://ours", "key") == backend.project(1)
    assert backend.project(2) == Project(2, "http://theirs", "token")


def test_four_thousand_tasks_are_answered_at_once_and_queued(backend, web, tmp_path):
    record = ImageRecord(0, "a.png", 100, 80, draw_spots(tmp_path / "a.png"))
    masks = next(BrightObjects().predict([record]))
    known = StoredMasks(masks, {0: "apple", 1: "pear"}, 80, 100, "bright-1")
    queued: list[tuple] = []
    backend.stored = lambda project, many: [known if t["id"] % 4 == 0 else None for t in many]
    backend.enqueue = lambda *what: queued.append(what)
    many = [{"id": i, "data": {"image": f"{web}/good.png"}} for i in range(1, 4001)]
    # At once: no image is fetched for it, nor predicted.
    backend.images = None
    answers = backend.predict(7, config(), many)
    assert len(answers) == 4000 and all((a == []) == bool(i % 4) for i, a in enumerate(answers, 1))
    [(project, xml, later)] = queued
    assert project.id == 7 and xml == config() and [t["id"] for t in later] == [i for i in range(1, 4001) if i % 4]
    assert backend.model.detector().calls == []
    assert "campaign_queued_tasks_total 3000.0" in backend.metrics.text().decode()


def test_few_tasks_are_predicted_at_once(backend, web):
    backend.enqueue = lambda *_: pytest.fail("nothing is to be queued")
    assert regions(backend.predict(1, config(), tasks(*["good"] * 20, url=web))) == [3] * 20


def test_what_takes_too_long_is_queued(tmp_path, web, monkeypatch):
    """An image takes three seconds: after the first turn of eight images there is time to begin another."""
    queued: list[dict] = []
    clock = Clock()
    monkeypatch.setattr(backend_module, "time", clock)
    model = BrightModel(lambda: clock.advance(3))
    backend = Backend(model, ImageFiles(tmp_path / "cache"), inline_seconds=30)
    backend.enqueue = lambda _project, _config, later: queued.extend(later)
    answers = backend.predict(1, config(), tasks(*["good"] * 20, url=web))
    assert [a != [] for a in answers] == [True] * 16 + [False] * 4
    assert [t["id"] for t in queued] == [16, 17, 18, 19]


@pytest.mark.parametrize("limit", [{"inline_bytes": 30_000}, {"inline_seconds": 0.5}])
def test_stored_masks_are_answered_within_the_limits_and_the_rest_is_queued(backend, tmp_path, limit, monkeypatch):
    masks = next(BrightObjects().predict([ImageRecord(0, "a.png", 100, 80, draw_spots(tmp_path / "a.png"))]))
    known = StoredMasks(masks, {0: "apple", 1: "pear"}, 80, 100, "bright-1")
    queued, asked = [], []
    backend = replace(backend, **limit, inline_tasks=5)
    backend.stored = lambda _project, many: asked.extend(many) or [known] * len(many)
    backend.enqueue = lambda _project, _config, later: queued.extend(later)
    if "inline_seconds" in limit:
        real, clock = backend_module.to_prediction, Clock()
        monkeypatch.setattr(backend_module, "time", clock)
        monkeypatch.setattr(backend_module, "to_prediction", lambda *what: (clock.advance(0.1), real(*what))[1])
    many = [{"id": i, "data": {}} for i in range(1, 4001)]
    answers = backend.predict(1, config(), many)
    answered = sum(a != [] for a in answers)
    assert 2 <= answered < 50 and all(len(a["result"]) == 3 for a in answers[:answered])
    assert len(queued) == 4000 - answered and len(asked) < 1000  # nor are the others read


def test_a_task_without_a_number_hides_no_stored_masks(backend, web, tmp_path):
    masks = next(BrightObjects().predict([ImageRecord(0, "a.png", 100, 80, draw_spots(tmp_path / "a.png"))]))

    def stored(_project, many):
        assert all(task["id"] == 5 for task in many)
        return [StoredMasks(masks, {0: "apple", 1: "pear"}, 80, 100, "bright-1")] * len(many)

    backend.stored = stored
    odd = [None, "x", {"id": "abc"}, {"id": [1]}, {"id": "5"}]
    assert regions(backend.predict(1, config(), [*odd, {"id": 5}])) == [0, 0, 0, 0, 0, 3]


@pytest.mark.parametrize(
    ("path", "answer"),
    [("401", "none"), ("403", "none"), ("500", "none"), ("503", "none"), ("404", "empty"), ("410", "empty")],
)
def test_trouble_in_fetching_is_not_an_image_without_objects(backend, web, path, answer):
    """What Label Studio has stored it does not ask for again."""
    with serve_status() as url:
        bad = {"id": 9, "data": {"image": f"{url}/{path}"}}
        good, got = backend.predict(1, config(), [*tasks("good", url=web), bad])
    assert len(good["result"]) == 3 and (got == []) == (answer == "none")
    text = backend.metrics.text().decode()
    assert f'bad_tasks_total{{reason="{"fetch" if answer == "none" else "image"}"}} 1.0' in text


def test_a_server_that_is_away_or_drips_leaves_its_tasks_for_later(backend, web):
    queued = []
    backend = replace(backend, inline_seconds=2.0)
    backend.enqueue = lambda _project, _config, later: queued.extend(later)
    away = {"id": 9, "data": {"image": "http://127.0.0.1:9/a.png"}}
    assert backend.predict(1, config(), [away]) == [[]] and queued == []
    with serve_status() as url:
        slow = [{"id": i, "data": {"image": f"{url}/drip"}} for i in (1, 2, 3)]
        good, *late = backend.predict(1, config(), [*tasks("good", url=web), *slow])
    assert len(good["result"]) == 3 and late == [[]] * 3 and queued == slow


def test_requests_beyond_half_of_the_threads_are_answered_at_once(web, tmp_path):
    gate, queued = Gate(), []
    answered: queue.Queue[list] = queue.Queue()
    backend = Backend(BrightModel(gate), ImageFiles(tmp_path / "cache"), inline_seconds=60)
    backend.enqueue = lambda _project, _config, later: queued.extend(later)

    def ask() -> None:
        answered.put(backend.predict(1, config(), tasks("good", "good", "good", url=web)))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    # While the model works.
    assert [answered.get(timeout=60) for _ in range(4)] == [[[]] * 3] * 4 and len(queued) == 12
    gate.open()
    for thread in threads:
        thread.join()
    assert [regions(answered.get()) for _ in range(4)] == [[3, 3, 3]] * 4 and len(queued) == 12


def test_the_queue_lets_an_annotator_pass(web, tmp_path):
    """Between two turns of the queue, of eight images each."""
    gate = Gate()
    backend = Backend(BrightModel(gate), ImageFiles(tmp_path / "cache"), inline_seconds=60)
    many = tasks(*["good"] * 64, url=web)
    pushing = threading.Thread(target=backend.predict_now, args=(Project(1), parse_labels(config()), many))
    pushing.start()
    assert gate.reached.wait(60)
    answers = []
    one = [{**many[0], "id": 999}]
    asking = threading.Thread(target=lambda: answers.extend(backend.predict(1, config(), one)))
    asking.start()
    while not backend._predicting.waiting:
        time.sleep(0.001)
    gate.open()
    for thread in (asking, pushing):
        thread.join()
    assert regions(answers) == [3]
    assert backend.model.detector().calls.index(999) == 8


@pytest.mark.parametrize("held", [20, 2])
def test_a_small_cache_costs_no_predictions(tmp_path, held):
    folder = tmp_path / "many"
    folder.mkdir()
    size = draw_spots(folder / "0.png").stat().st_size
    for i in range(1, 64):
        draw_spots(folder / f"{i}.png")
    backend = Backend(BrightModel(), ImageFiles(tmp_path / "small", limit=held * size))
    with serve_folder(folder) as (url, _):
        found = backend.predict_now(Project(1), parse_labels(config()), tasks(*map(str, range(64)), url=url))
    assert all(answer == [] or len(answer["result"]) == 3 for answer in found)
    assert held < 8 or [] not in found


def test_masks_of_another_version_are_not_used(backend, web, tmp_path):
    masks = next(BrightObjects().predict([ImageRecord(0, "a", 100, 80, draw_spots(tmp_path / "a.png"))]))
    backend.stored = lambda _project, many: [StoredMasks(masks, {0: "apple"}, 80, 100, "older") for _ in many]
    assert backend.predict(1, config(), tasks("empty", url=web))[0]["result"] == []


def test_a_store_or_queue_that_fails_costs_no_answer(backend, web):
    def fail(*_: object):
        raise ConnectionError

    backend.stored, backend.enqueue, backend.inline_tasks = fail, fail, 2
    assert regions(backend.predict(1, config(), tasks("good", url=web))) == [3]
    assert backend.predict(1, config(), tasks("good", "good", "good", url=web)) == [[], [], []]


def test_without_a_model_nothing_is_stored(backend, web, caplog):
    class Untrained:
        version = "untrained"

        def detector(self):
            raise InputError("model", "a campaign that has trained one", "none yet")

    backend.model = Untrained()
    backend.enqueue = lambda *_: pytest.fail("nothing is to be queued")
    assert backend.predict(1, config(), tasks("good", "good", url=web)) == [[], []]
    assert backend.predict(1, config(), tasks(*["good"] * 30, url=web)) == [[]] * 30
    assert "none yet" in caplog.text


def test_the_thread_outlives_a_label_studio_that_is_away(backend, web, monkeypatch):
    monkeypatch.setattr(push_module, "PAUSES", (0.01,))
    push = PushThread(backend)
    push(Project(1, "http://127.0.0.1:9", "t"), config(), tasks("good", url=web))
    push.join()
    push(Project(1, "", ""), config(), tasks("good", url=web))
    push.join()
    assert push.depth() == 0
