"""A small campaign of two rounds in a real store, answered from ground truth without Label Studio."""

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from pycocotools import mask as mask_util
from scipy import ndimage
from sqlalchemy import update

from campaign.demo.shapes import draw_shapes
from campaign.derived.live import live
from campaign.records.verdict import Verdict
from campaign.settings import CampaignSettings
from campaign.steps.cluster import cluster
from campaign.steps.detect import assess
from campaign.steps.propagate import finish_round
from campaign.steps.verify import decide
from campaign.store import Store, models
from ml_backend.learning.evaluation import true_iou
from ml_backend.masks.coco import CocoDataset
from ml_backend.predictions import Predictions


def imagined(truth, image_ids, classes, rng, quality):
    """Predictions as a detector of some quality would make them: true masks, spoilt ones, and some of no object."""
    by_image = truth.by_image()
    rows = []
    for record in truth.images:
        for annotation in by_image.get(record.id, []):
            mask = mask_util.decode(annotation.rle).astype(bool)
            good = rng.random() < quality
            if not good:
                mask = ndimage.shift(mask.astype(float), rng.normal(0, 6, 2), order=0) > 0.5
            if not mask.any():
                continue
            rows.append((image_ids[record.id], annotation.class_id, mask, good))
        for _ in range(3):
            y, x = np.mgrid[: record.height, : record.width]
            where, radius = rng.uniform(20, 230, 2), rng.uniform(6, 14)
            blob = np.hypot(x - where[0], y - where[1]) < radius
            rows.append((image_ids[record.id], int(rng.choice(list(classes))), blob, False))
    rles = [mask_util.encode(np.asfortranarray(mask, np.uint8)) for _, _, mask, _ in rows]
    counts = np.empty(len(rows), object)
    counts[:] = [r["counts"] for r in rles]
    good = np.array([g for *_, g in rows])
    features = rng.normal(0, 0.6, (len(rows), 8)) + np.where(good, 0.7, -0.7)[:, None]
    return Predictions(
        mask_id=np.arange(len(rows)),
        image_id=[i for i, *_ in rows],
        class_id=[c for _, c, *_ in rows],
        box=mask_util.toBbox(rles),
        rle=counts,
        size=[r["size"] for r in rles],
        confidence=np.clip(np.where(good, 0.95, 0.8) + rng.normal(0, 0.12, len(rows)), 0.05, 1),
        predicted_iou=np.clip(np.where(good, 0.95, 0.82) + rng.normal(0, 0.08, len(rows)), 0.05, 1),
        features=features,
    )


def run_campaign(folder, pool_images=24, policy="paper", rounds=2, error_rate=0.03, seed=0):
    """The store of a campaign over drawn shapes, run to its end, and the pool's truth with the store's image ids."""
    data = draw_shapes(folder / "data", labelled=3, pool=pool_images, heldout=8, seed=seed)
    splits = {s: CocoDataset.load(data / f"{s}.json", data / "images") for s in ("labelled", "pool", "heldout")}
    settings = CampaignSettings(name="Hardware on a bench")
    settings.search.policy, settings.search.n_s = policy, 8
    settings.quality.gold_share = 0.0
    settings.rounds.rounds = rounds
    store = Store.create(folder / "campaign", settings, splits)
    rng = np.random.default_rng(seed)
    ids = {(r.split, r.coco_id): r.id for r in store.images.rows()}
    truth = splits["pool"]
    truth_rows = [(ids["pool", a.image_id], a) for a in truth.annotations]
    moved = [_moved(a, image) for image, a in truth_rows]
    store_truth = CocoDataset(store.images.records("pool"), truth.classes, moved)
    clock = datetime(2026, 3, 1, 9, 0, tzinfo=timezone.utc)
    annotation = 0
    for number in range(1, rounds + 1):
        store.rounds.start(number, "detect")
        store.rounds.update(number, model_version=f"shapes-{number}")
        for split in ("pool", "heldout"):
            split_ids = {coco: own for (name, coco), own in ids.items() if name == split}
            masks = imagined(splits[split], split_ids, truth.classes, rng, 0.6 + 0.1 * number)
            store.masks.save_shard(number, split, 0, masks, len(split_ids), 1.0)
        assess(store, number)
        for class_id in truth.classes:
            cluster(store, number, class_id)
        store.rounds.update(number, stage="verify")
        predictions = store.masks.predictions(number)
        correct = dict(
            zip(predictions.mask_id.tolist(), true_iou(predictions, store_truth, False) >= 0.75, strict=True)
        )
        while True:
            newest = store.pages.newest()
            decide(store, number)
            live(store).save()
            _date_decisions(store, clock)
            pages = [p for p in store.pages.rows() if p.number > newest]
            if not pages:
                break
            for page in pages:
                key, questions = page.key, [(a.mask_id, None) for a in store.questions.on_pages([page.key])]
                annotation += 1
                clock += timedelta(seconds=1.2 * len(questions))
                verdicts = {i: Verdict(int(correct[i] ^ (rng.random() < error_rate))) for i, _ in questions}
                store.answers.add(
                    {
                        "page_key": key,
                        "annotation_id": annotation,
                        "mask_id": mask,
                        "annotator": str(annotation % 3),
                        "verdict": verdict.name.lower(),
                        "answered_at": clock.isoformat().replace("+00:00", "Z"),
                        "lead_time": 1.2 * len(questions),
                    }
                    for mask, verdict in verdicts.items()
                )
        store.rounds.update(number, stage="propagate")
        finish_round(store, number)
    return store, store_truth


def _date_decisions(store, moment):
    """Decisions made just now are dated by the clock of the answers."""
    with store.session() as session:
        now = datetime.now(timezone.utc).replace(tzinfo=None)
        recent = update(models.Decision).where(models.Decision.decided_at > now - timedelta(minutes=5))
        session.execute(recent.values(decided_at=moment.replace(tzinfo=None)))


def _moved(annotation, image_id):
    return type(annotation)(annotation.id, image_id, annotation.class_id, annotation.rle)


@pytest.fixture(scope="session")
def campaign(tmp_path_factory):
    return run_campaign(tmp_path_factory.mktemp("report"))
