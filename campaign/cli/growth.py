"""`extend`: more images for a campaign that runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from campaign.cli.arguments import Folder, Json
from campaign.cli.output import emit


def extend(
    folder: Folder,
    images: Annotated[str | None, typer.Option(help="Folder of images, here or by its URL, with --pool.")] = None,
    pool: Annotated[Path | None, typer.Option(help="COCO file of the images to be added.")] = None,
    from_source: Annotated[
        bool, typer.Option("--from-source", help="The source project's new tasks instead, without annotations.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Leave them to the next round, even where the running one could take them.")
    ] = False,
    join: Annotated[
        bool, typer.Option("--join", help="Let a round at verify take them: its model detects, its trees grow.")
    ] = False,
    check_images: Annotated[bool, typer.Option(help="Look at every new image now, to find bad ones early.")] = True,
    json: Json = False,
) -> None:
    """Add images to the pool of a running campaign.

    The running round takes them while it trains or detects, the next one later, or with --join the one at verify. Not
    once masks were frozen for a promise, or annotators looked for what is missing: that speaks of the pool as it was.
    """
    from campaign.steps.extend import Taking, extend_from_file, extend_from_source
    from campaign.store import Store
    from ml_backend.masks.fetched import file_of

    if from_source == (images is not None or pool is not None) or (images is None) != (pool is None):
        raise typer.BadParameter("expected --images with --pool, or --from-source")
    if wait and join:
        raise typer.BadParameter("expected one of --wait and --join, or neither")
    taking = Taking.NEXT if wait else Taking.JOIN if join else Taking.DETECTION
    store = Store.open(folder)
    if images is not None and pool is not None:
        done = extend_from_file(store, file_of(images), pool, check=check_images, taking=taking)
    else:
        done = extend_from_source(store, taking)
    how = "its trees will have them once all are detected" if done.joins else "it takes them"
    emit(vars(done), json, f"{done.images} images more; round {done.round}: {how}")


COMMANDS = (extend,)
