"""The whole loop on the real parts: Label Studio, Redis, workers, annotators over HTTP, a detector from elsewhere.

What a network happens to learn in seconds differs from processor to processor, so the detector here is learned in
closed form; `make demo TRAIN=1` runs the loop with a network.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from redis.exceptions import RedisError

from campaign.certification.promise import digest_of
from campaign.demo.annotators import Annotator
from campaign.demo.eyes import Habits, Truth
from campaign.demo.sight import Sight
from campaign.derived.showing import task_name
from campaign.jobs.broker import connect
from campaign.jobs.queues import running
from campaign.jobs.step_jobs import StepJob
from campaign.label_studio.client import Client
from campaign.label_studio.server import LabelStudioServer, free_port
from campaign.records.page import Screen
from campaign.store import Store
from ml_backend.errors import InputError
from ml_backend.masks.brush import encode_brush
from ml_backend.masks.coco import Annotation, CocoDataset, decode
from tests.campaign.cli.builders import CAMPAIGN
from tests.campaign.steps.colours import CLASSES, draw

pytestmark = [pytest.mark.label_studio, pytest.mark.redis]

SETTINGS = {
    "detector.name": "colours",
    "search.policy": "paper",
    "search.n_s": 4,
    "search.k_iou": 0.6,
    "jobs.shard_images": 4,
    "jobs.poll_seconds": 0.3,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("data") / "discs", {"labelled": 8, "pool": 12, "heldout": 6})


@pytest.fixture(scope="module", autouse=True)
def detector(tmp_path_factory) -> Iterator[None]:
    """Installs the detector `colours` for every process of the campaigns, as a package from elsewhere would be."""
    site = tmp_path_factory.mktemp("site")
    package = site / "colours-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: colours\nVersion: 1.0\n")
    entry_point = "colours = tests.campaign.steps.colours:Colours"
    (package / "entry_points.txt").write_text(f"[campaign.detectors]\n{entry_point}\n")
    places = [str(site), str(Path(__file__).parents[3]), *filter(None, [os.environ.get("PYTHONPATH")])]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(places))
        yield


def campaign(*args, token: str) -> str:
    env = os.environ | {"LABEL_STUDIO_API_KEY": token}
    done = subprocess.run([CAMPAIGN, *map(str, args)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def settings(**more) -> list[str]:
    pairs = SETTINGS | more
    return [part for name, value in pairs.items() for part in ("--set", f"{name}={value}")]


def free_url() -> str:
    return f"http://127.0.0.1:{free_port()}"


class Team(threading.Thread):
    """Two simulated annotators over HTTP, who ask Label Studio for a page when the campaign has published one.

    They answer by turns until every published page has an answer, then wait for the next ones.
    """

    def __init__(self, server: LabelStudioServer, folder: Path, truth: Path):
        super().__init__(daemon=True)
        self.server, self.folder = server, folder
        # Gold shows images that are not in the pool.
        self.truth = Truth(*sorted(truth.parent.glob("*.json")))
        self.over = threading.Event()
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            self._answer(Store.open(self.folder))
        except BaseException as error:
            self.problem = error

    def _answer(self, store: Store) -> None:
        people: list[Annotator] = []
        while not self.over.wait(0.1):
            published = sum(p.screen == Screen.VERIFICATION for p in store.pages.rows(published=True))
            if not people and published:
                people = [self._enter(f"loop-{n}@example.com", Sight(store)) for n in (1, 2)]
            if sum(person.counts.pages for person in people) < published:
                project = store.values.project(Screen.VERIFICATION)
                assert project is not None
                while any([person.answer_next(project) for person in people]):
                    pass

    def _enter(self, email: str, sight: Sight) -> Annotator:
        person = Annotator(self.server.url, email, "discs and bars 1", self.truth, Habits(k_iou=0.6), 0.0, sight)
        person.enter(self.server.invite_token())
        return person

    def stop(self) -> None:
        self.over.set()
        self.join(60)
        assert not self.is_alive() and self.problem is None, self.problem


def run_campaign(server: LabelStudioServer, store: Store, truth: Path, on_tick=None, limit: float = 500) -> None:
    """`campaign run` to its end, with annotators; `on_tick()` is called all the time."""
    env = os.environ | {"LABEL_STUDIO_API_KEY": server.token}
    log = store.folder.parent / f"{store.folder.name}.log"
    team = Team(server, store.folder, truth)
    with log.open("wb") as out:
        process = subprocess.Popen([CAMPAIGN, "run", str(store.folder)], stdout=out, stderr=out, env=env)
    team.start()
    end = time.monotonic() + limit
    try:
        while process.poll() is None:
            assert time.monotonic() < end, log.read_text()[-2000:]
            assert team.problem is None, team.problem
            if on_tick:
                on_tick()
            time.sleep(0.005 if on_tick else 0.2)
        assert process.returncode == 0, log.read_text()[-2000:]
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
        team.stop()


def check_export(path: Path, truth_path: Path, store: Store) -> list[dict]:
    """What must hold of every export; returns its annotations."""
    export, truth = COCO(path), COCO(truth_path)
    names = {i["file_name"]: i["id"] for i in truth.dataset["images"]}
    for image in export.dataset["images"]:
        assert Path(image["file_name"]).name in names
    no = {a.mask_id for a in store.answers.rows() if a.verdict == "no"}
    annotations = export.dataset["annotations"]
    assert annotations, "no mask was obtained"
    for a in annotations:
        assert a["attributes"]["mask_id"] not in no
        assert a["attributes"]["rule"] and a["attributes"]["model_version"]
        assert export.annToMask(a).sum() == a["area"]
    return annotations


@pytest.mark.timeout(1200)
def test_a_campaign_beside_label_studio(data, tmp_path, label_studio, label_studio_client: Client):
    """From a source project of brush masks to the export with its promise, in two rounds, by the default policy."""
    source = make_source(label_studio_client, label_studio, data)
    before = list(label_studio_client.tasks(source, "id,updated_at,annotations", annotations=True))
    folder = tmp_path / "beside"
    start = ["--label-studio", label_studio.url, "--source-project", source, "--heldout-share", 0.4]
    more = settings(**{"page.public_url": free_url(), "rounds.rounds": 2, "search.policy": "target"})
    token = label_studio.token
    created = json.loads(campaign("init", folder, *start, *more, "--json", token=token))
    assert created["images"]["pool"] == 12 and created["images"]["heldout"] == 6
    assert set(created["classes"]) == {"disc", "bar"}
    store = Store.open(folder)
    run_campaign(label_studio, store, data / "pool.json")
    campaign("export", folder, token=token)
    annotations = check_export(folder / "export.json", data / "pool.json", store)
    assert len(annotations) >= 10
    state = json.loads(campaign("status", folder, "--json", token=token))
    assert state["finished"] and state["annotators"] == 2 and 0 < state["answered"] <= state["questions"]
    promise = json.loads((folder / "export.json").read_text())["info"]["promise"]
    # So few masks are all asked about, and none is left to draw: what gold says of the eyes decides.
    assert promise["masks"] == len(annotations) and promise["precision_at_least"] > 0.5
    assert promise["digest"] == digest_of(np.array([a["attributes"]["mask_id"] for a in annotations]))
    assert promise["met"] or "target" in promise["missing"]
    assert json.loads(campaign("replay", folder, "--json", token=token))["changed"] == 0
    campaign("report", folder, token=token)
    assert "disc" in (folder / "report.html").read_text()
    assert list(label_studio_client.tasks(source, "id,updated_at,annotations", annotations=True)) == before


def make_source(client: Client, server: LabelStudioServer, data: Path) -> int:
    """A project with brush annotations on the labelled and held-out images, and the pool's images without any."""
    labels = "".join(f"<Label value='{name}'/>" for name in CLASSES.values())
    brush = f"<BrushLabels name='brush' toName='image'>{labels}</BrushLabels>"
    config = f"<View><Image name='image' value='$image'/>{brush}</View>"
    assert server.files is not None
    files = server.files / "discs"
    files.mkdir()
    tasks = []
    for split in ("labelled", "heldout", "pool"):
        part = CocoDataset.load(data / f"{split}.json", data / "images")
        grouped = part.by_image()
        for image in part.images:
            (files / image.file_name).write_bytes(Path(image.path).read_bytes())
            task: dict = {"data": {"image": f"/data/local-files/?d=discs/{image.file_name}"}}
            if split != "pool":
                regions = [brush_region(a) for a in grouped.get(image.id, [])]
                task["annotations"] = [{"result": regions, "ground_truth": False}]
            tasks.append(task)
    project = client.sdk.projects.create(title="source", label_config=config)
    assert project.id is not None
    client.sdk.import_storage.local.create(project=project.id, path=str(files), use_blob_urls=True)
    client.sdk.projects.import_tasks(id=project.id, request=tasks)
    return project.id


