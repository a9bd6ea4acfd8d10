"""`campaign serve`: crops for Label Studio's pages, webhooks, the ML backend, and the lead's page."""

from __future__ import annotations

import argparse
import logging
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from flask import Flask

from campaign.pages.completeness import shown_masks
from campaign.pages.publishing import pages_ahead
from campaign.records.page import PageKind, Screen
from campaign.records.stage import Stage
from campaign.steps.rounds import Step, StepName, start_campaign
from campaign.store import Store
from campaign.web.corrections import interactive
from ml_backend.detector import Detector
from ml_backend.errors import InputError
from ml_backend.logs import configure_logs, process_about
from ml_backend.mask_ids import is_drawn
from ml_backend.predictions import Predictions
from ml_backend.server.app import Access, Limits, MaskView, PartView, create_app
from ml_backend.server.backend import Backend, Project, StoredMasks, project_number, task_number
from ml_backend.server.image_files import image_cache
from ml_backend.server.interactive import TaskPictures
from ml_backend.server.push import PushThread

log = logging.getLogger(__name__)

SHARDS_KEPT = 32
PATHS_KEPT = 10_000  # of images: all of a large pool would take minutes to list, and gigabytes
ANSWERED = 0.05  # seconds; whoever wakes is answered before this process has other work
# Seconds; what comes meanwhile wakes the reader once. The machine has as long for those who answer as a turn took.
EVENT_PAUSE, LONGEST_PAUSE = 1.0, 5.0


class StoreCrops:
    """Masks and images of a campaign, for the server that draws them. Safe between threads."""

    def __init__(self, store: Store):
        self.store = store
        self._shards: OrderedDict[Path, Predictions] = OrderedDict()
        self._paths = lru_cache(maxsize=PATHS_KEPT)(lambda image_id: store.images.get(image_id).path)
        self._lock = threading.Lock()

    def mask(self, mask_id: int) -> MaskView:
        """The mask with this id. Raises KeyError where there is none."""
        if is_drawn(mask_id):
            shard, row = self.store.masks.read([mask_id]), 0
        else:
            path, row = self.store.masks.place(mask_id)
            shard = self._shard(path)
        if row >= len(shard):
            raise KeyError(mask_id)
        height, width = (int(v) for v in shard.size[row])
        x, y, w, h = (float(v) for v in shard.box[row])
        rle = {"size": [height, width], "counts": shard.rle[row]}
        return MaskView(self._paths(int(shard.image_id[row])), (x, y, w, h), rle)

    def page(self, number: int) -> list[int]:
        """The masks on the page of this number, by their names there, which say nothing; none for an unknown one."""
        try:
            page = self.store.pages.numbered(number)
        except KeyError:
            return []
        asked = self.store.questions.on_pages([page.key])
        return [a.mask_id for a in sorted(asked, key=lambda a: (a.name or "", a.mask_id))]

    def following(self, number: int | None, count: int) -> list[int]:
        """Pages after this one, or from the first without an answer on, as they were made; `count` of them at most."""
        return self.store.pages.open_after(number, Screen.VERIFICATION, count)

    def image(self, image_id: int) -> Path:
        """The file of the image with this id. Raises KeyError where there is none."""
        return self._paths(image_id)

    def part(self, number: int) -> PartView:
        """The part of an image on a page that asks what is missing. Raises KeyError where there is no such page."""
        page = self.store.pages.numbered(number)
        if page.kind != PageKind.COMPLETE or page.place is None:
            raise KeyError(number)
        numbers = {class_id: n for n, class_id in enumerate(self.store.classes())}
        masks = [(rle, numbers[class_id]) for class_id, rle in shown_masks(self.store, page.place)]
        x0, y0, x1, y1 = page.place["window"]
        return PartView(self._paths(page.place["image_id"]), (x0, y0, x1, y1), masks)

    def _shard(self, path: Path) -> Predictions:
        with self._lock:
            if path in self._shards:
                self._shards.move_to_end(path)
                return self._shards[path]
        if not self.store.files.has(path):
            raise KeyError(path.name)
        shard = self.store.masks.shard(path, features=False)
        with self._lock:
            self._shards[path] = shard
            while len(self._shards) > SHARDS_KEPT:
                self._shards.popitem(last=False)
        return shard


