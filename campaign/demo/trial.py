"""The demo: a whole campaign on one machine, with a Label Studio and annotators of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from campaign.demo import annotators
from campaign.demo.looking import look_through
from campaign.demo.shapes import draw_shapes
from campaign.demo.sight import written
from campaign.derived.dataset import final_masks
from campaign.derived.status import status
from campaign.jobs.processes import die_with_parent, log_file
from campaign.jobs.supervisor import Supervisor
from campaign.label_studio.server import LabelStudioServer
from campaign.pages.projects import project_url
from campaign.records.page import Screen
from campaign.report import report_data, write_report
from campaign.steps.create import create_from_files
from campaign.steps.export import export_campaign
from campaign.steps.rounds import start_campaign
from campaign.store import Store
from ml_backend.errors import InputError
from ml_backend.learning.evaluation import true_iou
from ml_backend.masks.coco import CocoDataset
from ml_backend.predictions import Predictions

# Training on the built-in data set: two rounds within ten minutes on two cores, whatever the machine the same.
BUILT_IN_TRAINING = {"steps": 370, "minutes": None, "patience": None}
BUILT_IN_BUDGET = 1000  # questions on it, enough for the clusters; the rest would be verified one by one


@dataclass(frozen=True)
class DemoOptions:
    """What a demo runs on, and how its simulated annotators answer.

    out: folder of everything it makes. data: folder with images/, labelled.json, pool.json, heldout.json; None draws
    the built-in set. human: a person answers instead of simulated annotators. users, error: simulated annotators and
    the share of their answers that is wrong. settings: of the campaign. eye_cut: the IoU from which they take a mask
    for correct, None for `search.k_iou`.
    """

    out: Path
    data: Path | None = None
    human: bool = False
    users: int = 3
    error: float = 0.0
    settings: dict[str, Any] = field(default_factory=dict)
    eye_cut: float | None = None


def run_demo(options: DemoOptions, say: Callable[[str], None], show: Callable[[Supervisor], None]) -> dict[str, Any]:
    """Runs the campaign to its end and returns its figures and the paths of export and report.

    `say` prints a line, `show` the running campaign. An unfinished demo in `out` goes on where it stopped. Raises
    InputError for bad data.
    """
    started = time.monotonic()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    data = options.data.resolve() if options.data else drawn_data(out / "data", say)
    with LabelStudioServer(out / "label-studio").start(progress=say) as server:
        store = open_store(out / "campaign", data, server, options)
        say(f"Label Studio: {server.url}  user {server.user}  password {server.password}")
        with Supervisor.started(store) as run:
            start_campaign(store)
            if options.human:
                run.until_done(show, until=lambda: bool(store.pages.rows(published=True)))
                say(_invitation(store, server))
                run.until_done(show)
            else:
                run.until_done(show, until=lambda: store.values.project(Screen.VERIFICATION) is not None)
                with simulated(store, server, data / "pool.json", options):
                    run.until_done(show)
        looked = None
        if not options.human:
            say("looking for what is missing")
            looked = look_through(store, server, data / "pool.json", users=options.users, error=options.error)
    export, report = out / "export.json", out / "report.html"
    export_campaign(store, export)
    write_report(report, report_data(store))
    truth = CocoDataset.load(data / "pool.json", data / "images")
    minutes = (time.monotonic() - started) / 60
    reached = figures(store, truth) | {"recall_estimate": looked["estimate"] if looked else None}
    return reached | {"minutes": round(minutes, 1), "export": str(export), "report": str(report)}


def drawn_data(folder: Path, say: Callable[[str], None]) -> Path:
    """The built-in data set, drawn once."""
    if not (folder / "heldout.json").exists():
        say("drawing the built-in data set")
        draw_shapes(folder)
    return folder


def open_store(folder: Path, data: Path, server: LabelStudioServer, options: DemoOptions) -> Store:
    """The demo's campaign, made where it is not there yet."""
    if (folder / "campaign.json").exists():
        store = Store.open(folder)
        url = store.settings.label_studio.url
        if url != server.url:
            raise InputError(f"demo in {options.out}", f"its Label Studio at {url}", server.url)
        return store
    values = dict(options.settings)
    values.setdefault("name", data.name)
    values["label_studio"] = {"url": server.url}
    values.setdefault("jobs", {}).setdefault("poll_seconds", 2)
    if options.data is None:
        detector = values.setdefault("detector", {})
        detector["options"] = BUILT_IN_TRAINING | detector.get("options", {})
        values.setdefault("search", {}).setdefault("budget_questions", BUILT_IN_BUDGET)
    values.setdefault("page", {})["public_url"] = f"http://127.0.0.1:{free_port()}"
    heldout = data / "heldout.json"
    return create_from_files(
        folder, values, data / "images", data / "labelled.json", data / "pool.json",
        heldout if heldout.exists() else None, token=server.token,
    )  # fmt: skip