def brush_region(annotation: Annotation) -> dict:
    height, width = annotation.rle["size"]
    painted = encode_brush(decode(annotation.rle))
    value = {"format": "rle", "rle": painted, "brushlabels": [CLASSES[annotation.class_id]]}
    return {
        "id": f"a{annotation.id}", "from_name": "brush", "to_name": "image", "type": "brushlabels",
        "original_width": width, "original_height": height, "image_rotation": 0, "value": value,
    }  # fmt: skip


class Killer:
    """Kills the worker of each step once, with SIGKILL, as soon as its job is seen to run."""

    STEPS = ("train", "detect", "assess", "cluster", "open", "sync", "propagate")

    def __init__(self, store: Store):
        self.store = store
        self.left = set(self.STEPS)
        self.killed: list[str] = []

    def __call__(self) -> None:
        try:
            connection = connect(self.store)
            for job_id, _ in running(self.store, connection):
                step = next((s for s in self.left if f"-{s}" in job_id), None)
                worker = StepJob.fetch(job_id, connection=connection).worker_name if step else None
                if not step or not worker:
                    continue
                if step == "sync" and self.store.questions.count() == 0:
                    continue  # the first turn that publishes is the one to be killed
                os.kill(int(worker.rpartition("-")[2]), signal.SIGKILL)
                self.left.discard(step)
                self.killed.append(step)
        except (RedisError, InputError, ProcessLookupError, KeyError):
            return  # Redis is not up yet, or the job was over


@pytest.mark.timeout(1200)
def test_killed_workers_change_nothing(data, tmp_path, label_studio):
    """A worker is killed in each step, and the export is the one of a campaign that nobody disturbed."""
    exports = []
    for name in ("quiet", "killed"):
        folder = tmp_path / name
        more = settings(**{"page.public_url": free_url(), "rounds.rounds": 1, "name": name})
        start = ["--data", data, "--label-studio", label_studio.url]
        campaign("init", folder, *start, *more, token=label_studio.token)
        store = Store.open(folder)
        killer = Killer(store) if name == "killed" else None
        run_campaign(label_studio, store, data / "pool.json", killer)
        if killer is not None:
            assert {"train", "detect", "sync"} <= set(killer.killed) and len(killer.killed) >= 5, killer.killed
        campaign("export", folder, token=label_studio.token)
        exports.append(check_export(folder / "export.json", data / "pool.json", store))
        keys = [task_name(p) for p in store.pages.rows()]
        project = store.values.project("verification")
        client = Client(label_studio.url, label_studio.token)
        held = [t["data"]["key"] for t in client.tasks(project, "id,data")]
        assert sorted(held) == sorted(keys), "a page was doubled or lost"
    assert exports[0] == exports[1]
