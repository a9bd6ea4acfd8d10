"""Verification and then clicks, on detections whose truth is known: what each way obtains in the same hours."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as mask_util

from campaign.settings import CampaignSettings
from campaign.simulation.clickplots import draw_study
from campaign.simulation.clickstudy import ClickStudy, simulate_clicks
from campaign.simulation.joined import Growth, joined_campaign
from campaign.simulation.predictions import pool_of_round
from campaign.store import Store
from ml_backend.errors import InputError
from ml_backend.interactive.segmenter import Proposal
from ml_backend.learning.evaluation import best_objects
from ml_backend.masks.coco import CocoDataset
from ml_backend.masks.images import read_rgb
from ml_backend.predictions import Predictions
from tests.ml_backend.detectors.drawn import draw


class Seer:
    """A segmenter that gives the true mask which the last click or the box lies on."""

    version = "seer-1"

    def __init__(self, data: CocoDataset):
        self._masks = {i.id: [a.rle for a in data.annotations if a.image_id == i.id] for i in data.images}
        self._data = data

    def encode(self, image):
        for record in self._data.images:
            if np.array_equal(read_rgb(record.path), image):
                return record.id, image.shape[:2]
        raise AssertionError("a picture of another pool")

    def segment(self, encoding, prompt):
        image, size = encoding
        x, y = (
            (prompt.clicks[-1].x, prompt.clicks[-1].y) if prompt.clicks else np.mean(np.reshape(prompt.box, (2, 2)), 0)
        )
        for rle in self._masks[image]:
            mask = mask_util.decode(rle).astype(bool)
            if mask[min(int(y), size[0] - 1), min(int(x), size[1] - 1)]:
                return Proposal(mask, 0.9, 1.0)
        return Proposal(np.zeros(size, bool) if prompt.previous is None else prompt.previous, 0.1, 1.0)


def detected(data: CocoDataset, ids: dict[int, int], rng: np.random.Generator) -> Predictions:
    """A mask of each object, every third of them moved by a third of its side."""
    rles, images, scores = [], [], []
    for number, a in enumerate(data.annotations):
        mask = mask_util.decode(a.rle)
        poor = number % 3 == 0
        if poor:
            mask = np.roll(mask, max(int(np.sqrt(mask.sum()) / 3), 1), axis=1)
        rles.append(mask_util.encode(np.asfortranarray(mask)))
        images.append(ids[a.image_id])
        scores.append(rng.uniform(0.3, 0.7) if poor else rng.uniform(0.6, 1.0))
    counts = np.empty(len(rles), object)
    counts[:] = [rle["counts"] for rle in rles]
    n, class_id = len(rles), np.array([a.class_id for a in data.annotations])
    features = np.column_stack([np.arange(n) % 3 == 0, rng.normal(0, 0.1, n)]).astype(np.float32)
    box = np.asarray(mask_util.toBbox(rles))
    size = np.array([rle["size"] for rle in rles])
    return Predictions(
        np.arange(n), np.array(images), class_id, box, counts, size, np.array(scores), np.ones(n), features
    )


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joined")
    pool, heldout = (draw(folder / name / "images", images=12, seed=seed) for name, seed in (("pool", 1), ("held", 2)))
    pool.save(folder / "pool" / "pool.json")
    store = Store.create(folder / "c", CampaignSettings(name="joined"), {"pool": pool, "heldout": heldout})
    store.rounds.start(1, "detect")
    rng = np.random.default_rng(0)
    for split, data in (("pool", pool), ("heldout", heldout)):
        ids = {r.coco_id: r.id for r in store.images.rows(split)}
        store.masks.save_shard(1, split, 0, detected(data, ids, rng), len(data.images), 0.0)
    return store, folder / "pool" / "pool.json", pool


def test_clicks_obtain_what_verification_cannot(campaign, tmp_path):
    store, truth, pool = campaign
    found = pool_of_round(store, truth, truth.parent / "images", 1)
    result = joined_campaign(store, found, Seer(pool), simulated=30)
    curves = {name: Growth(*(np.array(v) for v in curve.values())) for name, curve in result["curves"].items()}
    alone, together = curves["verification"], curves["verification, then clicks"]
    for growth in curves.values():
        assert (np.diff(growth.hours) >= 0).all() and (np.diff(growth.correct) >= -1e-6).all()
        assert growth.correct[-1] <= result["objects"] * 1.1  # what is played stands for the rest
    poor = sum(n % 3 == 0 for n in range(len(pool.annotations)))
    assert alone.correct[-1] <= result["objects"] - poor * 0.8  # no answer makes a poor mask correct
    assert together.correct[-1] > alone.correct[-1] * 1.2
    assert result["gain"]["most"] == pytest.approx(together.correct[-1] / alone.correct[-1] - 1, abs=0.02)
    rounding = 0.0005
    assert together.at(result["clicks_from_hours"] + rounding) >= result["searched_correct"]
    assert result["gain"]["worth_it_from_hours"] <= result["gain"]["most_at_hours"]
    shown = draw_study({"model": "seer", "miou_by_clicks": [0.5, 0.9], "joined": result}, tmp_path / "joined.png")
    assert shown.stat().st_size > 0
    json.dumps(result, allow_nan=False)
    assert joined_campaign(store, found, Seer(pool), simulated=30) == result


def test_a_campaign_without_predictions_is_named_before_a_training(campaign, tmp_path):
    _, truth, pool = campaign
    empty = Store.create(tmp_path / "c", CampaignSettings(name="empty"), {"pool": pool})
    empty.rounds.start(1, "detect")
    pool.save(truth.parent / "labelled.json")
    chosen = ClickStudy(
        truth.parent, "labelled.json", "labelled.json", tmp_path / "out", campaign=tmp_path / "c", truth=truth.name
    )
    with pytest.raises(InputError, match=r"round 1 of .*: expected predictions, got none"):
        simulate_clicks(chosen)
    with pytest.raises(InputError, match="expected a campaign"):
        simulate_clicks(replace(chosen, campaign=tmp_path / "nowhere"))
    assert not (tmp_path / "out").exists()


def test_each_mask_belongs_to_the_object_that_it_overlaps_most(campaign):
    _, _, pool = campaign
    ids = {i.id: i.id for i in pool.images}
    objects, iou = best_objects(detected(pool, ids, np.random.default_rng(0)), pool)
    good = np.arange(len(objects)) % 3 > 0
    assert (objects[good] == np.flatnonzero(good)).all() and (iou[good] == 1).all() and (iou[~good] < 1).all()
    nowhere = CocoDataset(pool.images, pool.classes, [])
    objects, iou = best_objects(detected(pool, ids, np.random.default_rng(0)), nowhere)
    assert (objects == -1).all() and (iou == 0).all()
