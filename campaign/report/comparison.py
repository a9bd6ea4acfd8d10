"""The page of a comparison: what was gained, lost, moved and renamed, with pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from campaign.dataset.comparison import KINDS, Comparison
from campaign.report.page import environment
from campaign.report.pictures import OURS, THEIRS, Pictures
from ml_backend.files import whole_file
from ml_backend.masks.coco import Annotation

SHOWN = 24  # pictures of each kind
WORDS = {
    "gained": "Masks of the second set without a partner in the first, the largest first.",
    "lost": "Masks of the first set without a partner in the second, the largest first.",
    "moved": "Pairs that differ, the least alike first.",
    "renamed": "The same object in two classes.",
}


def write_comparison(path: Path, comparison: Comparison, pictures: Pictures, names: tuple[str, str]) -> None:
    """Writes the page, whole or not at all. Raises InputError where the file cannot be written."""
    figures = comparison.as_dict()
    columns = ("first", "second", *KINDS)
    rows = [("all classes", [figures[k] for k in columns])] if len(figures["classes"]) != 1 else []
    rows += [(name, [own[k] for k in columns]) for name, own in figures["classes"].items()]
    sections = [(kind, WORDS[kind], figures[kind], _pictures(comparison, kind, pictures)) for kind in KINDS]
    page = environment().get_template("comparison.html").render(
        names=names, titles=columns, rows=rows, sections=sections, without=pictures.missing, same=comparison.same,
        mean_iou=comparison.mean_iou,
    )  # fmt: skip
    with whole_file(path) as file:
        file.write(page)


def _pictures(comparison: Comparison, kind: str, pictures: Pictures) -> list[dict[str, Any]]:
    first, second, classes = comparison.aligned.first, comparison.second, comparison.aligned.classes
    shown: list[tuple[str, list[tuple[Annotation, tuple[int, int, int]]]]] = []
    if kind in ("gained", "lost"):
        masks, color = (second, THEIRS) if kind == "gained" else (first, OURS)
        for n in getattr(comparison, kind)[:SHOWN]:
            shown.append((classes[masks[n].class_id], [(masks[n], color)]))
    else:
        for a, b, iou in getattr(comparison, kind)[:SHOWN]:
            names = dict.fromkeys((classes[first[a].class_id], classes[second[b].class_id]))
            shown.append((f"{' → '.join(names)}: IoU {iou:.2f}", [(first[a], OURS), (second[b], THEIRS)]))
    result = []
    for caption, masks_shown in shown:
        image = comparison.aligned.images[masks_shown[0][0].image_id]
        jpeg = pictures.render(image, [(mask.rle, color) for mask, color in masks_shown])
        where = f"{image.file_name}, annotation {', '.join(str(mask.id) for mask, _ in masks_shown)}"
        result.append({"jpeg": jpeg, "caption": caption, "where": where})
    return result
