"""The page of an evaluation: the figures of every class, and the worst masks as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from campaign.dataset.evaluation import Evaluation, Figures
from campaign.report.page import environment
from campaign.report.pictures import OURS, THEIRS, Pictures
from ml_backend.files import whole_file

WORST, MISSED = 50, 20
COLUMNS = ("precision", "recall", "sq", "boundary_iou", "ap", "ap50", "ap75")
TITLES = ("precision", "recall", "SQ", "boundary IoU", "AP", "AP50", "AP75", "masks", "true masks", "duplicates")


def write_evaluation(path: Path, evaluation: Evaluation, pictures: Pictures, title: str) -> None:
    """Writes the page, whole or not at all. Raises InputError where the file cannot be written."""
    worst = [_worst(evaluation, n, pictures) for n in evaluation.worst(WORST)]
    missed = [_missed(evaluation, n, pictures) for n in evaluation.missed(MISSED)]
    rows = [("all classes", _row(evaluation.total))] if len(evaluation.classes) != 1 else []
    rows += [(name, _row(figures)) for name, figures in evaluation.classes.items()]
    page = environment().get_template("evaluation.html").render(
        title=title, k_iou=evaluation.k_iou, titles=TITLES, rows=rows, worst=worst, missed=missed,
        wrong=evaluation.total.masks - evaluation.total.correct, without=pictures.missing,
    )  # fmt: skip
    with whole_file(path) as file:
        file.write(page)


def _row(figures: Figures) -> list[str]:
    values = ["–" if (v := getattr(figures, name)) is None else f"{v:.4f}" for name in COLUMNS]
    return values + [f"{v:,}" for v in (figures.masks, figures.true_masks, figures.duplicates)]


def _worst(evaluation: Evaluation, n: int, pictures: Pictures) -> dict[str, Any]:
    mask, matches = evaluation.aligned.first[n], evaluation.matches
    image = evaluation.aligned.images[mask.image_id]
    near = int(matches.partner[n] if matches.partner[n] >= 0 else matches.nearest[n])
    shown = [(evaluation.truth[near].rle, THEIRS)] if near >= 0 else []
    if matches.partner[n] >= 0:
        words = f"IoU {matches.iou[n]:.2f}"
    elif matches.duplicate[n]:
        words = f"duplicate, IoU {matches.overlap[n]:.2f}"
    else:
        words = f"IoU {matches.overlap[n]:.2f} with the nearest" if near >= 0 else "no object"
    score = "" if evaluation.scores is None else f", score {evaluation.scores[n]:.2f}"
    caption = f"{evaluation.aligned.classes[mask.class_id]}: {words}{score}"
    where = f"{image.file_name}, annotation {mask.id}"
    return {"jpeg": pictures.render(image, [*shown, (mask.rle, OURS)]), "caption": caption, "where": where}


def _missed(evaluation: Evaluation, n: int, pictures: Pictures) -> dict[str, Any]:
    mask = evaluation.truth[n]
    image = evaluation.aligned.images[mask.image_id]
    where = f"{image.file_name}, annotation {mask.id} of the truth"
    return {
        "jpeg": pictures.render(image, [(mask.rle, THEIRS)]), "caption": evaluation.aligned.classes[mask.class_id],
        "where": where,
    }  # fmt: skip
