"""What clicks on a campaign's correction pages are about, and the segmenter that answers them."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from campaign.pages.correcting import subject_key
from campaign.records.page import PageKind, Screen
from campaign.store import Store
from campaign.store import models as m
from campaign.store.clicks import MODELS, STEPS
from ml_backend.errors import InputError
from ml_backend.interactive.protocol import MOST_CLICKS, Names
from ml_backend.interactive.segmenter import Segmenter, load_segmenter_class
from ml_backend.interactive.steps import StepLog
from ml_backend.masks.editing import edit_window
from ml_backend.masks.images import read_rgb
from ml_backend.masks.rle import decode_window
from ml_backend.server.app import MaskView
from ml_backend.server.backend import project_number, task_number
from ml_backend.server.interactive import Interactive, Subject, Subjects, file_key

SUBJECTS_KEPT = 256
AHEAD = 3  # pages after the one that is clicked on whose pictures are encoded


@dataclass
class PageSubjects:
    """The objects of correction pages; of tasks of other projects, what `others` says.

    mask: returns a mask of the campaign by its id. What a task says of itself is not believed: its page does.
    """

    store: Store
    mask: Callable[[int], MaskView]
    others: Subjects
    _kept: OrderedDict[str, Subject] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def subject(self, project: str | int, task: dict[str, Any], names: Names) -> Subject:
        """The object of a task. Raises InputError where the task is no page of the campaign."""
        if project_number(project) != self.store.values.project(Screen.CORRECT):
            return self.others.subject(project, task, names)
        page = self.store.pages.of_tasks([task_number(task)]).get(task_number(task))
        if page is None or page.kind != PageKind.CORRECT or page.place is None:
            raise InputError("task", "one that the campaign published", "another")
        return self._of(page)

    def following(self, project: str | int, task: dict[str, Any]) -> Sequence[Subject]:
        """The objects of the next pages, in the order in which annotators get them."""
        if project_number(project) != self.store.values.project(Screen.CORRECT):
            return ()
        page = self.store.pages.of_tasks([task_number(task)]).get(task_number(task))
        return [] if page is None else [self._of(p) for p in self.store.pages.following(page.kind, page.number, AHEAD)]

    def of_page(self, number: int) -> Subject | None:
        """The object of the page of that number, None where it is no correction page."""
        try:
            page = self.store.pages.numbered(number)
        except KeyError:
            return None
        return self._of(page) if page.kind == PageKind.CORRECT and page.place is not None else None

    def _of(self, page: m.Page) -> Subject:
        key = subject_key(self.store, page)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        try:
            view = self.mask(int((page.place or {})["shown"]))
        except KeyError:
            raise InputError("mask", "one of the campaign", "none") from None
        height, width = (int(v) for v in view.rle["size"])
        window = edit_window(view.box, width, height)
        x0, y0, x1, y1 = window

        def picture() -> np.ndarray:
            image = read_rgb(view.path)
            if image.shape[:2] != (height, width):
                raise InputError("image", f"{width}x{height} as its mask", f"{image.shape[1]}x{image.shape[0]}")
            return np.ascontiguousarray(image[y0:y1, x0:x1])

        most = self.store.settings.correct.clicks or MOST_CLICKS
        initial = decode_window(view.rle, *window).astype(bool)
        subject = Subject(key, file_key(Path(view.path), window), picture, (y1 - y0, x1 - x0), initial, most)
        with self._lock:
            self._kept[key] = subject
            while len(self._kept) > SUBJECTS_KEPT:
                self._kept.popitem(last=False)
        return subject


class CampaignSegmenter:
    """The segmenter that `correct.segmenter` and `correct.checkpoint` name, loaded when first asked for.

    Without a checkpoint named it is the newest under models/interactive, and another is loaded once there is one.
    """

    def __init__(self, store: Store):
        self.store = store
        self._lock = threading.Lock()
        self._loaded: tuple[Path, Segmenter] | None = None

    def __call__(self) -> Segmenter:
        """The segmenter. Raises InputError where there is no checkpoint or it cannot be loaded."""
        with self._lock:
            checkpoint = self._checkpoint()
            if self._loaded is None or self._loaded[0] != checkpoint:
                options = self.store.settings.detector.options
                device = {"device": options["device"]} if "device" in options else {}
                chosen = load_segmenter_class(self.store.settings.correct.segmenter)
                self._loaded = checkpoint, chosen.load(checkpoint, **device)
            return self._loaded[1]

    def _checkpoint(self) -> Path:
        named = self.store.settings.correct.checkpoint
        if named is not None:
            return Path(named)
        made = self.store.files.newest(self.store.folder / MODELS, "*.pt")
        if made is None:
            raise InputError("model for clicks", "one that was trained, `campaign train-interactive`", "none yet")
        return self.store.files.local(made)


def interactive(store: Store, mask: Callable[[int], MaskView], others: Subjects) -> Interactive:
    """What answers clicks on a campaign's pages; on tasks of other projects as `others` says."""
    subjects = PageSubjects(store, mask, others)
    code = store.settings.page.language
    return Interactive(CampaignSegmenter(store), subjects, StepLog(store.folder / STEPS), language=code)
