"""`export` and `report`: what a campaign gives."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from campaign.cli.lifecycle import Folder
from campaign.cli.output import Json, emit

Out = Annotated[Path | None, typer.Option("--out", help="File to write; by default in the campaign folder.")]


def export(folder: Folder, out: Out = None, json: Json = False) -> None:
    """Write the masks as COCO, each with what it rests on."""
    from campaign.results import export_campaign
    from campaign.store import Store

    store = Store.open(folder)
    path = out or store.folder / "export.json"
    masks = export_campaign(store, path)
    emit({"path": str(path), "masks": masks}, json, f"{masks} masks in {path}")


def report(folder: Folder, out: Out = None, json: Json = False) -> None:
    """Write the report: one HTML page that needs no network."""
    from campaign.results import report_campaign
    from campaign.store import Store

    store = Store.open(folder)
    path = out or store.folder / "report.html"
    report_campaign(store, path)
    emit({"path": str(path)}, json, str(path))


COMMANDS = (export, report)
