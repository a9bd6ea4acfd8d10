"""`edit`, `correct`, `paint`, `complete`, `instructions`: what is drawn and clicked by hand, and its rules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from campaign.cli.arguments import Folder, Json
from campaign.cli.output import emit
from ml_backend.errors import InputError

if TYPE_CHECKING:
    from campaign.store import Store


def edit(
    folder: Folder,
    count: Annotated[int, typer.Option(min=0, help="Masks to put before annotators; 0 reads back alone.")] = 0,
    class_name: Annotated[str | None, typer.Option("--class", help="Of this class; by default of each.")] = None,
    cluster: Annotated[int | None, typer.Option(min=0, help="Of this cluster, instead of those voted no.")] = None,
    round_number: Annotated[int | None, typer.Option("--round", help="Of that cluster; by default the newest.")] = None,
    mask: Annotated[list[int] | None, typer.Option(help="This mask; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Publish masks to be corrected with the brush, and read the corrected ones back into the dataset.

    Without --cluster or --mask they are the best of those voted no whose object the dataset does not have.
    """
    from campaign.pages import editing
    from campaign.pages.projects import connect, project_url
    from campaign.records.page import Screen
    from campaign.store import Store

    store = Store.open(folder)
    client = connect(store)
    classes = _classes(store, class_name)
    if cluster is not None and len(classes) > 1:
        raise InputError("--class", "the class of the cluster", "none")
    with store.locked():
        wanted = list(mask or [])
        for class_id in classes:
            if cluster is not None:
                current = store.rounds.newest()
                number = round_number or (current.number if current else 0)
                wanted += editing.cluster_masks(store, number, class_id, cluster, count or 30)
            elif count:
                wanted += editing.near_misses(store, class_id, count)
        try:
            new = editing.add_edit_pages(store, wanted)
        except KeyError as error:
            raise InputError("mask", "one of this campaign", error) from None
        editing.publish_edits(store, client)
        editing.read_edits(store, client)
    state = editing.summary(store)
    url = project_url(store, Screen.EDIT)
    text = f"{new} new pages, {state['pages']} in all; {state['corrected']} corrected, {state['no_object']} no object, "
    emit({"new": new, "url": url, **state}, json, f"{text}{state['in_dataset']} in the dataset\n{url or ''}".strip())


