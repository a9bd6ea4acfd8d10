"""Predictions for the tasks of Label Studio projects, of any number of them from one process."""

from __future__ import annotations

import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from ml_backend.detector import Detector
from ml_backend.errors import FetchError, InputError
from ml_backend.masks.coco import ImageRecord
from ml_backend.masks.images import image_size
from ml_backend.masks.limits import MAX_PIXELS
from ml_backend.masks.regions import LabelMap, to_prediction
from ml_backend.predictions import Predictions
from ml_backend.server.image_files import FETCH_SECONDS, ImageFiles
from ml_backend.server.interactive import Interactive
from ml_backend.server.metrics import Metrics
from ml_backend.server.turns import Turns

log = logging.getLogger(__name__)

# Label Studio gives up after 100 s and loses all; what cannot be answered well before is queued.
INLINE_TASKS = 24
INLINE_SECONDS = 20.0
INLINE_BYTES = 20 << 20
# At most half of the threads that the server is started with: the others are for health, crops and webhooks.
INLINE_REQUESTS = 4
# Images in one turn at the model; between its turns the queue lets those pass who wait for an answer.
CHUNK = 8
# Tasks in one look at the stored masks.
LOOK = 512
# Of an id in Label Studio's database, 64 bits.
MAX_DIGITS = 18


class ModelSource(Protocol):
    """The current model. It may be another one from call to call, when a campaign has retrained."""

    @property
    def version(self) -> str:
        """Names the current weights; must be cheap, for Label Studio asks often and waits 3 s at most."""
        ...

    def detector(self) -> Detector:
        """The current model, loaded when first asked for."""
        ...


@dataclass(frozen=True)
class StoredMasks:
    """Masks already predicted on a task's image of height x width pixels, with their model's classes and version."""

    masks: Predictions
    classes: dict[int, str]
    height: int
    width: int
    version: str


@dataclass(frozen=True)
class Project:
    """A project of Label Studio as its requests describe it: its id, where it is, a token for its images."""

    id: int
    hostname: str = ""
    token: str = field(default="", repr=False)


