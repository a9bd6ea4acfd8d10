"""The demo's last step: simulated annotators look through images for what is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from campaign.demo.sight import written
from campaign.derived.dataset import standing_masks
from campaign.derived.recall import recall_figures
from campaign.jobs.processes import die_with_parent, log_file
from campaign.label_studio.server import LabelStudioServer
from campaign.pages.completeness import add_complete_pages, publish_complete, read_complete
from campaign.pages.projects import connect
from campaign.records.page import PageKind, Screen
from campaign.store import Store

IMAGES = 40
IDLE_SECONDS = 2.0


def look_through(
    store: Store, server: LabelStudioServer, truth: Path, *, users: int = 1, error: float = 0.0, images: int = IMAGES
) -> dict[str, Any] | None:
    """Has images looked through by simulated annotators and returns the figures of recall; None without a mask.

    Images that the campaign itself had asked for come first. `truth` is the pool's; those of the other images lie
    beside it.
    """
    client = connect(store)
    with store.locked():
        if not store.pages.count(PageKind.COMPLETE) and len(standing_masks(store)):
            add_complete_pages(store, images)
        publish_complete(store, client)
    project = store.values.project(Screen.COMPLETE)
    if project is None:
        return None
    files = [truth, *(p for name in ("heldout", "labelled") if (p := truth.with_name(f"{name}.json")).exists())]
    shown = log_file(store, "shown").with_suffix(".jsonl")
    command = [
        sys.executable, "-m", "campaign.demo.finders", "--url", server.url, "--project", str(project),
        *(argument for path in files for argument in ("--truth", str(path))), "--shown", str(shown),
        "--users", str(users), "--invite", server.invite_token(), "--error", str(error),
        "--seed", str(store.settings.seed), "--idle-seconds", str(IDLE_SECONDS),
    ]  # fmt: skip
    with log_file(store, "finders").open("ab") as log, written(store, shown):
        secret = os.environ | {"ANNOTATORS_PASSWORD": server.password}
        subprocess.run(command, stdout=log, stderr=log, env=secret, preexec_fn=die_with_parent, check=False)
    with store.locked():
        read_complete(store, client)
    return recall_figures(store)
