"""Campaigns under the policy of a target, at verify, whose masks are hard to tell apart, and people who answer them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from campaign.clustering import Tree, linkage
from campaign.derived.live import live
from campaign.label_studio.readback import AnnotationSnapshot, TaskSnapshot
from campaign.pages.readback import facts
from campaign.records.verdict import Verdict
from campaign.settings import CampaignSettings
from campaign.steps.verify import decide, save_views
from campaign.store import Store
from ml_backend.mask_ids import is_heldout, row_of
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord
from ml_backend.predictions import Predictions

CLASSES = {1: "cell", 2: "dot"}
SIDE, STEP = 200, 20  # of an image in pixels, and of the places in it
SHARE = 0.6  # of the masks that are correct


def hard_predictions(images: int, seed: int) -> tuple[Predictions, np.ndarray]:
    """50 masks in each image, and which are correct: features and scores tell, but not all of it. Some are rivals."""
    rng = np.random.default_rng(seed)
    n = images * 50
    good = rng.random(n) < SHARE
    place = np.arange(n) % 50
    place[place >= 45] -= 40  # the last five of an image lie on places that are taken
    shift = np.where(np.arange(n) % 50 >= 45, 2, 0)
    boxes = np.stack([place % 10 * STEP + shift, place // 10 * 2 * STEP, np.full(n, 15), np.full(n, 16)], axis=1)
    good &= np.arange(n) % 50 < 45  # of rivals the first may be correct
    rle = np.empty(n, object)
    for i, (x, y, w, h) in enumerate(boxes.tolist()):
        mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
        mask[y : y + h, x : x + w] = 1
        rle[i] = mask_util.encode(mask)["counts"]
    told = np.where(good, 0.45, -0.45)[:, None] + rng.normal(0, 1.0, (n, 6))
    score = 1 / (1 + np.exp(-(np.where(good, 0.6, -0.6) + rng.normal(0, 1.0, n))))
    predictions = Predictions(
        np.arange(n), np.repeat(np.arange(images), 50), 1 + (np.arange(n) % 2), boxes, rle, np.full((n, 2), SIDE),
        score, np.ones(n), told,
    )  # fmt: skip
    return predictions, good


def target_store(
    folder: Path, images: int = 8, quality: dict | None = None, heldout: bool = True, **search: object
) -> Store:
    """A store whose only round is at verify, over `images` images of the pool and as many that are held out."""
    folder.mkdir(parents=True)
    data, shown = {}, {}
    for number, split in enumerate(("heldout", "pool")):
        if split == "heldout" and not heldout:
            continue
        records = []
        for i in range(images):
            path = folder / f"{split}-{i}.png"
            Image.new("RGB", (SIDE, SIDE)).save(path)
            records.append(ImageRecord(i + 1, path.name, SIDE, SIDE, path))
        data[split] = CocoDataset(records, CLASSES)
        shown[split] = predictions, good = hard_predictions(images, number)
        if split == "heldout":
            columns = zip(predictions.image_id.tolist(), predictions.class_id.tolist(), predictions.rles(), strict=True)
            data[split].annotations = [
                Annotation(i + 1, image + 1, class_id, rle)
                for i, (image, class_id, rle) in enumerate(columns)
                if good[i]
            ]
    settings = CampaignSettings(
        name="target", search=search, quality={"gold_share": 0.1} | (quality or {}), rounds={"rounds": 1}
    )  # fmt: skip
    store = Store.create(folder / "c", settings, data)
    store.rounds.start(1, "verify")
    store.rounds.update(1, model_version="v1")
    for split, (predictions, _) in shown.items():
        ids = np.array([image.id for image in store.images.records(split)])
        moved = Predictions(
            **{name: getattr(predictions, name) for name in Predictions.COLUMNS if name != "image_id"},
            image_id=ids[predictions.image_id],
        )
        stored = store.masks.save_shard(1, split, 0, moved, images, 0.0)
    for class_id in CLASSES:
        masks = stored.select(stored.class_id == class_id)
        tree = Tree.build(linkage(masks.features, masks.score), masks.score)
        tree.save(store.trees.folder(1, class_id))
        store.trees.save(1, class_id, masks.mask_id, 0, {"k_pr": 0.0, "k_pa": 0.1, "note": "", "curves": None})
    return store


class Truth:
    """Which masks of a `target_store` are correct."""

    def __init__(self, images: int = 8):
        self._good = {split: hard_predictions(images, number)[1] for number, split in enumerate(("heldout", "pool"))}

    def __call__(self, mask: int) -> bool:
        return bool(self._good["heldout" if is_heldout(mask) else "pool"][row_of(mask)])


_clock = iter(range(10**9))


def answer(store: Store, key: str, right: Callable[[int], bool], user: int = 1) -> None:
    """One more user answers a page, yes where `right` says so."""
    now = next(_clock)
    stamp = f"2026-01-01T{now // 3600:02d}:{now // 60 % 60:02d}:{now % 60:02d}.000000Z"
    verdicts = {a.mask_id: Verdict(int(right(a.mask_id))) for a in store.questions.on_pages([key])}
    fresh = AnnotationSnapshot(10**6 + now, user, stamp, 20.0, False, verdicts)
    before = [
        AnnotationSnapshot(a.annotation_id, int(a.annotator), a.answered_at, a.lead_time, False, {})
        for a in store.answers.rows({key})
    ]
    store.answers.add(facts(store, [TaskSnapshot(1, key, [*before, fresh])]))


def turn(store: Store) -> tuple[list[str], bool]:
    """What a turn does between reading and publishing: (keys of new pages, whether the round is over)."""
    before = store.pages.newest()
    with store.locked():
        decided = decide(store, 1)
        save_views(store)
        live(store).touched.clear()
    return [page.key for page in store.pages.rows() if page.number > before], decided.done


def finish(store: Store, right: Callable[[int], bool], user: int = 1, kill: bool = False) -> int:
    """One user answers every page until the round is over; returns the turns. `kill`: every turn is another process."""
    for number in range(200):
        keys, done = turn(store)
        if done:
            return number
        for key in keys:
            answer(store, key, right, user)
        if kill:
            store.companions.clear()
    raise AssertionError("the round does not end")