@dataclass
class Backend:
    """Answers for all projects of a Label Studio.

    model: the current model. images: fetches the tasks' images. stored: masks that are known already, None for a
    task that has none; asked for many tasks at once. enqueue: takes (project, label config, tasks) that are to be
    predicted later and pushed to Label Studio; without it such tasks are answered as far as time allows. train: takes
    the id of a project whose "Start training" was pressed, and returns at once. interactive: answers to clicks and
    boxes; without it they are answered with nothing.

    One request predicts for at most `inline_seconds` on at most `inline_tasks` tasks, and its stored answers may fill
    some `inline_bytes`. At most `inline_requests` requests are answered so at a time, the others leave all to the
    queue.
    """

    model: ModelSource
    images: ImageFiles
    stored: Callable[[Project, Sequence[dict]], Sequence[StoredMasks | None]] | None = None
    enqueue: Callable[[Project, str, list[dict]], None] | None = None
    train: Callable[[int], None] | None = None
    interactive: Interactive | None = None
    metrics: Metrics = field(default_factory=Metrics)
    inline_tasks: int = INLINE_TASKS
    inline_seconds: float = INLINE_SECONDS
    inline_bytes: int = INLINE_BYTES
    inline_requests: int = INLINE_REQUESTS
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        # A model is no thing to be used by two threads at once, and loading it twice would double its memory.
        self._predicting = Turns()
        self._answering = threading.BoundedSemaphore(self.inline_requests)
        self._projects: dict[str, Project] = {}

    def set_up(self, project: str | int, hostname: str = "", token: str = "") -> str:
        """Remembers how to reach a project's images; returns the current model's version.

        project: as Label Studio names it, "<id>.<time of creation>"; the id alone may be that of several servers.
        """
        self._projects[str(project)] = Project(project_number(project), hostname, token)
        return self.model.version

    def project(self, project: str | int) -> Project:
        """What `set_up` remembers of a project."""
        known = self._projects.get(str(project))
        if known is not None and known.hostname and known.token:
            return known
        # Never one's address with the other's token: a token goes to its own Label Studio only.
        address, token = os.environ.get("LABEL_STUDIO_URL", ""), os.environ.get("LABEL_STUDIO_API_KEY", "")
        return Project(project_number(project), address, token)

    def answer(
        self, project: str | int, label_config: str, tasks: Sequence[dict], context: Any = None
    ) -> list[dict | list]:
        """What Label Studio's request for predictions is answered: `predict`, or nothing to an interactive prompt.

        Args:
            project: as Label Studio names it; where it does not, the project that a task names.
            label_config: of the project.
            tasks: as Label Studio has them.
            context: the prompt of an annotator, whose key `result` holds what they drew.
        """
        if isinstance(context, dict) and ("result" in context or "event" in context):
            return self._answer_prompt(project, label_config, tasks, context)
        if not project_number(project):
            named = (project_number(task.get("project")) for task in tasks if isinstance(task, dict))
            project = next(filter(None, named), 0)
        return self.predict(project, label_config, tasks)

    def _answer_prompt(
        self, project: str | int, label_config: str, tasks: Sequence[dict], context: dict[str, Any]
    ) -> list[dict | list]:
        """An annotator's prompt answered for the first task, the only one that Label Studio sends."""
        answers: list[dict | list] = [self._empty() for _ in tasks]
        if tasks and self.interactive is not None:
            begin = time.perf_counter()
            answers[0] = self.interactive.answer(project, label_config, tasks[0], context)
            self.metrics.prompts.observe(time.perf_counter() - begin)
        return answers

    def task_image(self, project: str | int, task: dict[str, Any], key: str) -> Path:
        """The file of a task's image, whose address is in its data under `key`. Raises InputError, FetchError."""
        return self._fetched(self.project(project), key, task, FETCH_SECONDS)

    def _fetched(self, project: Project, key: str, task: Any, seconds: float) -> Path:
        data = task.get("data") if isinstance(task, dict) else None
        if not isinstance(data, dict) or key not in data:
            raise InputError("task data", f"the key {key!r}", "none")
        path: Path = self.images.get(
            data[key],
            hostname=project.hostname,
            token=project.token,
            task_id=task_number(task) or None,
            seconds=seconds,
        )
        width, height = image_size(path)
        if width * height > self.max_pixels:
            raise InputError("image", f"at most {self.max_pixels} pixels", f"{width}x{height}")
        return path

    def predict(self, project: str | int, label_config: str, tasks: Sequence[dict]) -> list[dict | list]:
        """One answer per task: a prediction, or an empty list where there is none yet.

        Such a task follows through the queue, or its image could not be fetched and Label Studio asks for it again. A
        task that cannot be predicted (no image, an unreadable or too large one) gets an empty result, a line in the
        log and a count in the metrics: one bad task must not cost the others theirs.
        """
        where = self.project(project)
        try:
            labels = parse_labels(label_config)
        except InputError as error:
            log.warning("project %d: %s", where.id, error)
            self.metrics.bad_tasks.labels("config").inc(len(tasks))
            return [self._empty() for _ in tasks]
        answers: list[dict | list | None] = [None] * len(tasks)
        if self._answering.acquire(blocking=False):
            try:
                self._answer(where, labels, tasks, answers)
            finally:
                self._answering.release()
        later = [task for task, answer in zip(tasks, answers, strict=True) if answer is None]
        if later and self._has_model():
            self._queue(where, label_config, later)
        return [[] if answer is None else answer for answer in answers]

    def predict_now(self, project: Project, labels: LabelMap, tasks: Sequence[dict]) -> list[dict | list]:
        """An answer for each task, however long it takes: what is stored, else a prediction.

        It is empty for a task that cannot be predicted, and an empty list where its image could not be fetched.
        """
        answers: list[dict | list | None] = [None] * len(tasks)
        for places in _chunks(range(len(tasks)), LOOK):
            self._take_stored(project, labels, tasks, answers, places)
        self._predict(project, labels, tasks, answers, [i for i, answer in enumerate(answers) if answer is None])
        return [[] if answer is None else answer for answer in answers]

    def _answer(
        self, project: Project, labels: LabelMap, tasks: Sequence[dict], answers: list[dict | list | None]
    ) -> None:
        """Fills in what can be answered within the limits of a request."""
        deadline = time.monotonic() + self.inline_seconds
        quota = float(self.inline_bytes)
        for places in _chunks(range(len(tasks)), LOOK):
            quota = self._take_stored(project, labels, tasks, answers, places, deadline, quota)
            if quota <= 0 or time.monotonic() > deadline:
                return
        waiting = [i for i, answer in enumerate(answers) if answer is None]
        if waiting and (len(waiting) <= self.inline_tasks or self.enqueue is None) and self._has_model():
            self._predict(project, labels, tasks, answers, waiting, deadline)

    def _take_stored(
        self,
        project: Project,
        labels: LabelMap,
        tasks: Sequence[dict],
        answers: list[dict | list | None],
        places: Sequence[int],
        deadline: float | None = None,
        quota: float = math.inf,
    ) -> float:
        """Fills in the stored answers at `places`, until the deadline or for `quota` bytes; returns what is left of it.

        Another version than /setup answers is not used: it would be asked for, and stored, again at each retrieve.
        """
        version = self.model.version
        for i, known in zip(places, self._stored(project, [tasks[i] for i in places]), strict=True):
            if known is None or known.version != version:
                continue
            if quota <= 0 or (deadline is not None and time.monotonic() > deadline):
                break
            answer = self._guarded(tasks[i], _prediction, known, labels)
            quota -= _size(answer)
            answers[i] = answer
        return quota

    def _predict(
        self,
        project: Project,
        labels: LabelMap,
        tasks: Sequence[dict],
        answers: list[dict | list | None],
        places: Sequence[int],
        deadline: float | None = None,
    ) -> None:
        """Fills in the answers at `places`, in chunks of which each is fetched and predicted at once.

        After the deadline no more images are fetched, and nobody waits for the model any longer.
        """
        for chunk in _chunks(places, CHUNK):
            if deadline is not None and time.monotonic() > deadline:
                return
            detector = self.model.detector()
            records: dict[int, ImageRecord] = {}
            for i in chunk:
                got = self._guarded(tasks[i], self._record, project, labels, tasks[i], deadline)
                if isinstance(got, ImageRecord):
                    records[i] = got
                else:
                    answers[i] = got
            answered = self._detect(detector, list(records.values()), deadline)
            for (i, record), masks in zip(records.items(), answered, strict=True):
                if isinstance(masks, Predictions):
                    size = record.height, record.width
                    known = StoredMasks(masks, detector.classes, *size, detector.version)
                    answers[i] = self._guarded(tasks[i], _prediction, known, labels)
                else:
                    answers[i] = masks

    def _guarded(self, task: Any, make: Callable[..., Any], *arguments: Any) -> Any:
        """What `make` returns for one task; an empty prediction where it fails in a way that nobody thought of."""
        try:
            return make(*arguments)
        except Exception as failure:
            log.exception("task %d gets an empty prediction: %s", task_number(task), failure)
            self.metrics.bad_tasks.labels("internal").inc()
            return self._empty()

    def _has_model(self) -> bool:
        """Whether there is a model to predict with; without one nothing is stored, and asked for again later."""
        try:
            self.model.detector()
        except Exception as failure:
            log.warning("no predictions: %s", failure)
            self.metrics.bad_tasks.labels("model").inc()
            return False
        return True

    def _detect(
        self, detector: Detector, records: list[ImageRecord], deadline: float | None
    ) -> Sequence[Predictions | dict | list | None]:
        """Masks per image; where the detector fails on one, what its task is answered instead; None where it is late.

        If it fails on several together they are tried one by one.
        """
        if not records:
            return []
        seconds = None if deadline is None else max(deadline - time.monotonic(), 0)
        with self._predicting.turn(seconds) as came:
            if not came:
                return [None] * len(records)
            start = time.perf_counter()
            try:
                masks: list[Predictions | dict | list] = list(detector.predict(records))
                if len(masks) != len(records):
                    raise InputError("detector", f"{len(records)} answers", len(masks))
            except Exception as failure:
                if len(records) > 1:
                    masks = [self._one(detector, record) for record in records]
                else:
                    masks = [self._failed(detector, records[0], failure)]
            seconds = time.perf_counter() - start
        self.metrics.images.inc(len(records))
        self.metrics.image_seconds.inc(seconds)
        self.metrics.rate.set(len(records) / max(seconds, 1e-9))
        return masks

    def _one(self, detector: Detector, record: ImageRecord) -> Predictions | dict | list:
        try:
            return next(iter(detector.predict([record])))
        except Exception as failure:
            return self._failed(detector, record, failure)

    def _failed(self, detector: Detector, record: ImageRecord, failure: Exception) -> dict | list:
        if not record.path.exists():  # dropped for other images meanwhile, which a small cache does
            return self._unfetched(record.id, failure)
        self._bad("image" if isinstance(failure, InputError) else "detector", record.id, failure)
        return self._empty(detector.version)

    def _record(
        self, project: Project, labels: LabelMap, task: Any, deadline: float | None
    ) -> ImageRecord | dict | list | None:
        """The task's image, or what the task is answered where there is none; None where it would be late."""
        number = task_number(task)
        left = FETCH_SECONDS if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return None
        try:
            path = self._fetched(project, labels.data_key, task, min(left, FETCH_SECONDS))
            width, height = image_size(path)
        except FetchError as failure:
            late = deadline is not None and time.monotonic() >= deadline
            return None if late else self._unfetched(number, failure)
        except InputError as failure:
            self._bad("image", number, failure)
            return self._empty()
        return ImageRecord(id=number, file_name=path.name, width=width, height=height, path=path)

    def _stored(self, project: Project, tasks: Sequence[Any]) -> Sequence[StoredMasks | None]:
        """Stored masks of each task, None where there are none; only tasks with a number are asked about."""
        known: list[StoredMasks | None] = [None] * len(tasks)
        numbered = [n for n, task in enumerate(tasks) if task_number(task)]
        if self.stored is None or not numbered:
            return known
        try:
            for n, masks in zip(numbered, self.stored(project, [tasks[n] for n in numbered]), strict=True):
                known[n] = masks
        except Exception:  # stored masks only save time, the tasks can do without
            log.exception("stored masks of project %d could not be read", project.id)
        return known

    def _queue(self, project: Project, label_config: str, tasks: list[dict]) -> None:
        self.metrics.queued_tasks.inc(len(tasks))
        if self.enqueue is None:
            log.warning("project %d: %d tasks were left out, and there is no queue for them", project.id, len(tasks))
            return
        try:
            self.enqueue(project, label_config, tasks)
        except Exception:  # Label Studio can ask again; a 500 would cost it the answers there are
            log.exception("%d tasks of project %d could not be queued", len(tasks), project.id)

    def _unfetched(self, task_id: int, failure: Exception) -> list:
        """No prediction at all: an empty one would say, and Label Studio would keep, that there is nothing there."""
        log.warning("task %d gets no prediction: %s", task_id, failure)
        self.metrics.bad_tasks.labels("fetch").inc()
        return []

    def _bad(self, reason: str, task_id: int, failure: Exception) -> None:
        log.warning("task %d gets an empty prediction: %s", task_id, failure)
        self.metrics.bad_tasks.labels(reason).inc()

    def _empty(self, version: str | None = None) -> dict[str, Any]:
        return {"result": [], "score": 0.0, "model_version": version or self.model.version}


def project_number(project: object) -> int:
    """The id in Label Studio's "<id>.<time of creation>", 0 where it is none.

    >>> project_number("31.1790000000"), project_number("")
    (31, 0)
    """
    head = str(project or "").partition(".")[0]
    return int(head) if head.isascii() and head.isdigit() and len(head) <= MAX_DIGITS else 0


def task_number(task: Any) -> int:
    """The id of a task as Label Studio counts them, 0 where there is none."""
    number = task.get("id") if isinstance(task, dict) else None
    return number if type(number) is int and 0 < number < 1 << 63 else 0


def _chunks(places: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(places), size):
        yield places[start : start + size]


def _size(answer: dict) -> int:
    """About the bytes of a prediction as JSON."""
    return sum(
        300 + 4 * len(region["value"].get("rle", ())) + 40 * len(region["value"].get("points", ()))
        for region in answer["result"]
    )


def _prediction(known: StoredMasks, labels: LabelMap) -> dict[str, Any]:
    return to_prediction(known.masks, known.classes, labels, known.height, known.width, known.version)


@lru_cache(maxsize=128)
def parse_labels(label_config: str) -> LabelMap:
    """`LabelMap.parse`, remembered: the same config comes with every request of its project."""
    return LabelMap.parse(label_config)
