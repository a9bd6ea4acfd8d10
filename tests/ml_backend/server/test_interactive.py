"""Clicks answered by the server: pictures encoded once, steps kept, several annotators, a restart, bad input."""

import base64
import threading

import numpy as np
import pytest

import label_config
from ml_backend.interactive.encoding_cache import Encodings
from ml_backend.interactive.protocol import MASK_ID, MESSAGE_ID
from ml_backend.interactive.steps import StepLog
from ml_backend.masks.brush import decode_brush
from ml_backend.server.app import Access, create_app
from ml_backend.server.backend import Backend
from ml_backend.server.interactive import Interactive, Subject, TaskPictures
from tests.ml_backend.interactive.colour_segmenter import ColourSegmenter

XML = label_config.load("correct", ["disc"]).xml
SIZE = 100, 120


def picture(shift=0):
    """Three plain discs on a plain ground, one of them with a hole."""
    image = np.full((*SIZE, 3), 60, np.uint8)
    yy, xx = np.mgrid[: SIZE[0], : SIZE[1]]
    for n, (x, y) in enumerate(((30, 30), (80, 30), (30 + shift, 75))):
        distance = (xx - x) ** 2 + (yy - y) ** 2
        image[(distance < 15**2) & (distance >= (25 if n == 0 else 0))] = (200, 40 * n, 20)
    return image


class Pictures:
    """Two tasks on different pictures, the first with a mask to begin from; no others."""

    def subject(self, project, task, names):
        shift = {1: 0, 2: 30}[task["id"]]
        initial = None
        if not shift:
            initial = np.zeros(SIZE, bool)
            initial[25:35, 75:85] = True
        return Subject(f"task {task['id']}", f"picture {shift}", lambda: picture(shift), SIZE, initial)

    def following(self, project, task):
        return [self.subject(project, {"id": 2}, None)] if task["id"] == 1 else []

    def of_page(self, number):
        return self.subject(1, {"id": number}, None) if number in (1, 2) else None


class Model:
    version = "v1"

    def detector(self):
        raise AssertionError("clicks need no detector")


class Clicker:
    """One annotator's browser: what stands in the annotation, with an undo."""

    def __init__(self, interactive, task=1):
        backend = Backend(Model(), None, interactive=interactive)
        self.client = create_app(backend=backend, access=Access(("a", "b"))).test_client()
        self.task, self.regions, self.past = task, {}, []
        self.mask = None
        self.text = ""

    def post(self, context, task=None):
        body = {
            "tasks": [{"id": task or self.task, "data": {}}],
            "project": "7.1",
            "label_config": XML,
            "params": {"context": context},
        }
        token = base64.b64encode(b"a:b").decode()
        answer = self.client.post("/predict", json=body, headers={"Authorization": f"Basic {token}"})
        assert answer.status_code == 200
        return answer.json["results"][0]

    def send(self, region):
        kind = region["type"]
        same = [r for r in self.regions.values() if r["type"] == kind]
        self.take(self.post({"result": [*same, region]})["result"])
        return self.mask

    def take(self, result):
        self.past.append((dict(self.regions), self.mask))
        for r in result:
            if r["id"] == MASK_ID:
                self.mask = decode_brush(r["value"]["rle"], *SIZE)
            elif r["id"] == MESSAGE_ID:
                self.text = r["value"]["text"][0]
            elif r.get("dynamic"):
                self.regions.pop(r["id"], None)
            else:
                self.regions[r["id"]] = r

    def click(self, x, y, positive=True):
        value = {"x": 100 * x / SIZE[1], "y": 100 * y / SIZE[0], "width": 0.5}
        return self.send(
            {"id": "new", "from_name": "click", "type": "keypoint", "value": value, "is_positive": positive}
        )

    def box(self, x0, y0, x1, y1):
        value = {"x": x0 / 1.2, "y": y0, "width": (x1 - x0) / 1.2, "height": y1 - y0, "rotation": 0}
        return self.send({"id": "drawn", "from_name": "box", "type": "rectangle", "value": value})

    def undo(self):
        self.regions, self.mask = self.past.pop()


@pytest.fixture
def segmenter():
    return ColourSegmenter()


@pytest.fixture
def interactive(segmenter):
    return Interactive(lambda: segmenter, Pictures())


def disc(x, y, hole=False):
    yy, xx = np.mgrid[: SIZE[0], : SIZE[1]]
    distance = (xx - x) ** 2 + (yy - y) ** 2
    return (distance < 15**2) & (distance >= (25 if hole else 0))


def test_clicks_change_the_mask_that_is_there_and_undo_takes_one_back(interactive, segmenter):
    user = Clicker(interactive)
    start = np.zeros(SIZE, bool)
    start[25:35, 75:85] = True
    assert (user.click(40, 30) == (start | disc(30, 30, hole=True))).all()
    assert (user.click(80, 30, positive=False) == disc(30, 30, hole=True)).all()
    wrong = user.click(30, 75)
    assert (wrong == (disc(30, 30, hole=True) | disc(30, 75))).all()
    user.undo()
    assert (user.click(80, 30) == (disc(30, 30, hole=True) | disc(80, 30))).all()
    assert segmenter.encoded >= 1 and user.text == "Clicks: 3."


def test_a_box_begins_anew(interactive):
    user = Clicker(interactive)
    user.click(40, 30)
    assert (user.box(10, 10, 50, 50) == disc(30, 30, hole=True)).all()
    assert (user.click(80, 30) == (disc(30, 30, hole=True) | disc(80, 30))).all()
    assert not any(r["id"].startswith("click") and r["value"]["x"] < 40 for r in user.regions.values())


