"""Paint: parts of the pool's images, on which annotators paint every object from scratch, and what that tells of SQ.

The painted masks are a reference and never become part of the dataset.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_util

from campaign.derived.dataset import standing_masks
from campaign.derived.showing import shown_pages, task_name
from campaign.label_studio.client import Client
from campaign.label_studio.drawing import DrawnAnnotation, DrawnTask, read_drawings
from campaign.label_studio.verification import drawn_task
from campaign.pages.editing import add_drawings, drawing_fact, place_facts
from campaign.pages.instructions import class_rules
from campaign.pages.projects import ensure_project
from campaign.pages.publishing import put
from campaign.pages.readback import read_on
from campaign.records.page import NewPage, PageKind, Screen
from campaign.store import Store
from campaign.store import models as m
from campaign.store.drawings import PAINTED, UNSURE
from campaign.store.values import cursor_name
from label_config import paint_data
from ml_backend.errors import InputError
from ml_backend.learning.evaluation import true_iou
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord
from ml_backend.masks.editing import painted_masks
from ml_backend.predictions import Predictions
from ml_backend.server.signing import image_url

logger = logging.getLogger(__name__)

SIDE = 256  # pixels; a larger part holds more objects than one sitting paints
MATCHED = 0.5  # IoU at which a painted and an exported mask show the same object


@dataclass(frozen=True)
class Reference:
    """The dataset against what was painted: `matched` pairs of `painted` and of the dataset's `masks` there.

    `sq` is the mean IoU of the pairs, None without any.
    """

    pages: int
    answered: int
    painted: int
    masks: int
    matched: int
    sq: float | None

    def as_dict(self) -> dict:
        """For programs and the export."""
        return {
            "pages": self.pages, "answered": self.answered, "painted_masks": self.painted, "masks_there": self.masks,
            "matched": self.matched, "sq": None if self.sq is None else round(self.sq, 4),
        }  # fmt: skip


def add_paint_pages(store: Store, count: int, side: int = SIDE) -> int:
    """Stores pages of parts of pool images drawn at random by the campaign's seed; returns how many are new.

    A part is `side` pixels wide and high, or the whole image where that is smaller. No image is drawn twice.
    """
    known = {p.place["image_id"] for p in store.pages.rows(kind=PageKind.PAINT) if p.place}
    ids = store.images.ids("pool")
    order = ids[np.random.default_rng((store.settings.seed, len(ids))).permutation(len(ids))]
    chosen = order[~np.isin(order, list(known))][:count].tolist()
    images = store.images.some(chosen)
    left = [images[i] for i in chosen]
    current = store.rounds.newest()
    pages = []
    for image in left:
        rng = np.random.default_rng((store.settings.seed, image.id))
        x0, y0 = (int(rng.integers(0, max(extent - side, 0) + 1)) for extent in (image.width, image.height))
        window = [x0, y0, min(x0 + side, image.width), min(y0 + side, image.height)]
        place = {"image_id": image.id, "window": window}
        key, number = f"{store.key}-p{image.id}", current.number if current else 0
        pages.append(NewPage(key, number, -1, (), PageKind.PAINT, screen=Screen.PAINT, place=place))
    return store.pages.add(pages)


def publish_paintings(store: Store, client: Client) -> int:
    """Publishes the paint pages that Label Studio does not hold yet; returns how many there were."""
    rows = [p for p in store.pages.rows(published=False) if p.screen == Screen.PAINT]
    if rows:
        project, newest = ensure_project(store, client, Screen.PAINT), store.pages.newest_task(Screen.PAINT)
        put(store, client, project, rows, partial(_tasks, store), newest, cursor_name(Screen.PAINT))
    return len(rows)


def _tasks(store: Store, rows: Sequence[m.Page]) -> dict[str, dict]:
    rules = "\n".join(f"<h3>{store.classes()[i]}</h3>{html}" for i, html in class_rules(store).items())
    secret, base, days = store.secret("crop_key"), store.settings.page.public_url, store.settings.page.url_days
    tasks, code = {}, store.settings.page.language
    for row in rows:
        place = row.place or {}
        url = image_url(base, secret, place["image_id"], (row.created_at + timedelta(days=days)).timestamp())
        name = task_name(row)
        tasks[name] = drawn_task(name, paint_data(name, url, window=tuple(place["window"]), rules=rules, code=code))
    return tasks


def read_paintings(store: Store, client: Client) -> int:
    """Reads paintings back as facts; returns how many were new."""
    project = store.values.project(Screen.PAINT)
    if project is None:
        return 0
    return read_on(
        store,
        cursor_name(Screen.PAINT),
        partial(read_drawings, client, project, partial(shown_pages, store)),
        lambda tasks: add_drawings(store, tasks, paint_facts(store, tasks)),
    )


def paint_facts(store: Store, tasks: Sequence[DrawnTask]) -> list[dict]:
    """Facts that paint pages tell: what each annotation holds, and which annotations are gone."""
    class_of = {name: i for i, name in store.classes().items()}

    def said(a: DrawnAnnotation, page: m.Page) -> dict:
        return drawing_fact(a, *_painted(a, (page.place or {})["window"], class_of))

    return place_facts(store, tasks, PageKind.PAINT, said)


def _painted(a: DrawnAnnotation, window: list[int], class_of: dict[str, int]) -> tuple[str, list[dict]]:
    """The painted masks, of the part's size. A skipped page, or a malformed one, says nothing."""
    x0, y0, x1, y1 = window
    if a.skipped:
        return UNSURE, []
    try:
        painted = painted_masks(a.result, y1 - y0, x1 - x0)
    except InputError as error:
        logger.warning("annotation %d: %s", a.id, error)
        return UNSURE, []
    return PAINTED, [
        {"class_id": class_of[name], "size": [y1 - y0, x1 - x0], "counts": rle["counts"].decode("ascii")}
        for name, rle in painted
        if name in class_of
    ]


