"""`verify`, `jobs`: is all as it should be, and what to do where it is not."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from campaign.cli.arguments import Folder, Json
from campaign.cli.output import emit


def verify(
    folder: Folder,
    label_studio: Annotated[bool, typer.Option(help="Hold it against Label Studio, too.")] = True,
    json: Json = False,
) -> int:
    """Check that all that a campaign holds fits together and with Label Studio; nothing is changed.

    Shards, trees, pages, questions, answers, decisions, promises and datasets are read and worked out anew, also while
    the campaign runs. Each thing that does not fit is named, with the command that mends it; the exit status is 1 then.
    """
    from campaign.cli.output import Display, steps_progress
    from campaign.pages.consistency import findings
    from campaign.pages.projects import connect
    from campaign.store import Store

    store = Store.open(folder, read_only=True)
    client = connect(store) if label_studio and store.settings.label_studio.url else None
    display = Display()
    with display.live():
        found = findings(store, client, steps_progress(display, "verify"))
    rows = [{"thing": f.thing, "problem": f.problem, "mend": f.mend} for f in found]
    lines = [f"{f.thing}: {f.problem}; to mend it: {f.mend}" for f in found]
    against = "" if client is not None else ", Label Studio aside"
    text = "\n".join(lines) if found else f"{store.folder}: all fits together{against}"
    emit({"fits": not found, "label_studio": client is not None, "findings": rows}, json, text)
    return 1 if found else 0


COMMANDS: tuple[Any, ...] = (verify,)