def correct(
    folder: Folder,
    count: Annotated[int, typer.Option(min=0, help="Masks to put before annotators; 0 reads back alone.")] = 0,
    class_name: Annotated[str | None, typer.Option("--class", help="Of this class; by default of all.")] = None,
    mask: Annotated[list[int] | None, typer.Option(help="This mask; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Publish masks to be corrected by clicks, and read the corrected ones back into the dataset.

    Without --mask they are those whose correction is worth most: masks voted no whose object the dataset does not
    have, and in classes of page.single_classes also masks that nobody was asked about.
    """
    from campaign.pages import correcting
    from campaign.pages.projects import connect, project_url
    from campaign.records.page import Screen
    from campaign.store import Store

    store = Store.open(folder)
    client = connect(store)
    classes = _classes(store, class_name)
    with store.locked():
        wanted = list(mask or [])
        if count:
            wanted += [c.mask_id for c in correcting.candidates(store, classes)[:count]]
        try:
            new = correcting.add_correct_pages(store, wanted)
        except KeyError as error:
            raise InputError("mask", "one of this campaign", error) from None
        correcting.publish_corrections(store, client)
        correcting.read_corrections(store, client)
        correcting.publish_corrections(store, client)
    state = correcting.summary(store)
    url = project_url(store, Screen.CORRECT)
    text = (
        f"{new} new pages, gold among them; {state['masks']} masks in all; {state['corrected']} corrected by "
        f"{state['clicks']} clicks, {state['no_object']} no object, {state['in_dataset']} in the dataset"
    )
    emit({"new": new, "url": url, **state}, json, f"{text}\n{url or ''}".strip())


def paint(
    folder: Folder,
    count: Annotated[int, typer.Option(min=0, help="Further parts of images to paint; 0 compares alone.")] = 0,
    side: Annotated[int, typer.Option(min=32, help="Pixels of a part's sides.")] = 256,
    json: Json = False,
) -> None:
    """Publish parts of images to be painted from scratch, and compare what was painted with the dataset: SQ."""
    from campaign.pages import painting
    from campaign.pages.projects import connect, project_url
    from campaign.records.page import Screen
    from campaign.store import Store

    store = Store.open(folder)
    client = connect(store)
    with store.locked():
        painting.add_paint_pages(store, count, side)
        painting.publish_paintings(store, client)
        painting.read_paintings(store, client)
    reference = painting.reference(store)
    url = project_url(store, Screen.PAINT)
    sq = "no SQ yet" if reference.sq is None else f"SQ {reference.sq:.3f}"
    painted = f"{reference.answered} of {reference.pages} parts painted: {reference.painted} masks"
    text = f"{painted}, {reference.masks} of the dataset there, {reference.matched} matched, {sq}"
    emit({"url": url, **reference.as_dict()}, json, f"{text}\n{url or ''}".strip())


def complete(
    folder: Folder,
    images: Annotated[int, typer.Option(min=0, help="Further images to look through; 0 reads back alone.")] = 0,
    json: Json = False,
) -> None:
    """Ask what is missing in images drawn at random, and say how much of all there is the dataset holds: recall.

    The first call publishes the pages; call again without --images when they are answered.
    """
    from campaign.derived.recall import recall_figures
    from campaign.pages import completeness
    from campaign.pages.projects import connect, project_url
    from campaign.records.page import Screen
    from campaign.store import Store

    store = Store.open(folder)
    client = connect(store)
    with store.locked():
        new = completeness.add_complete_pages(store, images) if images else 0
        completeness.publish_complete(store, client)
        completeness.read_complete(store, client)
        figures = recall_figures(store)
    url = project_url(store, Screen.COMPLETE)
    if figures is None:
        raise InputError("--images", "at least 1, since none was asked yet", images)
    lines = [f"{new} new pages; {figures['images_answered']} of {figures['images']} images looked through"]
    if figures["estimate"] is not None:
        lines.append(figures["sentence"] or f"recall is about {figures['estimate']:.3f}")
        lines += [f"{name}: {_recall_words(row)}" for name, row in figures["per_class"].items()]
    lines += [*figures["notes"], *([url] if url else [])]
    emit({"new": new, "url": url, **figures}, json, "\n".join(lines))


def _recall_words(row: dict) -> str:
    least = "" if row["bound"] is None else f", at least {row['bound']:.3f}"
    return f"about {row['estimate']:.3f}{least}; {row['masks']} masks, {row['clicked']} objects clicked"


def instructions(
    folder: Folder,
    take_mine: Annotated[
        bool, typer.Option("--take-mine", help="Share this folder's texts, also where others have changed them since.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the texts that annotators are shown, to be changed there, and put them into Label Studio."""
    from campaign.pages.instructions import keep_instructions, write_templates
    from campaign.pages.projects import connect
    from campaign.store import Store

    store = Store.open(folder)
    with store.locked():
        paths = [str(path) for path in write_templates(store, take_mine)]
        changed = keep_instructions(store, connect(store)) if store.settings.label_studio.url else 0
    lines = [*paths, f"rules put into {changed} projects; pages published from now on show these rules"]
    emit({"files": paths, "projects": changed}, json, "\n".join(lines))


COMMANDS = (edit, correct, paint, complete, instructions)


def _classes(store: Store, name: str | None) -> list[int]:
    classes = [i for i, known in store.classes().items() if name in (None, known)]
    if not classes:
        raise InputError("--class", f"one of {', '.join(store.classes().values())}", name)
    return classes
