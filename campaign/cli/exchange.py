"""`export` and `convert`: masks out of a campaign, or out of any project, in the forms that other tools read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from campaign.cli.arguments import Folder, Json, ask_token
from campaign.cli.output import emit
from ml_backend.buckets import is_url

if TYPE_CHECKING:
    from campaign.dataset.choice import Choice
    from campaign.steps.export import Exported
    from campaign.steps.export_files import Form
    from campaign.store import Store

SHOWN = 10  # files that are named


def export(
    folder: Folder,
    out: Annotated[
        str | None, typer.Option("--out", help="File to write, for yolo a folder; by default in the campaign folder.")
    ] = None,
    format_: Annotated[str, typer.Option("--format", help="coco, yolo (segmentation) or parquet.")] = "coco",
    polygons: Annotated[bool, typer.Option("--polygons", help="COCO polygons instead of exact RLE.")] = False,
    classes: Annotated[str | None, typer.Option(help="Only these classes: names with commas between them.")] = None,
    rounds: Annotated[str | None, typer.Option(help="Only masks of these rounds, such as 1,2.")] = None,
    min_score: Annotated[float | None, typer.Option(min=0, max=1, help="Only masks of this score or more.")] = None,
    verified_only: Annotated[
        bool, typer.Option("--verified-only", help="Only masks that a person said yes to, or corrected.")
    ] = False,
    split: Annotated[
        str | None, typer.Option(help="Shares of train, val and test images, such as 0.8/0.1/0.1; each a file.")
    ] = None,
    parts: Annotated[
        str | None, typer.Option(help="A file for each class (class), or for every so many images (100000).")
    ] = None,
    jobs: Annotated[
        bool, typer.Option("--jobs", help="With --parts: the campaign's workers make them; --out may be a URL.")
    ] = False,
    copy_images: Annotated[bool, typer.Option("--copy-images", help="Copy the images too, below images/.")] = False,
    card: Annotated[bool, typer.Option(help="Write a data card beside it.")] = True,
    to_label_studio: Annotated[
        bool, typer.Option("--to-label-studio", help="Into the source project as predictions, instead of a file.")
    ] = False,
    as_annotations: Annotated[
        bool, typer.Option("--as-annotations", help="With --to-label-studio: as annotations, too.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="With --to-label-studio: take out again exactly what was written.")
    ] = False,
    json: Json = False,
) -> None:
    """Write the masks as COCO, YOLO or Parquet, each with what it rests on."""
    from campaign.dataset.choice import Division, Parts
    from campaign.steps.export_files import Form, Format
    from campaign.store import Store

    if format_ not in {f.value for f in Format}:
        raise typer.BadParameter(f"--format: expected coco, yolo or parquet, got {format_}")
    if polygons and format_ != Format.COCO:
        raise typer.BadParameter(f"--polygons: expected --format coco, got {format_}")
    if (as_annotations or remove) and not to_label_studio:
        raise typer.BadParameter(f"{'--remove' if remove else '--as-annotations'}: expected --to-label-studio with it")
    if jobs and parts is None:
        raise typer.BadParameter("--jobs: expected --parts with it")
    if out is not None and is_url(out) and not jobs:
        raise typer.BadParameter(f"--out: expected a path, or --jobs with it, got {out}")
    choice = chosen(classes, rounds, min_score, verified_only)
    store = Store.open(folder)
    if to_label_studio:
        into_label_studio(store, choice, as_annotations, remove, json)
        return
    division = Division.parse(split, str(store.settings.seed)) if split else None
    form = Form(Format(format_), polygons, division, copy_images, Parts.parse(parts) if parts is not None else None)
    if jobs:
        by_workers(store, out, choice, form, card, json)
    else:
        by_this_process(store, out, choice, form, card, json)


def by_this_process(store: Store, out: str | None, choice: Choice, form: Form, card: bool, json: bool) -> None:
    """Writes an export, and its card."""
    from campaign.cli.output import Display
    from campaign.report.card import write_card
    from campaign.steps.export import default_path, export_campaign

    path, display = Path(out) if out is not None else default_path(store, form), Display()
    with display.live():
        written = export_campaign(store, path, choice, form, partial(display.show, "masks"))
    tell(written, write_card(store, written, path) if card else None, json)


def by_workers(store: Store, out: str | None, choice: Choice, form: Form, card: bool, json: bool) -> None:
    """Has workers write an export in parts, and writes its card."""
    from campaign.cli.output import Display
    from campaign.jobs.exporting import shared_export
    from campaign.report.card import write_card

    display = Display()
    with display.live(), shared_export(store, out, choice, form, partial(display.show, "masks")) as shared:
        files = None
        if card:
            with shared.target.writing() as path:
                files = [shared.target.file(file.name) for file in write_card(store, shared.written, path)]
    tell(shared.written, files, json)


def tell(written: Exported, card: Sequence[Path | str] | None, json: bool) -> None:
    """Says what was written, and where its card is."""
    said, text = as_dict(written), lines(written)
    if card is not None:
        said["card"] = [str(file) for file in card]
        text.append(f"data card in {card[1]}")
    emit(said, json, "\n".join(text))


def into_label_studio(store: Store, choice: Choice, annotations: bool, remove: bool, json: bool) -> None:
    """Writes the masks to the source project, or takes them out."""
    from campaign.cli.output import Display
    from campaign.steps.writeback import remove_from_source, write_to_source

    display = Display()
    with display.live():
        if remove:
            removed = remove_from_source(store, lambda done, total: display.show("annotations", done, total))
            text = f"{removed.predictions} predictions and {removed.annotations} annotations taken out"
            if removed.kept:
                text += f"; {removed.kept} annotations stay, as people have worked on them"
            said: dict[str, Any] = removed.as_dict()
        else:
            done = write_to_source(store, choice, annotations, lambda n, total: display.show("tasks", n, total))
            text = (
                f"{done.masks} masks: {done.written} tasks written, {done.replaced} replaced, "
                f"{done.unchanged} unchanged, {done.emptied} emptied"
            )
            if done.mean_iou is not None and done.mean_iou < 1:
                text += f"; the regions have a mean IoU of {done.mean_iou:.4f} with their masks"
            if annotations:
                text += f"; {done.annotated} annotations made, {done.left_to_people} tasks left to who annotated them"
            said = done.as_dict()
    emit(said, json, text)


def chosen(classes: str | None, rounds: str | None, min_score: float | None, verified_only: bool) -> Choice:
    """The choice that the options make."""
    from campaign.dataset.choice import Choice

    numbers = None
    if rounds is not None:
        try:
            numbers = tuple(int(part) for part in rounds.split(","))
        except ValueError:
            raise typer.BadParameter(f"--rounds: expected numbers such as 1,2, got {rounds}") from None
    names = None if classes is None else tuple(part.strip() for part in classes.split(",") if part.strip())
    return Choice(names, numbers, min_score, verified_only)


def as_dict(written: Exported) -> dict[str, Any]:
    """What was written, for programs."""
    files = [str(file) for file in written.files]
    result: dict[str, Any] = {"path": files[0] if files else None, "masks": len(written.masks)}
    if len(files) > 1 or len(written.parts) > 1:
        result |= {"files": files, "parts": written.parts}
    if written.left_out:
        result["left_out"] = written.left_out
    if written.loss is not None:
        result["polygons"] = written.loss.as_dict()
    return result


def lines(written: Exported) -> list[str]:
    """What was written, for people."""
    place = ", ".join(map(str, written.files[:SHOWN]))
    more = f" and {len(written.files) - SHOWN} files more" if len(written.files) > SHOWN else ""
    text = [f"{len(written.masks)} masks in {place}{more}"]
    if 1 < len(written.parts) <= SHOWN:
        text[0] += f" ({', '.join(f'{part} {n}' for part, n in written.parts.items())})"
    if written.left_out:
        text.append(f"{written.left_out} masks were not chosen; what is promised of the whole does not speak of these")
    if written.loss is not None:
        loss = written.loss.as_dict()
        if loss["polygons"]:
            text.append(
                f"polygons keep an IoU of {loss['mean_iou']:.4f} with their masks, {loss['least_iou']:.4f} at least"
            )
        refused = [str(row["mask_id"]) for row in loss["no_polygon"]]
        if refused:
            more = f" and {len(refused) - 20} more" if len(refused) > 20 else ""
            text.append(f"no polygon stands for {len(refused)} masks: {', '.join(refused[:20])}{more}")
    return text


def convert(
    label_studio: Annotated[str, typer.Option(help="Address of Label Studio.")],
    project: Annotated[int, typer.Option(help="Project to convert; it is only read.")],
    to: Annotated[Path, typer.Option(help="COCO file to write.")],
    images: Annotated[
        Path | None, typer.Option(help="Also download the images, to this folder; keeps those without a region.")
    ] = None,
    json: Json = False,
) -> None:
    """Write a project's masks as exact COCO, holes and parts kept; it needs no campaign.

    The token of Label Studio is taken from $LABEL_STUDIO_API_KEY, or asked for.
    """
    from campaign.cli.output import Display
    from campaign.label_studio.client import Client
    from campaign.label_studio.conversion import convert as run_conversion
    from campaign.label_studio.conversion import save

    client = Client(label_studio, ask_token())
    display = Display()
    with display.live():
        result = run_conversion(client, project, images, lambda done: display.show("tasks read", done, done))
    save(result, to)
    said = result.as_dict()
    text = [f"{said['annotations']} masks on {said['images']} images in {to}"]
    for what in ("left_out", "tasks_left_out"):
        kind = "tasks" if what == "tasks_left_out" else "not converted"
        text += [f"{kind}: {count} {words}" for words, count in said[what].items()]
    text += [f"malformed: {words}" for words in said["malformed"]]
    emit({"path": str(to)} | said, json, "\n".join(text))


COMMANDS = (export, convert)
