"""What a demo begins with: scenes, a campaign over them, and its first masks, while Label Studio starts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign.demo.shapes import draw_shapes
from campaign.label_studio.server import LabelStudioServer, free_port
from campaign.records.stage import Stage
from campaign.steps.create import create_from_files
from campaign.steps.rounds import due, progress_of, run_step, stage_progress, start_campaign
from campaign.store import Store
from ml_backend.detector import detector_names
from ml_backend.errors import InputError

Say = Callable[[str], None]
Show = Callable[[str, int, int], None]

DRAWN = "drawn"  # the detector of the built-in scenes that needs no training
# Of images labelled, in the pool and held out.
DRAWN_SCENES = (32, 250, 40)
TRAINED_SCENES = (32, 120, 24)
DRAWN_PRECISION = 0.85  # the target of a small campaign: what it takes to prove one is the same for millions of masks
HUMAN_ROUNDS = 1  # of some 30 pages
# Training on the built-in scenes: two rounds within ten minutes on two cores, whatever the machine the same.
BUILT_IN_TRAINING = {"steps": 370, "minutes": None, "patience": None}
BUILT_IN_BUDGET = 1000  # questions on them, enough for the clusters; the rest would be verified one by one


def make_folder(out: Path) -> None:
    """Makes the folder of a demo. Raises InputError where it cannot be made."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(out, "a folder that can be made", error.strerror) from None


@dataclass(frozen=True)
class DemoOptions:
    """What a demo runs on, and how its simulated annotators answer.

    out: folder of everything it makes. data: folder with images/, labelled.json, pool.json, heldout.json; None draws
    the built-in scenes. train: a detector is trained on these, instead of drawing its masks from them. images: of the
    pool that is drawn, None for the usual number. human: a person answers instead of simulated annotators. users,
    error: simulated annotators and the share of their answers that is wrong. settings: of the campaign. eye_cut: the
    IoU from which they take a mask for correct, None for `search.k_iou`. stay: Label Studio and the lead's page stay up
    afterwards, until Ctrl+C.
    """

    out: Path
    data: Path | None = None
    train: bool = False
    images: int | None = None
    human: bool = False
    users: int = 3
    error: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    eye_cut: float | None = None
    stay: bool = False

    @property
    def is_drawn(self) -> bool:
        """Whether the masks are drawn from the built-in scenes, and nothing is trained."""
        named = self.settings.get("detector", {}).get("name", DRAWN)
        return self.data is None and not self.train and named == DRAWN

    @property
    def scenes(self) -> tuple[int, int, int]:
        """How many images are drawn: labelled, in the pool, held out."""
        labelled, pool, heldout = DRAWN_SCENES if self.is_drawn else TRAINED_SCENES
        return labelled, pool if self.images is None else self.images, heldout


class Starting:
    """A Label Studio that starts in a thread while other things are done."""

    def __init__(self, server: LabelStudioServer, say: Say):
        self.server = server
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._start, args=(say,), daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until it answers. Raises what kept it from that."""
        self._thread.join()
        if self._problem is not None:
            raise self._problem

    def stop(self) -> None:
        """Ends it, once its start is over."""
        self._thread.join()
        self.server.stop()

    def _start(self, say: Say) -> None:
        try:
            self.server.start(progress=say)
        except BaseException as problem:
            self._problem = problem


def scenes(options: DemoOptions, show: Show) -> Path:
    """The folder that the demo runs on; the built-in scenes are drawn where they are not there yet."""
    if options.data:
        return options.data.resolve()
    folder = options.out.resolve() / "data"
    if not (folder / "lookalikes.json").exists():
        labelled, pool, heldout = options.scenes
        draw_shapes(folder, labelled, pool, heldout, progress=lambda done, total: show("drawing pictures", done, total))
    return folder


def open_store(data: Path, server: LabelStudioServer, options: DemoOptions) -> Store:
    """The demo's campaign, made where it is not there yet. Label Studio need not be up.

    Raises InputError where the one that is there has another detector.
    """
    folder = options.out.resolve() / "campaign"
    url = server.reserve()
    if (folder / "campaign.json").exists():
        store = Store.open(folder)
        own = store.settings.detector.name
        asked = options.settings.get("detector", {}).get("name", "one to train" if options.train else own)
        if asked != own and (own == DRAWN or asked in detector_names()):
            raise InputError(f"demo in {options.out}", f"its detector {own}", asked)
        return store
    heldout = data / "heldout.json"
    return create_from_files(
        folder, settings_of(data, url, options), data / "images", data / "labelled.json", data / "pool.json",
        heldout if heldout.exists() else None, check=options.data is not None,
    )  # fmt: skip


def connect(store: Store, server: LabelStudioServer) -> None:
    """Tells the campaign the address and the token of a Label Studio that has started."""
    if store.settings.label_studio.url != server.url:
        store.set_label_studio(server.url)
    store.save_secrets({"label_studio_token": server.token})


def settings_of(data: Path, url: str, options: DemoOptions) -> dict[str, Any]:
    """The settings of a demo's campaign: what was asked for, and what a demo chooses where nothing was."""
    values = {name: dict(part) if isinstance(part, dict) else part for name, part in options.settings.items()}
    values.setdefault("name", "Workbench" if options.data is None else data.name)
    values["label_studio"] = {"url": url}
    values.setdefault("jobs", {}).setdefault("poll_seconds", 2)
    if options.human:
        values.setdefault("rounds", {}).setdefault("rounds", HUMAN_ROUNDS)
    values.setdefault("page", {}).setdefault("public_url", f"http://127.0.0.1:{free_port()}")
    detector = values.setdefault("detector", {})
    if options.is_drawn:
        detector["name"] = DRAWN
        detector["options"] = {"scenes": str(data)} | detector.get("options", {})
        values.setdefault("search", {}).setdefault("precision", DRAWN_PRECISION)
    elif options.data is None:
        detector["options"] = BUILT_IN_TRAINING | detector.get("options", {})
        values.setdefault("search", {}).setdefault("budget_questions", BUILT_IN_BUDGET)
    return values


def is_drawn(store: Store) -> bool:
    """Whether a demo's masks are drawn from known ones, and nothing is trained."""
    return store.settings.detector.name == DRAWN


def find_first_masks(store: Store, show: Show) -> None:
    """Runs the steps of the first round up to its first question in this process, where nothing has to be trained."""
    start_campaign(store)
    while (progress := progress_of(store)) and progress.round_number == 1 and progress.stage != Stage.VERIFY:
        if progress.stage in (Stage.PROPAGATE, Stage.DONE):
            return
        for step in due(progress):
            run_step(store, step.name, step.round_number, *step.args)
            if now := progress_of(store):
                show(*stage_progress(store, now))
