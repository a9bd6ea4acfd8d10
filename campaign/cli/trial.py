"""`demo`: a whole campaign to watch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from campaign.cli.lifecycle import settings_from
from campaign.cli.output import Display, Json, emit, table


def demo(
    out: Annotated[Path, typer.Option(help="Folder of everything the demo makes.")] = Path("demo-out"),
    data: Annotated[Path | None, typer.Option(help="Folder with images/ and COCO files; unset: drawn.")] = None,
    human: Annotated[bool, typer.Option(help="You answer, instead of simulated annotators.")] = False,
    detector: Annotated[str | None, typer.Option(help="Detector to use.")] = None,
    users: Annotated[int, typer.Option(min=1, max=20, help="Simulated annotators.")] = 3,
    error: Annotated[float, typer.Option(min=0, max=0.5, help="Share of their answers that is wrong.")] = 0.0,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting.")] = None,
    json: Json = False,
) -> None:
    """Run a campaign of two rounds on this machine, with a Label Studio of its own."""
    from campaign.demo.trial import DemoOptions, run_demo
    from campaign.jobs.supervisor import exit_on_sigterm

    exit_on_sigterm()
    settings = settings_from(set_ or [])
    if detector is not None:
        settings.setdefault("detector", {})["name"] = detector
    display = Display()
    with display.live():
        result = run_demo(DemoOptions(out, data, human, users, error, settings), display.say, display)
    if json:
        emit(result, True)
        return
    rows = {
        "rounds": result["rounds"],
        "detector's mask AP": ", ".join("-" if ap is None else f"{ap:.3f}" for ap in result["ap"]),
        "questions": result["questions"],
        "masks": f"{result['masks']} of {result['true_masks']} true ones",
        "precision at IoU 0.75": result["precision"],
        "segmentation quality (SQ)": result["sq"],
        "masks per question": result["masks_per_question"],
        "minutes": result["minutes"],
        "COCO export": result["export"],
        "report": result["report"],
    }
    table("Campaign finished", rows.items())


COMMANDS = (demo,)
