"""The demo: a whole campaign on one machine, with a Label Studio and annotators of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from campaign.demo import annotators
from campaign.demo.looking import look_through
from campaign.demo.preparation import (
    DemoOptions,
    Show,
    Starting,
    connect,
    find_first_masks,
    is_drawn,
    open_store,
    scenes,
)
from campaign.demo.sight import written
from campaign.derived.dataset import final_masks
from campaign.derived.spending import drawn_answered
from campaign.derived.status import status
from campaign.jobs.processes import die_with_parent, log_file
from campaign.jobs.supervisor import Supervisor
from campaign.label_studio.server import LabelStudioServer
from campaign.pages.projects import project_url
from campaign.records.page import Screen
from campaign.report import report_data, write_report
from campaign.report.card import write_card
from campaign.steps.export import export_campaign
from campaign.steps.rounds import start_campaign
from campaign.steps.verify import turn
from campaign.store import Store
from campaign.web.lead.login import USER as LEAD
from campaign.web.lead.login import lead_password
from ml_backend.learning.evaluation import true_iou
from ml_backend.masks.coco import CocoDataset
from ml_backend.predictions import Predictions


def run_demo(
    options: DemoOptions, command: Path, say: Callable[[str], None], run_shown: Callable[[Supervisor], None], show: Show
) -> dict[str, Any]:
    """Runs the campaign to its end and returns its figures and the paths of export, data card and report.

    `command` starts Label Studio. `say` prints a line, `run_shown` shows the running campaign, `show` any other step.
    An unfinished demo in `out` goes on where it stopped. Raises InputError for bad data.
    """
    started = time.monotonic()
    out = options.out.resolve()
    server = LabelStudioServer(out / "label-studio", command=command)
    starting = Starting(server, say)
    try:
        data = scenes(options, show)
        store = open_store(data, server, options)
        if is_drawn(store):
            find_first_masks(store, show)
        starting.wait()
        connect(store, server)
        say(f"Label Studio: {server.url}  user {server.user}  password {server.password}")
        with Supervisor.started(store) as run:
            start_campaign(store)
            lead = f"{store.settings.page.public_url}/lead/"
            say(f"the lead's page: {lead}  user {LEAD}  password {lead_password(store)}")
            first = _answer(store, run, server, data, options, say, run_shown, started)
            looked = None
            if not options.human:
                say("looking for what is missing")
                looked = look_through(store, server, data / "pool.json", users=options.users, error=options.error)
            export, report = out / "export.json", out / "report.html"
            card = write_card(store, export_campaign(store, export), export)
            write_report(report, report_data(store))
            reached = figures(store, CocoDataset.load(data / "pool.json", data / "images"))
            reached |= {
                "recall_estimate": looked["estimate"] if looked else None,
                "looked": looked["images_answered"] if looked else 0,
                "drawn": is_drawn(store),
                "seconds_to_first_page": first,
                "minutes": round((time.monotonic() - started) / 60, 1),
                "export": str(export),
                "card": str(card[1]),
                "report": str(report),
                "campaign": str(store.folder),
                "lead": lead,
                "lead_user": LEAD,
                "lead_password": lead_password(store),
            }
            if options.stay:
                _stay(reached, server, run, say)
    finally:
        starting.stop()
    return reached


def _stay(reached: dict[str, Any], server: LabelStudioServer, run: Supervisor, say: Callable[[str], None]) -> None:
    """Keeps Label Studio and the lead's page up until Ctrl+C."""
    say(f"report {reached['report']}; Label Studio {server.url} and {reached['lead']} stay up until Ctrl+C")
    with suppress(KeyboardInterrupt):
        while True:
            run.tick()
            time.sleep(1)


def _answer(
    store: Store, run: Supervisor, server: LabelStudioServer, data: Path, options: DemoOptions,
    say: Callable[[str], None], run_shown: Callable[[Supervisor], None], started: float,
) -> int:  # fmt: skip
    """Runs the campaign to its end, its pages answered; returns the seconds from `started` to the first page."""
    run.until_done(run_shown, until=lambda: bool(store.pages.rows(published=True)))
    first = round(time.monotonic() - started)
    say(f"the first page waits for answers, {first} s after the start")
    if options.human:
        say(_invitation(store, server))
        run.until_done(run_shown)
        turn(store)  # a page may have been answered while the answers before it brought the campaign to its end
    elif store.values.project(Screen.VERIFICATION) is not None:
        with simulated(store, server, data / "pool.json", options):
            run.until_done(run_shown)
    return first


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
    promise = state["promise"]
    return {
        "rounds": state["round"],
        "questions": state["questions"],
        "gold": state["gold"],
        "draws": drawn_answered(store),
        "promise": promise["sentence"] if promise else "Nothing is promised of them under this policy",
        "correct": int(good.sum()),
        "masks": len(masks),
        "true_masks": len(truth.annotations),
        "precision": round(float(good.mean()), 4) if len(masks) else None,
        "recall": round(float(good.sum()) / max(len(truth.annotations), 1), 4),
        "sq": round(float(iou[iou >= 0.5].mean()), 4) if (iou >= 0.5).any() else None,
        "masks_per_question": round(len(masks) / max(1, state["questions"]), 2),
        "ap": [None if r["ap"] is None else round(r["ap"], 4) for r in state["per_round"]],
    }


def _invitation(store: Store, server: LabelStudioServer) -> str:
    return (
        f"Open      {project_url(store, Screen.VERIFICATION)}?labeling=1\n"
        f"user      {server.user}\n"
        f"password  {server.password}\n"
        "Mark the wrong outlines by their letter, then press space. The campaign goes on as you answer: where it says\n"
        "that there are no more tasks, wait some seconds and load the page again."
    )
