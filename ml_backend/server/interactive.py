"""Answers to the clicks of annotators: what `/predict` returns to an interactive request of Label Studio.

A picture is encoded once and the steps of an object are kept, so a click costs one run of the segmenter's head. Nothing
is kept of who clicked: what the browser sends holds all that its annotator said, see `ml_backend.interactive.protocol`.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from label_config.languages import ENGLISH
from label_config.messages import message
from ml_backend.errors import InputError
from ml_backend.interactive.encoding_cache import Encodings
from ml_backend.interactive.protocol import (
    MOST_CLICKS,
    Names,
    Said,
    answer_regions,
    label_of,
    names_of,
    read_said,
)
from ml_backend.interactive.segmenter import Click, Prompt, Segmenter
from ml_backend.interactive.steps import Step, StepLog, digest_of, new_step
from ml_backend.masks.fetched import present
from ml_backend.masks.images import image_size, read_rgb

log = logging.getLogger(__name__)

WAIT_SECONDS = 20.0  # that a click waits for its turn before its annotator is told so
MOST_AHEAD = 16  # pictures that wait to be encoded before anybody asked


@dataclass(frozen=True)
class Subject:
    """One object in one picture that is corrected.

    key: names it and where it begins, so that the same key is always the same question. picture: returns the picture,
    (height, width, 3) uint8, which `picture_key` names; called where it is not encoded yet. size: height and width of
    it. initial: the mask that is there, (height, width) bool, or None. most_clicks: after which no more are taken.
    """

    key: str
    picture_key: str
    picture: Callable[[], np.ndarray]
    size: tuple[int, int]
    initial: np.ndarray | None = None
    most_clicks: int = MOST_CLICKS


class Subjects(Protocol):
    """Where the objects of tasks come from."""

    def subject(self, project: str | int, task: dict[str, Any], names: Names) -> Subject:
        """The object of a task. Raises InputError where there is none; the annotator is told so."""
        ...

    def following(self, project: str | int, task: dict[str, Any]) -> Sequence[Subject]:
        """Objects that are likely asked about next."""
        ...

    def of_page(self, number: int) -> Subject | None:
        """The object of the page of that number, None where nothing is corrected there."""
        ...


@dataclass
class TaskPictures:
    """Objects of any project's tasks: in the task's whole image, begun from nothing.

    fetch: returns the file of a task's image, whose address stands under a key of its data.
    """

    fetch: Callable[[str | int, dict[str, Any], str], Path]

    def subject(self, project: str | int, task: dict[str, Any], names: Names) -> Subject:
        """The object of a task."""
        path = self.fetch(project, task, names.data_key)
        width, height = image_size(path)
        key = file_key(path)
        return Subject(key, key, lambda: read_rgb(path), (height, width))

    def following(self, project: str | int, task: dict[str, Any]) -> Sequence[Subject]:
        """None: which tasks follow is not known here."""
        return ()

    def of_page(self, number: int) -> Subject | None:
        """None: tasks of other projects are on no page."""
        return None


def file_key(path: Path, window: Sequence[int] = ()) -> str:
    """What names a picture in a file, or its part x0, y0, x1, y1: another content has another key."""
    stat = present(path).stat()
    return f"{path} {stat.st_mtime_ns} {stat.st_size} {list(window)}"


@dataclass
class Interactive:
    """Answers interactive requests, of several annotators at once.

    segmenter: the current one; raises InputError where there is none. language: in which annotators are told. At most
    `workers` run the segmenter at a time, by default as many as there are processors for this process.
    """

    segmenter: Callable[[], Segmenter]
    subjects: Subjects
    steps: StepLog = field(default_factory=StepLog)
    encodings: Encodings = field(default_factory=Encodings)
    language: str = ENGLISH
    workers: int = field(default_factory=lambda: max(1, len(os.sched_getaffinity(0))))
    wait_seconds: float = WAIT_SECONDS

    def __post_init__(self) -> None:
        self._free = threading.Semaphore(self.workers)
        self._ahead: deque[Subject] = deque(maxlen=MOST_AHEAD)
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None

    def answer(self, project: str | int, label_config: str, task: Any, context: dict[str, Any]) -> dict[str, Any]:
        """One prediction for Label Studio: regions that replace what is there, and what the annotator is told.

        Never raises: Label Studio would show the annotator nothing of an error.
        """
        task = task if isinstance(task, dict) else {}
        names = Names("", "", "")
        try:
            names = names_of(label_config)
            if context.get("event") == "capabilities":
                return _prediction([]) | {"capabilities": {"prompts": ["keypoint", "rectangle"], "prewarm": True}}
            names = replace(names, label=label_of(context.get("result"), names))
            subject = self.subjects.subject(project, task, names)
            if context.get("event") == "prewarm":
                self.prewarm([subject])
                return _prediction([])
            return self._answer(subject, names, project, task, context.get("result"))
        except InputError as error:
            log.warning("no answer to a click in project %s: %s", project, error)
            return _prediction(_told(names, message("impossible", self.language, what=error)))
        except Exception:
            log.exception("no answer to a click in project %s", project)
            return _prediction(_told(names, message("failed", self.language)))

    def prewarm(self, subjects: Sequence[Subject]) -> None:
        """Encodes the pictures of these objects when nothing else is to be done; returns at once."""
        with self._news:
            self._ahead.extend(subjects)
            if self._thread is None:
                self._thread = threading.Thread(target=self._encode_ahead, name="encode-ahead", daemon=True)
                self._thread.start()
            self._news.notify()

    def shown(self, page: int) -> None:
        """Takes note that the picture of a page is shown: whoever sees it may click on it next."""
        try:
            subject = self.subjects.of_page(page)
        except InputError as error:
            log.warning("page %d is not encoded ahead: %s", page, error)
            return
        if subject is not None:
            self.prewarm([subject])

    def _answer(
        self, subject: Subject, names: Names, project: str | int, task: dict[str, Any], result: Any
    ) -> dict[str, Any]:
        said = read_said(result, *subject.size, now=int(time.time() * 1000), most=subject.most_clicks)
        if said.box is None and not said.clicks:
            mask = np.zeros(subject.size, bool) if subject.initial is None else subject.initial
            return _prediction(answer_regions(mask, said, names, subject.size, self._words(said, mask, subject)))
        with self._turn() as came:
            if not came:
                return _prediction(_told(names, message("busy", self.language)))
            segmenter = self.segmenter()
            step = self._step(segmenter, subject, said)
        self.prewarm(self.subjects.following(project, task))
        mask = step.mask()
        regions = answer_regions(mask, said, names, subject.size, self._words(said, mask, subject))
        return _prediction(regions, step.predicted_iou, step.version)

    def _step(self, segmenter: Segmenter, subject: Subject, said: Said) -> Step:
        """The answer to all that was said: each click on the mask that the one before it made."""
        prompts = list(_prompts(said))
        digests = [digest_of(subject.key, segmenter.version, *prompt) for prompt in prompts]
        known = self.steps.find(digests)
        last = max((n for n, digest in enumerate(digests) if digest in known), default=-1)
        step = known[digests[last]] if last >= 0 else None
        previous = step.mask() if step is not None else None if said.box is not None else subject.initial
        new: list[Step] = []
        for digest, (box, clicks) in zip(digests[last + 1 :], prompts[last + 1 :], strict=True):
            encoding = self.encodings.get(subject.picture_key, subject.picture, segmenter)
            # A mask of nothing is no mask to be corrected.
            prompt = Prompt(box, clicks, previous if previous is not None and previous.any() else None)
            proposal = segmenter.segment(encoding, prompt)
            if proposal.mask.shape != subject.size:
                raise InputError("segmenter", f"a mask of {subject.size}", proposal.mask.shape)
            previous = proposal.mask.astype(bool)
            step = new_step(digest, subject.key, prompt, previous, proposal.predicted_iou, segmenter.version)
            new.append(step)
        if new:
            self.steps.add(new)
        if step is None:
            raise InputError("prompt", "a box or a click", "neither")
        return step

    def _words(self, said: Said, mask: np.ndarray, subject: Subject) -> str:
        """What the annotator is told beside the mask."""
        notes = [message(note, self.language, most=subject.most_clicks) for note in said.notes]
        if not mask.any():
            notes.append(message("nothing", self.language))
        return " ".join([message("clicks", self.language, count=len(said.clicks)), *notes])

    @contextmanager
    def _turn(self) -> Iterator[bool]:
        came = self._free.acquire(timeout=self.wait_seconds)
        try:
            yield came
        finally:
            if came:
                self._free.release()

    def _encode_ahead(self) -> None:
        while True:
            with self._news:
                while not self._ahead:
                    self._news.wait()
                subject = self._ahead.popleft()
            try:
                segmenter = self.segmenter()
                if not self.encodings.has(subject.picture_key, segmenter):
                    with self._free:
                        self.encodings.get(subject.picture_key, subject.picture, segmenter)
            except Exception as error:  # whoever clicks there will be told
                log.warning("a picture was not encoded ahead: %s", error)


def _prompts(said: Said) -> Iterator[tuple[tuple[float, float, float, float] | None, tuple[Click, ...]]]:
    """What had been said at each step: the box alone, then with one click more each time."""
    if said.box is not None:
        yield said.box, ()
    for n in range(len(said.clicks)):
        yield said.box, said.clicks[: n + 1]


def _told(names: Names, text: str) -> list[dict[str, Any]]:
    """Only a message; the mask and the points stay as they are."""
    return answer_regions(None, Said(), names, (1, 1), text)


def _prediction(regions: list[dict[str, Any]], score: float = 0.0, version: str = "") -> dict[str, Any]:
    return {"result": regions, "score": float(score), "model_version": version}
