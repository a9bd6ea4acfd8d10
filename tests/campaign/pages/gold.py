"""A campaign with held-out images, so that there is gold; and people who answer its pages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from campaign.clustering import Tree, linkage
from campaign.label_studio.readback import AnnotationSnapshot, TaskSnapshot
from campaign.records.verdict import Verdict
from campaign.settings import CampaignSettings
from campaign.steps.verify import facts, open_searches, plan_pages, save_decisions
from campaign.store import Store
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord
from tests.campaign.steps.test_verify import CLASSES, is_good, predictions

SEARCH = {"policy": "paper", "k_pa": 0.1, "k_pr": 0.0}


def gold_store(folder: Path, quality: dict | None = None, search: dict | None = None, url: str | None = None) -> Store:
    """A store at verify; the held-out image shows what the pool's does, and its true masks are the good ones."""
    folder.mkdir(parents=True)
    splits = {}
    rng = np.random.default_rng(0)
    for split in ("heldout", "pool"):
        path = folder / f"{split}.png"
        Image.fromarray(rng.integers(0, 255, (400, 400, 3), np.uint8)).save(path)
        splits[split] = CocoDataset([ImageRecord(1, path.name, 400, 400, path)], CLASSES)
    shown = predictions()
    splits["heldout"].annotations = [
        Annotation(i + 1, 1, int(shown.class_id[i]), rle)
        for i, rle in enumerate(shown.rles())
        if is_good(i)
    ]  # fmt: skip
    settings = CampaignSettings(
        name="gold",
        search=SEARCH | (search or {}),
        quality={"gold_share": 0.0} | (quality or {}),
        label_studio={"url": url},
    )
    store = Store.create(folder / "c", settings, splits)
    store.rounds.start(1, "verify")
    store.rounds.update(1, model_version="v1")
    for split in ("heldout", "pool"):
        image = store.images.records(split)[0].id
        stored = store.masks.save_shard(1, split, 0, replace(shown, image_id=np.full(len(shown), image)), 1, 0.0)
    for class_id in CLASSES:
        mine = stored.select(stored.class_id == class_id)
        tree = Tree.build(linkage(mine.features, mine.score), mine.score)
        tree.save(store.trees.folder(1, class_id))
        store.trees.save(1, class_id, mine.mask_id, 0, {"k_pr": 0.0, "k_pa": 0.1, "note": "", "curves": None})
    return store


def turn(store: Store) -> list[str]:
    """What a turn does between reading and publishing; gives the keys of new pages."""
    searches = open_searches(store, 1)
    pages = list(plan_pages(store, 1, searches))
    for page in pages:
        store.pages.add(*page)
    for s in searches:
        save_decisions(store, 1, s)
    return [key for key, *_ in pages]


_clock = iter(range(10**9))


def answer(store: Store, key: str, user: int, wrong: bool = False, lead_time: float = 20.0) -> None:
    """One more user answers a page, each mask right or each mask wrong."""
    told = [a for a in store.answers.rows({key})]
    masks = [q.mask_id for q, p in store.questions.rows(gold=True) if p.key == key]
    now = next(_clock)
    stamp = f"2026-01-01T{now // 3600:02d}:{now // 60 % 60:02d}:{now % 60:02d}.000000Z"
    given = {mask: Verdict(int(is_good(mask) != wrong)) for mask in masks}
    fresh = AnnotationSnapshot(10**6 + now, user, stamp, lead_time, False, given)
    before = {
        a.annotation_id: AnnotationSnapshot(a.annotation_id, int(a.annotator), a.answered_at, a.lead_time, False, {})
        for a in told
    }
    store.answers.add(facts(store, [TaskSnapshot(1, key, [*before.values(), fresh])]))


def finish(store: Store, user: int) -> None:
    """One careful user answers every page until the search ends."""
    for _ in range(60):
        keys = turn(store)
        if not keys:
            assert all(t.searched for t in store.trees.rows(1))
            return
        for key in keys:
            answer(store, key, user)
    raise AssertionError("the search does not end")