class Waker:
    """Has the answers read when a webhook says that there are new ones. Webhooks only wake; they carry no facts here.

    A thread of its own does it, so that Label Studio, which makes its annotator wait, is answered at once.
    """

    def __init__(self, store: Store):
        self.store = store
        self._woken = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pause = EVENT_PAUSE

    def __call__(self, action: str, _payload: dict[str, Any]) -> None:
        """Notes that there is something to read, and returns at once."""
        if not action.startswith("ANNOTATION"):
            return
        self._woken.set()
        with self._lock:
            if self._thread is None:  # here, in the process that serves, and not in the one that was forked
                self._thread = threading.Thread(target=self._watch, name="waker", daemon=True)
                self._thread.start()

    def wake(self) -> bool:
        """Puts a turn on the queue; False where one runs that may have looked before: then this is to be asked again.

        A Redis or a database that is away is no matter: the poll finds what was missed.
        """
        from redis.exceptions import RedisError

        from campaign.jobs.broker import connect
        from campaign.jobs.queues import enqueue_anew, seconds_of_last

        try:
            current = self.store.rounds.newest()
            if current is None or current.stage != Stage.VERIFY:
                return True
            connection, turn = connect(self.store), Step(StepName.SYNC, "default", current.number)
            self._pause = min(max(EVENT_PAUSE, seconds_of_last(self.store, connection, turn)), LONGEST_PAUSE)
            return enqueue_anew(self.store, connection, turn)
        except (InputError, RedisError) as error:
            log.warning("an answer waits for the next poll: %s", error)
            return True

    def _watch(self) -> None:
        while self._woken.wait():
            time.sleep(ANSWERED)
            self._woken.clear()
            try:
                done = self.wake()
            except Exception:
                log.exception("an answer waits for the next poll")  # the next webhook is to wake again
                done = True
            if not done:
                self._woken.set()
            time.sleep(self._pause)


class CampaignModel:
    """The newest trained model of a campaign, for Label Studio's own "Retrieve predictions"."""

    def __init__(self, store: Store):
        self.store = store
        self._lock = threading.Lock()
        self._loaded: tuple[str, Detector] | None = None

    @property
    def version(self) -> str:
        """Names the newest weights; "untrained" before the first training is over."""
        return next((r.model_version for r in reversed(self.store.rounds.all()) if r.checkpoint), None) or "untrained"

    def detector(self) -> Detector:
        """The newest model, loaded once. Raises InputError before the first training is over."""
        from ml_backend.detector import load_detector_class

        with self._lock:
            row = next((r for r in reversed(self.store.rounds.all()) if r.checkpoint), None)
            if row is None:
                raise InputError("model", "a campaign that has trained one", "none yet")
            checkpoint = str(row.checkpoint)
            if self._loaded is None or self._loaded[0] != checkpoint:
                options = self.store.settings.detector.options
                device = {"device": options["device"]} if "device" in options else {}
                path = self.store.checkpoint(row)
                loaded = load_detector_class(self.store.settings.detector.name).load(path, **device)
                self._loaded = checkpoint, loaded
            return self._loaded[1]


