"""`evaluate` and `compare`: what a set of masks is worth, against ground truth and against another set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from campaign.cli.arguments import Json
from campaign.cli.output import emit

Html = Annotated[Path | None, typer.Option("--html", help="Also write a page with pictures of the worst masks.")]
Images = Annotated[
    Path | None, typer.Option("--images", help="Folder of the images, for pictures; unset: beside the files.")
]
KIou = Annotated[float, typer.Option("--k-iou", min=0.5, max=1, help="IoU from which a mask is correct.")]


def evaluate(
    export: Annotated[Path, typer.Argument(help="COCO file of masks, or a COCO results file.")],
    truth: Annotated[Path, typer.Argument(help="COCO file of the true masks.")],
    k_iou: KIou = 0.75,
    html: Html = None,
    images: Images = None,
    json: Json = False,
) -> None:
    """Say how good masks are against ground truth: precision, recall, SQ, boundary IoU, AP, by class."""
    from campaign.dataset.evaluation import evaluate as run_evaluation
    from campaign.dataset.mask_file import read_masks

    true = read_masks(truth)
    result = run_evaluation(read_masks(export, of=true), true, k_iou)
    if html is not None:
        from campaign.report.evaluation import write_evaluation
        from campaign.report.pictures import Pictures, image_folders

        pictures = Pictures(image_folders(images, truth, export))
        write_evaluation(html, result, pictures, export.name)
    lines = [_line("all classes", result.total.as_dict())]
    if len(result.classes) > 1:
        lines += [_line(name, figures.as_dict()) for name, figures in result.classes.items()]
    if without := result.images_without_truth:
        lines.append(f"{without} images with masks are not in the truth: their masks count as wrong")
    emit(result.as_dict() | ({"html": str(html)} if html else {}), json, "\n".join(lines))


def _line(name: str, figures: dict[str, Any]) -> str:
    parts = [
        f"{title} {'-' if figures[key] is None else format(figures[key], '.4f')}"
        for key, title in (
            ("precision", "precision"), ("recall", "recall"), ("sq", "SQ"), ("boundary_iou", "boundary IoU"),
            ("ap", "AP"),
        )
    ]  # fmt: skip
    counts = f"{figures['masks']} masks, {figures['true_masks']} true, {figures['duplicates']} duplicates"
    return f"{name}: {', '.join(parts)}; {counts}"


SET = "COCO file, campaign folder, or FOLDER@ROUND with or without /predictions after it."


def compare(
    first: Annotated[str, typer.Argument(help=SET)],
    second: Annotated[str, typer.Argument(help="What it is compared with, named in the same way.")],
    alike: Annotated[float, typer.Option(min=0.5, max=1, help="IoU below which a mask has moved.")] = 0.9,
    html: Html = None,
    images: Images = None,
    json: Json = False,
) -> None:
    """Say what the second of two sets of masks gained, lost, moved and renamed: of rounds, exports or detectors."""
    from campaign.dataset.comparison import KINDS
    from campaign.dataset.comparison import compare as run_comparison
    from campaign.steps.sets import image_folder, mask_set

    ours = mask_set(first)
    result = run_comparison(ours, mask_set(second, of=ours), alike)
    if html is not None:
        from campaign.report.comparison import write_comparison
        from campaign.report.pictures import Pictures, image_folders

        known = [folder for folder in (image_folder(first), image_folder(second)) if folder and images is None]
        folders = [*known, *image_folders(images, Path(first), Path(second))]
        write_comparison(html, result, Pictures(folders), (Path(first).name, Path(second).name))
    figures = result.as_dict()
    text = [
        f"{name}: {own['first']} and {own['second']} masks: " + ", ".join(f"{own[kind]} {kind}" for kind in KINDS)
        for name, own in [("all classes", figures), *figures["classes"].items()]
    ]
    emit(figures | {"same": result.same} | ({"html": str(html)} if html else {}), json, "\n".join(text))


COMMANDS = (evaluate, compare)