def test_a_server_that_is_started_again_goes_on(tmp_path, segmenter):
    path = tmp_path / "steps.sqlite"
    user = Clicker(Interactive(lambda: segmenter, Pictures(), StepLog(path)))
    user.click(40, 30)
    other = Clicker(Interactive(lambda: segmenter, Pictures(), log := StepLog(path)))
    other.regions, other.mask = user.regions, user.mask
    assert len(log) == 1
    expected = Clicker(Interactive(lambda: segmenter, Pictures()))
    expected.click(40, 30)
    assert (other.click(80, 30) == expected.click(80, 30)).all()
    # And where the steps were lost.
    lost = Clicker(Interactive(lambda: segmenter, Pictures()))
    lost.regions = dict(user.regions)
    assert (lost.click(80, 30) == other.mask).all()


def test_two_annotators_of_one_task_have_their_own_masks(interactive):
    one, two = Clicker(interactive), Clicker(interactive)
    masks = {}

    def work(user, name, places):
        for place in places:
            masks[name] = user.click(*place)

    threads = [
        threading.Thread(target=work, args=(one, "one", [(40, 30), (30, 75)] * 10)),
        threading.Thread(target=work, args=(two, "two", [(80, 30, False)] * 20)),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert masks["one"][30, 40] and masks["one"][75, 30] and not masks["two"].any()
    assert two.text.endswith("The mask is empty.")


def test_a_picture_is_encoded_once_and_the_next_ones_ahead(interactive, segmenter):
    users = [Clicker(interactive) for _ in range(3)]
    for user in users:
        user.click(40, 30)
        user.click(80, 30)
    two = Clicker(interactive, task=2)
    two.click(60, 75)
    assert segmenter.encoded == 2


def test_pages_that_are_shown_are_encoded(interactive, segmenter):
    interactive.shown(2)
    interactive.shown(99)
    done = threading.Event()
    for _ in range(200):
        if interactive.encodings.has("picture 30", segmenter):
            break
        done.wait(0.02)
    assert segmenter.encoded == 1


def test_encodings_stay_under_their_limit(segmenter):
    cache = Encodings(limit=3 * np.zeros((*SIZE, 3), np.int16).nbytes)
    for n in range(10):
        cache.get(f"p{n}", lambda: picture(), segmenter)
    assert cache.nbytes <= cache.limit and cache.has("p9", segmenter) and not cache.has("p0", segmenter)


def test_steps_are_bounded_and_expire(tmp_path, segmenter):
    log = StepLog(tmp_path / "s.sqlite", most=300)
    user = Clicker(Interactive(lambda: segmenter, Pictures(), log))
    for n in range(700):
        user.regions = {}
        user.click(5 + n % 90 + n / 10_000, 5 + n % 70)
    assert len(log) <= 300 + 256
    old = StepLog(tmp_path / "s.sqlite", days=0.0)
    user = Clicker(Interactive(lambda: segmenter, Pictures(), old))
    for n in range(300):
        user.regions = {}
        user.click(5 + n / 1000, 99)
    assert len(old) < 300


def test_the_other_events_of_clients_are_answered(interactive):
    user = Clicker(interactive)
    assert user.post({"event": "capabilities"})["capabilities"]["prompts"] == ["keypoint", "rectangle"]
    assert user.post({"event": "prewarm"})["result"] == []


def test_without_anything_said_the_mask_is_what_it_was_at_first(interactive):
    user = Clicker(interactive)
    user.take(user.post({"result": []})["result"])
    assert user.mask.sum() == 100


def broken():
    raise RuntimeError("a secret path")


@pytest.mark.parametrize(
    ("segmenter", "task", "said"),
    [
        (broken, 1, "This did not work"),
        (ColourSegmenter, 99, "This did not work"),
        (lambda: ColourSegmenter(), "no number", "This did not work"),
    ],
)
def test_what_goes_wrong_is_said_in_words_and_leaves_the_mask(segmenter, task, said):
    user = Clicker(Interactive(segmenter, Pictures()), task=task)
    user.click(40, 30)
    assert user.text.startswith(said) and "secret" not in user.text and user.mask is None


def test_a_click_that_waits_too_long_is_told_so(segmenter):
    interactive = Interactive(lambda: segmenter, Pictures(), workers=1, wait_seconds=0.05)
    user = Clicker(interactive)
    with interactive._turn():
        user.click(40, 30)
    assert user.text.startswith("Too many clicks at once") and user.mask is None and not user.regions


def test_any_project_may_ask_for_a_mask_of_its_picture(tmp_path, segmenter):
    from PIL import Image

    path = tmp_path / "i.png"
    Image.fromarray(picture()).save(path)
    seen = []

    def fetch(project, task, key):
        seen.append((project, key))
        return path

    xml = (
        '<View><Image name="i" value="$img"/><BrushLabels name="b" toName="i"><Label value="Car"/></BrushLabels>'
        '<KeyPointLabels name="k" toName="i" smart="true"><Label value="Car"/></KeyPointLabels></View>'
    )
    region = {"id": "x", "type": "keypointlabels", "value": {"x": 66.7, "y": 30, "keypointlabels": ["Car"]}}
    answer = Interactive(lambda: segmenter, TaskPictures(fetch)).answer("5.1", xml, {"id": 1}, {"result": [region]})
    (mask,) = answer["result"]
    assert (decode_brush(mask["value"]["rle"], *SIZE) == disc(80, 30)).all()
    assert seen == [("5.1", "img")] and mask["from_name"] == "b" and mask["value"]["brushlabels"] == ["Car"]