class StoredPredictions:
    """What the running round's detection already knows of the source project's tasks."""

    def __init__(self, store: Store):
        self.store = store

    def __call__(self, project: Project, tasks: Sequence[dict]) -> list[StoredMasks | None]:
        """Stored masks of each task, None for one that has none. Each shard is read once."""
        known: list[StoredMasks | None] = [None] * len(tasks)
        row = next((r for r in reversed(self.store.rounds.all()) if r.checkpoint), None)
        if row is None or project.id != self.store.settings.label_studio.source_project:
            return known
        finished = {s.number for s in self.store.masks.shards(row.number, "pool")}
        wanted: dict[int, list[tuple[int, Any]]] = defaultdict(list)
        images = self.store.images.of_tasks([number for task in tasks if (number := task_number(task))])
        for n, task in enumerate(tasks):
            image = images.get(task_number(task))
            if image is None:
                continue
            shard_number = self.store.images.shard_of(image.id, self.store.settings.jobs.shard_images, row.number)
            if shard_number is not None and shard_number in finished:
                wanted[shard_number].append((n, image))
        for number, asked in wanted.items():
            shard = self.store.masks.shard(self.store.masks.shard_path(row.number, "pool", number), features=False)
            for n, image in asked:
                masks = shard.select(shard.image_id == image.id)
                known[n] = StoredMasks(masks, self.store.classes(), image.height, image.width, row.model_version or "")
        return known


@dataclass
class CampaignBackend(Backend):
    """The ML backend of a campaign, which reaches the source project as the campaign does.

    Label Studio passes the address that its users know, which from inside a container may be another machine.
    """

    store: Store = field(kw_only=True)

    def project(self, project: str | int) -> Project:
        """How to reach a project: the source project by the campaign's settings, others as `set_up` was passed them."""
        settings, number = self.store.settings.label_studio, project_number(project)
        if settings.url and number == settings.source_project:
            return Project(number, settings.url, self.store.secret("label_studio_token"))
        return super().project(project)


def build_app(place: str | Path) -> Flask:
    """The campaign's web server as a WSGI application.

    Label Studio names itself by basic auth, user "campaign" and the secret `backend_password`. Programs on this machine
    need none where `page.this_machine_without_password` says so.
    """
    from campaign.jobs.broker import connect
    from campaign.jobs.measures import CampaignMetrics
    from campaign.jobs.queues import enqueue_due, waiting
    from campaign.web.lead import mount

    store = Store.open(place)
    backend = CampaignBackend(CampaignModel(store), image_cache(), stored=StoredPredictions(store), store=store)
    backend.enqueue = PushThread(backend)

    def train(_project: int) -> None:
        # A campaign trains by itself at the start of each round; the button starts one that was not started.
        start_campaign(store)
        enqueue_due(store, connect(store))

    def training(_project: int) -> dict[str, Any]:
        current = store.rounds.newest()
        return {
            "is_training": current is not None and current.stage == Stage.TRAIN,
            "round": current.number if current else 0,
            "model_version": backend.model.version,
        }

    def queue_depth() -> int:
        try:
            return waiting(store, connect(store))
        except InputError:
            return 0  # without Redis there is no queue

    backend.train = train
    crops = StoreCrops(store)
    backend.interactive = interactive(store, crops.mask, TaskPictures(backend.task_image))
    waived = store.settings.page.this_machine_without_password
    app = create_app(
        crops,
        secret=store.secret("crop_key"),
        backend=backend,
        on_event=Waker(store),
        training=training,
        queue_depth=queue_depth,
        access=Access(("campaign", store.secret("backend_password")), waived, store.secret("webhook_secret")),
        limits=Limits(crops=store.settings.page.crops_mib << 20, ahead=pages_ahead(store)),
    )
    app.extensions["campaign_interactive"] = backend.interactive
    backend.metrics.registry.register(CampaignMetrics(store))
    mount(app, store)
    return app


def serve(place: str | Path, host: str = "127.0.0.1", port: int | None = None, threads: int = 32) -> None:
    """Serves until it is stopped. Raises InputError where the port is taken or the folder no campaign."""
    import socket

    from campaign.web.gateway import Server

    store = Store.open(place)
    configure_logs(store.settings.jobs.json_logs)
    process_about(campaign=store.settings.name)
    port = port or urlparse(store.settings.page.public_url).port or 80
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(f"{host}:{port}", "a free port (see page.public_url)", error.strerror) from None
    Server(partial(build_app, place), host, port, threads).run()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("place")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int)
    options = parser.parse_args()
    serve(options.place, options.host, options.port)
