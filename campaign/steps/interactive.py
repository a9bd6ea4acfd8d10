"""Train what answers corrective clicks, on the labelled images and the masks obtained so far, and `M_r` beside it."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from campaign.derived.heldout import heldout
from campaign.derived.ranking import ranker_path
from campaign.steps.handover import carried, leave
from campaign.steps.train import training_set
from campaign.store import Store
from campaign.store.clicks import MODELS
from ml_backend.detector import Progress
from ml_backend.interactive.corruption import corrupted
from ml_backend.interactive.ranking import LEAST_MASKS, Ranker
from ml_backend.interactive.segmenter import Segmenter, load_segmenter_class
from ml_backend.interactive.visits import visits
from ml_backend.masks.coco import Annotation, ImageRecord
from ml_backend.masks.editing import edit_window
from ml_backend.masks.images import read_rgb
from ml_backend.masks.rle import decode_window

logger = logging.getLogger(__name__)

MOST_OBJECTS = 200  # whose correction is simulated
CLICKS = 4  # most in a visit, as in the study, where `correct.clicks` does not say fewer
LEAST_VISITS = 3  # simulated, so that later ones are known too where there are to be more
LEAST_START = 0.35  # IoU of a detected mask with the object that it is corrected to
_SALT = 0xC3


@dataclass(frozen=True)
class TrainedInteractive:
    """What was trained: its checkpoint, its version, and on how much.

    `ranker` is the ranking model of its masks, None where too few held-out objects are known for one.
    """

    checkpoint: Path
    version: str
    images: int
    masks: int
    ranker: Path | None


def train_interactive(
    store: Store, model: str, options: dict[str, Any], progress: Progress | None = None
) -> TrainedInteractive:
    """Trains a segmenter for the newest round; goes on where a killed run stopped, and keeps a finished one.

    Raises InputError for an unknown model, bad options or a campaign without annotated images.
    """
    kind = load_segmenter_class(model)
    newest = store.rounds.newest()
    number = newest.number if newest else 1
    data = training_set(store, number)
    known = store.images.annotated("heldout")
    chosen = {"seed": store.settings.seed} | options
    work = store.folder / MODELS / f"{number:03d}"
    report = carried(store, work, progress)
    trained = kind.train(data, known if known.images else None, work, options=chosen, progress=report)
    segmenter = kind.load(trained)
    checkpoint = store.folder / MODELS / f"{number:03d}-{segmenter.version}.pt"
    if not store.files.has(checkpoint):
        store.files.write(checkpoint, lambda partial: shutil.copyfile(trained, partial))
    leave(store, work)
    ranker = fit_ranker(store, segmenter, number, progress)
    return TrainedInteractive(checkpoint, segmenter.version, len(data.images), len(data.annotations), ranker)


def fit_ranker(store: Store, segmenter: Segmenter, number: int, progress: Progress | None = None) -> Path | None:
    """Fits `M_r` to a segmenter and stores it, on simulated corrections of held-out objects; returns where it lies.

    Nothing that the segmenter learnt on is among them. A ranker for the same `search.k_iou` is kept. None where there
    are too few masks.
    """
    path, k_iou = ranker_path(store, number, segmenter.version), store.settings.search.k_iou
    if store.files.has(path) and Ranker.load(store.files.local(path)).k_iou == k_iou:
        return path
    rows, iou = _simulated(store, segmenter, number, progress)
    if len(iou) < LEAST_MASKS:
        store.files.remove([path])
        logger.info("no ranking model of corrected masks: %d held-out ones, at least %d needed", len(iou), LEAST_MASKS)
        return None
    Ranker(np.array(rows), np.array(iou), k_iou, store.settings.seed).save(path)
    store.files.publish(path)
    return path


class _Case(NamedTuple):
    """A held-out object, numbered, and the mask that the detector made of it, COCO run lengths; None for none."""

    number: int
    image: ImageRecord
    truth: dict
    detected: dict | None


def _simulated(
    store: Store, segmenter: Segmenter, number: int, progress: Progress | None
) -> tuple[list[np.ndarray], list[float]]:
    """(features, IoU) of masks after simulated visits."""
    correct = store.settings.correct
    most, count = min(correct.clicks or CLICKS, CLICKS), max(correct.visits, LEAST_VISITS)
    cases = _cases(store, number)
    rows, iou = list[np.ndarray](), list[float]()
    pictures: dict[int, np.ndarray] = {}
    for done, case in enumerate(cases, 1):
        rng = np.random.default_rng([store.settings.seed, _SALT, case.number])
        start = case.detected or _spoilt(case.truth, rng)
        window = edit_window(mask_util.toBbox(start).tolist(), case.image.width, case.image.height)
        x0, y0, x1, y1 = window
        if case.image.id not in pictures:
            pictures = {case.image.id: read_rgb(case.image.path)}
        encoding = segmenter.encode(np.ascontiguousarray(pictures[case.image.id][y0:y1, x0:x1]))
        truth = decode_window(case.truth, *window)
        outside = int(mask_util.area(case.truth)) - int(truth.sum())
        plan = [int(rng.integers(1, most + 1))] * count
        for ended in visits(segmenter, encoding, decode_window(start, *window), truth, plan, rng, outside):
            rows.append(ended.features)
            iou.append(ended.iou)
        if progress is not None:
            progress("ranking", done, len(cases))
    return rows, iou


def _cases(store: Store, number: int) -> list[_Case]:
    """Held-out objects drawn by chance, image by image, those first whose mask the detector nearly got right."""
    known = store.images.annotated("heldout")
    images = {i.id: i for i in known.images}
    objects = [a for a in known.annotations if not a.iscrowd and mask_util.area(a.rle)]
    order = np.random.default_rng([store.settings.seed, _SALT]).permutation(len(objects)).tolist()
    detected = _detected(store, number, objects)
    order.sort(key=lambda i: i not in detected)
    chosen = sorted(order[:MOST_OBJECTS], key=lambda i: (objects[i].image_id, i))
    return [_Case(i, images[objects[i].image_id], objects[i].rle, detected.get(i)) for i in chosen]


def _detected(store: Store, number: int, objects: list[Annotation]) -> dict[int, dict]:
    """{row of an object: the mask nearest to it among those that the detector of a round made and that are wrong}."""
    columns = heldout(store).of_round(number)
    wrong = (columns["iou"] >= LEAST_START) & (columns["iou"] < store.settings.search.k_iou)
    masks = store.masks.read(columns["mask_id"][wrong])
    places: dict[tuple[int, int], list[int]] = {}
    for row, a in enumerate(objects):
        places.setdefault((a.image_id, a.class_id), []).append(row)
    best: dict[int, tuple[float, dict]] = {}
    for image, class_id, rle in zip(masks.image_id.tolist(), masks.class_id.tolist(), masks.rles(), strict=True):
        rows = places.get((image, class_id), [])
        if not rows:
            continue
        iou = mask_util.iou([rle], [objects[row].rle for row in rows], [0] * len(rows))[0]
        row, value = rows[int(iou.argmax())], float(iou.max())
        if value >= LEAST_START and value > best.get(row, (0.0, {}))[0]:
            best[row] = value, rle
    return {row: rle for row, (_, rle) in best.items()}


def _spoilt(truth: dict, rng: np.random.Generator) -> dict:
    """A mask that is wrong in places as detectors' are, the true one where that would leave nothing of it."""
    height, width = (int(v) for v in truth["size"])
    x0, y0, x1, y1 = edit_window(mask_util.toBbox(truth).tolist(), width, height)
    part = decode_window(truth, x0, y0, x1, y1)
    whole = np.zeros((height, width), np.uint8, order="F")
    whole[y0:y1, x0:x1] = corrupted(part, np.zeros_like(part), rng)
    return mask_util.encode(whole) if whole.any() else truth