@contextmanager
def simulated(store: Store, server: LabelStudioServer, truth: Path, options: DemoOptions) -> Iterator[None]:
    """Runs the simulated annotators, which know Label Studio's address, the ground truth and what pages show."""
    project = store.values.project(Screen.VERIFICATION)
    assert project is not None
    # Gold is hidden on images that were kept out of the pool.
    files = [truth, *(p for name in ("heldout", "labelled") if (p := truth.with_name(f"{name}.json")).exists())]
    shown = log_file(store, "shown").with_suffix(".jsonl")
    command = [
        sys.executable, annotators.__file__, "--url", server.url, "--project", str(project),
        *(argument for path in files for argument in ("--truth", str(path))), "--shown", str(shown),
        "--users", str(options.users), "--invite", server.invite_token(), "--error", str(options.error),
        "--k-iou", str(store.settings.search.k_iou), "--seed", str(store.settings.seed),
        *(() if options.eye_cut is None else ("--eye-cut", str(options.eye_cut))),
    ]  # fmt: skip
    with log_file(store, "annotators").open("ab") as log, written(store, shown):
        secret = os.environ | {"ANNOTATORS_PASSWORD": server.password}
        process = subprocess.Popen(command, stdout=log, stderr=log, env=secret, preexec_fn=die_with_parent)
        try:
            yield
        finally:
            process.terminate()
            process.wait(20)


def figures(store: Store, truth: CocoDataset) -> dict[str, Any]:
    """What the campaign reached, scored against the pool's truth, which only a demo has."""
    masks = final_masks(store)
    coco_ids = {r.id: r.coco_id for r in store.images.rows("pool")}
    predictions = Predictions(
        masks.mask_id, np.array([coco_ids[int(i)] for i in masks.image_id]), masks.class_id, masks.box, masks.rle,
        masks.size, masks.confidence, masks.predicted_iou, np.zeros((len(masks), 0)),
    )  # fmt: skip
    iou = true_iou(predictions, truth)
    good = iou >= store.settings.search.k_iou
    state = status(store)
    return {
        "rounds": state["round"],
        "questions": state["questions"],
        "masks": len(masks),
        "true_masks": len(truth.annotations),
        "precision": round(float(good.mean()), 4) if len(masks) else None,
        "recall": round(float(good.sum()) / max(len(truth.annotations), 1), 4),
        "sq": round(float(iou[iou >= 0.5].mean()), 4) if (iou >= 0.5).any() else None,
        "masks_per_question": round(len(masks) / max(1, state["questions"]), 2),
        "ap": [None if r["ap"] is None else round(r["ap"], 4) for r in state["per_round"]],
    }


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _invitation(store: Store, server: LabelStudioServer) -> str:
    return (
        f"The first questions wait at {project_url(store, Screen.VERIFICATION)} (press 'Label All Tasks')\n"
        f"  user {server.user}\n  password {server.password}\n"
        "Mark wrong outlines by their letter, then press space or Ctrl+Enter; the campaign goes on as you answer."
    )
