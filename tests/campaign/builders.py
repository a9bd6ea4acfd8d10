"""Campaigns at verify whose truth is known, with and without held-out images, and people who answer their pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from campaign.clustering import Tree, linkage
from campaign.derived.live import live
from campaign.label_studio.readback import AnnotationSnapshot, TaskSnapshot
from campaign.pages.readback import facts
from campaign.records.page import NewPage
from campaign.records.verdict import Verdict
from campaign.settings import CampaignSettings
from campaign.steps.verify import decide
from campaign.store import Store
from ml_backend.mask_ids import row_of
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord
from ml_backend.predictions import Predictions

CLASSES = {1: "cell", 2: "dot"}
GOOD, BAD = 0.9, 0.3
SEARCH = {"policy": "paper", "k_pa": 0.1, "k_pr": 0.0, "ask_ahead": False}


def predictions() -> Predictions:
    """160 masks: per class 40 good ones in one place of feature space, 40 bad ones in another."""
    rng = np.random.default_rng(0)
    n = 160
    good = np.tile(np.repeat([True, False], 40), 2)
    rle = np.empty(n, object)
    boxes = [[(i % 16) * 24, (i // 16) * 24, 20, 20] for i in range(n)]
    for i, (x, y, w, h) in enumerate(boxes):
        mask = np.zeros((400, 400), np.uint8, order="F")
        mask[y : y + h, x : x + w] = 1
        rle[i] = mask_util.encode(mask)["counts"]
    return Predictions(
        np.arange(n), np.ones(n), np.repeat([1, 2], 80), np.array(boxes), rle, np.full((n, 2), 400),
        np.where(good, GOOD, BAD), np.ones(n), rng.normal(0, 0.1, (n, 8)) + np.where(good, 1, -1)[:, None],
    )  # fmt: skip


def is_good(mask_id: int) -> bool:
    """The truth of a mask of `predictions`, by its id in any round."""
    return row_of(mask_id) % 80 < 40


def verify_store(
    folder: Path, search: dict | None = None, quality: dict | None = None, label_studio: dict | None = None,
    place: str | None = None, jobs: dict | None = None,
) -> Store:  # fmt: skip
    """A store whose round 1 is at verify, over one image of the pool; nothing is held out, so there is no gold.

    It lies in the folder, or at another place.
    """
    return _store(folder, ("pool",), search, quality, label_studio, place=place, jobs=jobs)


def gold_store(
    folder: Path, quality: dict | None = None, search: dict | None = None, url: str | None = None,
    iou: Callable[[int], float] = lambda i: float(is_good(i)),
) -> Store:  # fmt: skip
    """The same with a held-out image that shows what the pool's does; its true masks are the good ones.

    `iou` says how far the true mask of a row fits its prediction, in steps of 0.05.
    """
    return _store(folder, ("heldout", "pool"), search, quality, {"url": url}, iou)


def spread_iou(row: int) -> float:
    """For `gold_store`: good masks of every IoU from 0.75 on, bad ones of every IoU below, many of them near it."""
    return ((1.0, 0.95, 0.9, 0.85, 0.8, 0.75) if is_good(row) else (0.0, 0.3, 0.5, 0.6, 0.65, 0.7))[row % 6]


def _store(
    folder: Path, splits: tuple[str, ...], search: dict | None, quality: dict | None, label_studio: dict | None,
    iou: Callable[[int], float] = lambda i: float(is_good(i)), place: str | None = None, jobs: dict | None = None,
) -> Store:  # fmt: skip
    folder.mkdir(parents=True)
    rng, shown, data = np.random.default_rng(0), predictions(), {}
    for split in splits:
        path = folder / f"{split}.png"
        Image.fromarray(rng.integers(0, 255, (400, 400, 3), np.uint8)).save(path)
        data[split] = CocoDataset([ImageRecord(1, path.name, 400, 400, path)], CLASSES)
        if split == "heldout":
            true = [(i, _true_mask(shown.box[i], iou(i))) for i in range(len(shown)) if iou(i) > 0]
            data[split].annotations = [Annotation(i + 1, 1, int(shown.class_id[i]), rle) for i, rle in true]
    settings = CampaignSettings(
        name="t", search=SEARCH | (search or {}), quality={"gold_share": 0.0} | (quality or {}),
        label_studio=label_studio or {}, jobs=jobs or {},
    )  # fmt: skip
    store = Store.create(place or folder / "c", settings, data)
    store.rounds.start(1, "verify")
    store.rounds.update(1, model_version="v1")
    for split in splits:
        image = store.images.records(split)[0].id
        stored = store.masks.save_shard(1, split, 0, replace(shown, image_id=np.full(len(shown), image)), 1, 0.0)
    for class_id in CLASSES:
        masks = stored.select(stored.class_id == class_id)
        tree = Tree.build(linkage(masks.features, masks.score), masks.score)
        tree.save(store.trees.folder(1, class_id))
        store.trees.save(1, class_id, masks.mask_id, 0, {"k_pr": 0.0, "k_pa": 0.1, "note": "", "curves": None})
    return store


def _true_mask(box: np.ndarray, iou: float) -> dict:
    """The upper part of a box, as much of it as they are to have in common."""
    x, y, w, h = (int(v) for v in box)
    mask = np.zeros((400, 400), np.uint8, order="F")
    mask[y : y + round(h * iou), x : x + w] = 1
    return mask_util.encode(mask)


def turn(store: Store, round_number: int = 1) -> list[str]:
    """What a turn does between reading and publishing; returns the keys of new pages."""
    before = store.pages.newest()
    with store.locked():
        decided = decide(store, round_number)
        live(store).save()
        if decided.done:
            store.trees.mark_searched(round_number)
    return [page.key for page in store.pages.rows() if page.number > before]


def add_page(store: Store, key: str, masks: list[int], kind: str, gold: dict | None = None, number: int = 1) -> None:
    """A page beside those that turns plan."""
    store.pages.add([NewPage(key, number, 1, tuple((i, None) for i in masks), kind, gold or {})])


_clock = iter(range(10**9))


def answer(
    store: Store, key: str, user: int = 1, wrong: bool = False, lead_time: float = 20.0,
    says: Callable[[int], bool] = is_good,
) -> dict[int, Verdict]:  # fmt: skip
    """One more user answers a page, each mask as they say or each mask the other way; returns what they said."""
    now = next(_clock)
    stamp = f"2026-01-01T{now // 3600:02d}:{now // 60 % 60:02d}:{now % 60:02d}.000000Z"
    verdicts = {a.mask_id: Verdict(int(says(a.mask_id) != wrong)) for a in store.questions.on_pages([key])}
    fresh = AnnotationSnapshot(10**6 + now, user, stamp, lead_time, False, verdicts)
    before = {
        a.annotation_id: AnnotationSnapshot(a.annotation_id, int(a.annotator), a.answered_at, a.lead_time, False, {})
        for a in store.answers.rows({key})
    }
    store.answers.add(facts(store, [TaskSnapshot(1, key, [*before.values(), fresh])]))
    return verdicts


def finish(store: Store, user: int = 1, order: Callable[[list[str]], list[str]] = list) -> None:
    """One careful user answers every page until the search ends."""
    for _ in range(60):
        keys = turn(store)
        if not keys:
            assert all(t.searched for t in store.trees.rows(1))
            return
        for key in order(keys):
            answer(store, key, user)
    raise AssertionError("the search does not end")
