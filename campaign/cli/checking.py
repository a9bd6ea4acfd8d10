"""`check` and `check-detector`: is all fit for a campaign, and does a detector keep its obligations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from campaign.cli.arguments import Json, given_token, settings_from
from campaign.cli.output import emit


def check(
    folder: Annotated[str | None, typer.Argument(help="The campaign folder or URL; none: before a campaign.")] = None,
    label_studio: Annotated[str | None, typer.Option(help="Address of Label Studio.")] = None,
    source_project: Annotated[int | None, typer.Option(help="Project whose images are looked at.")] = None,
    public_url: Annotated[str | None, typer.Option(help="What page.public_url is to be.")] = None,
    try_webhook: Annotated[
        bool, typer.Option(help="Make a project in Label Studio, see whether its webhook arrives, and delete it.")
    ] = True,
    json: Json = False,
) -> int:
    """Check machine, services and Label Studio, before a campaign or at any time, and say what to do.

    The token of Label Studio is the campaign's, or taken from $LABEL_STUDIO_API_KEY. Exit status 1 says that something
    is wrong.
    """
    from campaign.check.examination import Subject, examine
    from campaign.check.lines import State
    from campaign.settings import is_web_address

    for name, address in (("--label-studio", label_studio), ("--public-url", public_url)):
        if address is not None and not is_web_address(address):
            raise typer.BadParameter(f"{name}: expected an address that begins with http:// or https://, got {address}")
    subject = Subject(folder, label_studio, given_token(), source_project, public_url, try_webhook)
    lines = []
    for line in examine(subject):
        lines.append(line)
        if not json:
            print(line, flush=True)
    states = [line.state for line in lines]
    if json:
        emit({"ok": State.WRONG not in states, "checks": [line.as_dict() for line in lines]}, True)
    else:
        print(", ".join(f"{states.count(state)} {state}" for state in State))
    return 1 if State.WRONG in states else 0


def check_detector(
    name: Annotated[str, typer.Argument(help="Entry point in the group campaign.detectors.")],
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="An option of the detector; may be repeated.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with images/, labelled.json and heldout.json; unset: drawn.")
    ] = None,
    json: Json = False,
) -> int:
    """Say which of the obligations of ml_backend/detector.py a detector keeps.

    It is trained, killed, loaded and asked to predict, with its options for trials unless others are given. Exit
    status 1 says that an obligation is broken.
    """
    import tempfile

    from campaign.cli.output import Display, steps_progress
    from campaign.demo.shapes import draw_shapes
    from ml_backend.detector import load_detector_class
    from ml_backend.masks.coco import CocoDataset
    from ml_backend.obligations import Trial, outcomes

    kind = load_detector_class(name)
    options = getattr(kind, "QUICK", {}) | settings_from(option or [], "--option")
    with tempfile.TemporaryDirectory(prefix="campaign-trial-") as scratch:
        source = data or draw_shapes(Path(scratch, "data"), labelled=4, pool=1, heldout=3)
        labelled, heldout = (CocoDataset.load(source / f"{s}.json", source / "images") for s in ("labelled", "heldout"))
        trial = Trial(kind, labelled, heldout, Path(scratch), options, steps_progress(Display(), name))
        seen = []
        for one in outcomes(trial):
            seen.append(one)
            if not json:
                state = {True: "pass", False: "fail", None: "unknown"}[one.kept]
                print(f"{state:8}{one.number}. {one.obligation}\n{'':8}   {one.reason}", flush=True)
    kept = all(one.kept is not False for one in seen)
    if json:
        rows = [{"number": o.number, "obligation": o.obligation, "kept": o.kept, "reason": o.reason} for o in seen]
        emit({"detector": name, "kept": kept, "obligations": rows}, True)
    return 0 if kept else 1


COMMANDS = (check, check_detector)
