"""Predictions for the tasks of Label Studio projects, of any number of them from one process."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from ml_backend.coco import ImageRecord
from ml_backend.detector import Detector
from ml_backend.errors import InputError
from ml_backend.image_files import ImageFiles
from ml_backend.images import image_size
from ml_backend.metrics import Metrics
from ml_backend.predictions import Predictions
from ml_backend.results import LabelMap, to_prediction

log = logging.getLogger(__name__)

# Label Studio gives up after 100 s and loses all; what cannot be answered well before is queued.
INLINE_TASKS = 24
INLINE_SECONDS = 20.0
CHUNK = 8
MAX_PIXELS = 64_000_000


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
    the id of a project whose "Start training" was pressed, and returns at once.
    """

    model: ModelSource
    images: ImageFiles
    stored: Callable[[Project, Sequence[dict]], Sequence[StoredMasks | None]] | None = None
    enqueue: Callable[[Project, str, list[dict]], None] | None = None
    train: Callable[[int], None] | None = None
    metrics: Metrics = field(default_factory=Metrics)
    inline_tasks: int = INLINE_TASKS
    inline_seconds: float = INLINE_SECONDS
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        # A model is no thing to be used by two threads at once, and loading it twice would double its memory.
        self._predicting = threading.Lock()
        self._projects: dict[int, Project] = {}

    def set_up(self, project_id: int, hostname: str = "", token: str = "") -> str:
        """Remembers how to reach a project's images; gives the current model's version."""
        self._projects[project_id] = Project(project_id, hostname, token)
        return self.model.version

    def project(self, project_id: int) -> Project:
        """What `set_up` was told of a project."""
        known = self._projects.get(project_id)
        if known is not None and known.hostname and known.token:
            return known
        # Never one's address with the other's token: a token goes to its own Label Studio only.
        return Project(project_id, os.environ.get("LABEL_STUDIO_URL", ""), os.environ.get("LABEL_STUDIO_API_KEY", ""))

    def predict(self, project_id: int, label_config: str, tasks: Sequence[dict]) -> list[dict | list]:
        """One answer per task: a prediction, or an empty list where it follows later through the queue.

        A task that cannot be predicted (no image, an unreadable or too large one) gets an empty result, a line in
        the log and a count in the metrics: one bad task must not cost the others theirs.
        """
        project = self.project(project_id)
        try:
            labels = parse_labels(label_config)
        except InputError as error:
            log.warning("project %d: %s", project_id, error)
            self.metrics.bad_tasks.labels("config").inc(len(tasks))
            return [self._empty() for _ in tasks]
        answers: list[dict | list | None] = [None] * len(tasks)
        version = self.model.version
        for i, known in enumerate(self._stored(project, tasks)):
            # Another version than /setup tells would be asked for, and stored, again at each retrieve.
            if known is not None and known.version == version:
                answers[i] = self._guarded(tasks[i], _prediction, known, labels)
        waiting = [i for i, answer in enumerate(answers) if answer is None]
        inline = waiting if len(waiting) <= self.inline_tasks or self.enqueue is None else []
        if inline and not self._has_model():
            inline = []
        deadline = time.monotonic() + self.inline_seconds
        for start in range(0, len(inline), CHUNK):
            if start and time.monotonic() > deadline:
                break
            part = inline[start : start + CHUNK]
            for i, answer in zip(part, self.predict_now(project, labels, [tasks[i] for i in part]), strict=True):
                answers[i] = answer
        later = [tasks[i] for i in waiting if answers[i] is None]
        if later and self._has_model():
            self._queue(project, label_config, later)
        return [[] if answer is None else answer for answer in answers]

    def predict_now(self, project: Project, labels: LabelMap, tasks: Sequence[dict]) -> list[dict]:
        """A prediction for each task, however long it takes; empty ones for those that cannot be predicted."""
        records = [self._guarded(task, self._record, project, labels, task) for task in tasks]
        good = [r for r in records if isinstance(r, ImageRecord)]
        detector = self.model.detector()
        found = iter(self._detect(detector, good))
        answers = []
        for task, record in zip(tasks, records, strict=True):
            if not isinstance(record, ImageRecord):
                answers.append(record)
                continue
            masks = next(found)
            if masks is None:
                answers.append(self._empty(detector.version))
                continue
            known = StoredMasks(masks, detector.classes, record.height, record.width, detector.version)
            answers.append(self._guarded(task, _prediction, known, labels))
        return answers

    def _guarded(self, task: Any, make: Callable[..., Any], *arguments: Any) -> Any:
        """What `make` gives for one task; an empty prediction where it fails in a way that nobody thought of."""
        try:
            return make(*arguments)
        except Exception as failure:
            log.exception("task %d gets an empty prediction: %s", _number(task), failure)
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

    def _detect(self, detector: Detector, records: list[ImageRecord]) -> list[Predictions | None]:
        """Masks per image, None where the detector fails on it; the others are then tried one by one."""
        if not records:
            return []
        with self._predicting:
            start = time.perf_counter()
            try:
                found: list[Predictions | None] = list(detector.predict(records))
                if len(found) != len(records):
                    raise InputError("detector", f"{len(records)} answers", len(found))
            except Exception as failure:
                if len(records) > 1:
                    found = [masks for record in records for masks in self._one(detector, record)]
                else:
                    self._bad("image" if isinstance(failure, InputError) else "detector", records[0].id, failure)
                    found = [None]
            seconds = time.perf_counter() - start
        self.metrics.images.inc(len(records))
        self.metrics.image_seconds.inc(seconds)
        self.metrics.rate.set(len(records) / max(seconds, 1e-9))
        return found

    def _one(self, detector: Detector, record: ImageRecord) -> Iterable[Predictions | None]:
        try:
            return [next(iter(detector.predict([record])))]
        except Exception as failure:
            self._bad("image" if isinstance(failure, InputError) else "detector", record.id, failure)
            return [None]

    def _record(self, project: Project, labels: LabelMap, task: Any) -> ImageRecord | dict:
        """The task's image, or the empty prediction of a task without a good one."""
        number = _number(task)
        try:
            data = task.get("data") if isinstance(task, dict) else None
            if not isinstance(data, dict) or labels.data_key not in data:
                raise InputError("task data", f"the key {labels.data_key!r}", "none")
            path: Path = self.images.get(
                data[labels.data_key], hostname=project.hostname, token=project.token, task_id=number or None
            )
            width, height = image_size(path)
            if width * height > self.max_pixels:
                raise InputError("image", f"at most {self.max_pixels} pixels", f"{width}x{height}")
        except InputError as failure:
            self._bad("image", number, failure)
            return self._empty()
        return ImageRecord(id=number, file_name=path.name, width=width, height=height, path=path)

    def _stored(self, project: Project, tasks: Sequence[dict]) -> Sequence[StoredMasks | None]:
        if self.stored is None:
            return [None] * len(tasks)
        try:
            return self.stored(project, tasks)
        except Exception:  # stored masks only save time, the tasks can do without
            log.exception("stored masks of project %d could not be read", project.id)
            return [None] * len(tasks)

    def _queue(self, project: Project, label_config: str, tasks: list[dict]) -> None:
        self.metrics.queued_tasks.inc(len(tasks))
        if self.enqueue is None:
            log.warning("project %d: %d tasks were left out, and there is no queue for them", project.id, len(tasks))
            return
        try:
            self.enqueue(project, label_config, tasks)
        except Exception:  # Label Studio can ask again; a 500 would cost it the answers there are
            log.exception("%d tasks of project %d could not be queued", len(tasks), project.id)

    def _bad(self, reason: str, task_id: int, failure: Exception) -> None:
        log.warning("task %d gets an empty prediction: %s", task_id, failure)
        self.metrics.bad_tasks.labels(reason).inc()

    def _empty(self, version: str | None = None) -> dict[str, Any]:
        return {"result": [], "score": 0.0, "model_version": version or self.model.version}


def _number(task: Any) -> int:
    """The id of a task as Label Studio counts them, 0 where there is none."""
    number = task.get("id") if isinstance(task, dict) else None
    return number if isinstance(number, int) and 0 < number < 1 << 63 else 0


def _prediction(known: StoredMasks, labels: LabelMap) -> dict[str, Any]:
    return to_prediction(known.masks, known.classes, labels, known.height, known.width, known.version)


@lru_cache(maxsize=128)
def parse_labels(label_config: str) -> LabelMap:
    """`LabelMap.parse`, remembered: the same config comes with every request of its project."""
    return LabelMap.parse(label_config)