def reference(store: Store) -> Reference:
    """What the painted masks tell of the dataset as it stands (SQ as in Papadopoulos et al., section 4).

    Each painted part is compared with what the dataset has in it; a mask counts where most of it lies inside.
    """
    pages = {p.key: p for p in store.pages.rows(kind=PageKind.PAINT) if p.place}
    newest = {d.page_key: d for d in store.drawings.standing() if d.state == PAINTED and d.page_key in pages}
    truth = CocoDataset([], store.classes())
    parts: list[tuple[int, int, dict, float]] = []  # page, class, RLE in the part, score
    masks = standing_masks(store) if newest else None
    for number, (key, drawing) in enumerate(sorted(newest.items()), 1):
        x0, y0, x1, y1 = (pages[key].place or {})["window"]
        truth.images.append(ImageRecord(number, key, x1 - x0, y1 - y0, Path(key)))
        for shape in drawing.masks["masks"]:
            rle = {"size": shape["size"], "counts": shape["counts"].encode("ascii")}
            truth.annotations.append(Annotation(len(truth.annotations) + 1, number, shape["class_id"], rle))
        assert masks is not None
        here = masks.read(masks.image_id == drawing.image_id)
        for row, whole in enumerate(here.rles()):
            part = mask_util.decode(whole)
            inside = np.asfortranarray(part[y0:y1, x0:x1])
            if 2 * int(inside.sum()) > int(part.sum()):
                parts.append((number, int(here.class_id[row]), mask_util.encode(inside), float(here.score[row])))
    iou = true_iou(_as_predictions(parts), truth) if parts and truth.annotations else np.zeros(0)
    good = iou[iou >= MATCHED]
    return Reference(
        len(pages),
        len(newest),
        len(truth.annotations),
        len(parts),
        len(good),
        float(good.mean()) if len(good) else None,
    )


def _as_predictions(parts: list[tuple[int, int, dict, float]]) -> Predictions:
    n = len(parts)
    images, classes, rles, scores = zip(*parts, strict=True)
    return Predictions(
        np.arange(n), np.array(images), np.array(classes, np.int32), mask_util.toBbox(list(rles)).astype(np.float32),
        np.array([rle["counts"] for rle in rles], object), np.array([rle["size"] for rle in rles], np.int32),
        np.array(scores, np.float32), np.ones(n, np.float32), np.zeros((n, 0), np.float16),
    )  # fmt: skip
