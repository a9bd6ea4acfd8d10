"""Detection: held-out images say which masks are worth keeping, and the pool's others are never stored."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from campaign.settings import CampaignSettings
from campaign.steps import detect as detection
from campaign.steps.detect import assess, bound, detect
from campaign.steps.rounds import due, progress_of, run_step
from campaign.store import Store
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord
from ml_backend.predictions import Predictions
from tests.campaign.builders import CLASSES, predictions


class Hundreds:
    """On each image 40 good masks of each class at a high score, and each bad one twice at a low score."""

    def predict(self, images):
        masks = predictions()
        bad = np.flatnonzero(masks.score < 0.5)
        for image in images:
            found = Predictions.concatenate([masks, masks.select(bad)])
            yield replace(found, image_id=np.full(len(found), image.id), features=found.features + np.float16(0))


def is_good(masks):
    return masks.score > 0.5


@pytest.fixture
def make_store(tmp_path, monkeypatch):
    """A store at the stage of detection, with two held-out images in two shards and one of the pool."""
    monkeypatch.setattr(detection, "load_checkpoint", lambda name, checkpoint: Hundreds())

    def make(heldout=2, **detector) -> Store:
        splits = {}
        for split, count in (("pool", 1), ("heldout", heldout)):
            data = CocoDataset([], CLASSES)
            for number in range(1, count + 1):
                path = tmp_path / f"{split}-{number}.png"
                Image.new("RGB", (400, 400)).save(path)
                data.images.append(ImageRecord(number, path.name, 400, 400, path))
                masks = predictions()
                good = masks.select(is_good(masks))
                first = len(data.annotations) + 1
                data.annotations += [
                    Annotation(first + n, number, int(c), rle)
                    for n, (c, rle) in enumerate(zip(good.class_id, good.rles(), strict=True))
                ]
            if count:
                splits[split] = data
        settings = CampaignSettings(name="t", detector=detector, jobs={"shard_images": 1})
        store = Store.create(tmp_path / "c", settings, splits)
        store.rounds.start(1, "detect")
        store.rounds.update(1, checkpoint="none")
        return store

    return make


def names(store):
    return [(s.name.value, *s.args) for s in due(progress_of(store))]


def run(store):
    """All steps of detection, as they become due; their names."""
    done = []
    while store.rounds.get(1).stage == "detect":
        step = due(progress_of(store))[0]
        run_step(store, step.name, 1, *step.args)
        done.append((step.name.value, *step.args[:2]))
    return done


def test_held_out_images_come_first_and_bound_what_is_stored_of_the_pool(make_store):
    store = make_store()
    assert names(store) == [("detect", "heldout", 0, 1), ("detect", "heldout", 1, 2)]
    assert [n[:2] for n in run(store)] == [
        ("detect", "heldout"), ("detect", "heldout"), ("bound",), ("detect", "pool"), ("assess",),
    ]  # fmt: skip
    for split, images in (("pool", 1), ("heldout", 2)):
        masks = store.masks.predictions(1, split)
        assert len(masks) == 80 * images and is_good(masks).all()
        assert len(set(masks.mask_id.tolist())) == len(masks) and masks.features.shape == (len(masks), 8)
    metrics = store.rounds.get(1).metrics
    assert metrics["kept"]["classes"]["1"] == metrics["kept"]["classes"]["1"] | {
        "masks": 240, "kept": 80, "correct": 80, "correct_kept": 80, "objects": 80, "reason": "chance",
    }  # fmt: skip
    assert metrics["ap"]["mask"]["ap"] == pytest.approx(1)
    assert set(metrics["thresholds"]) == {"1", "2"}
    assert "80 of 240 held-out ones, without 0 of 80 correct ones" in "\n".join(e.text for e in store.events())


def test_what_the_lead_sets_goes_before_what_is_learned(make_store):
    store = make_store(keep=0)
    run(store)
    assert len(store.masks.predictions(1, "pool")) == 240
    assert len(store.masks.predictions(1, "heldout")) == 480


@pytest.mark.parametrize(("keep", "stored"), [(None, 240), (0.5, 80)])
def test_without_held_out_images_only_the_lead_can_bound(make_store, keep, stored):
    store = make_store(heldout=0, keep=keep)
    assert [n[:2] for n in run(store)] == [("detect", "pool"), ("assess",)]
    assert len(store.masks.predictions(1, "pool")) == stored


def test_an_interrupted_bound_drops_the_same(make_store, monkeypatch):
    """What was learned is not learned again from the half that was dropped already."""
    store = make_store()
    for number in range(2):
        detect(store, 1, "heldout", number)
    save = store.masks.save_shard

    def interrupted(round_number, split, number, *rest):
        if number == 1:
            raise KeyboardInterrupt
        return save(round_number, split, number, *rest)

    monkeypatch.setattr(store.masks, "save_shard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bound(store, 1)
    learned = store.rounds.get(1).metrics["kept"]["classes"]
    assert len(store.masks.predictions(1, "heldout")) == 80 + 240 and names(store) == [("bound",)]
    monkeypatch.undo()
    bound(store, 1)
    assert store.rounds.get(1).metrics["kept"] == {"classes": learned, "applied": True}
    assert len(store.masks.predictions(1, "heldout")) == 160
    before = store.masks.shard_path(1, "heldout", 0).stat().st_mtime_ns
    bound(store, 1)
    assert store.masks.shard_path(1, "heldout", 0).stat().st_mtime_ns == before


def test_a_round_that_an_earlier_version_began_keeps_all(make_store):
    """Its pool is detected in part."""
    store = make_store()
    for number in range(2):
        detect(store, 1, "heldout", number)
    store.masks.save_shard(1, "pool", 0, predictions(), images=1, seconds=0.0)
    assert names(store) == [("assess",)]
    assess(store, 1)
    assert store.rounds.get(1).metrics["ap"]["mask"]["ap"] > 0.9
