"""The ranking model that is fitted beside a campaign's segmenter, on held-out objects."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from campaign.derived.ranking import ranker_path
from campaign.settings import CampaignSettings
from campaign.steps import interactive
from campaign.steps.interactive import fit_ranker, train_interactive
from campaign.store import Store
from ml_backend.interactive.ranking import NAMES, Ranker
from ml_backend.masks.coco import decode
from tests.campaign.builders import gold_store, spread_iou, verify_store
from tests.ml_backend.interactive.colour_segmenter import ColourSegmenter

OBJECTS = 40


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Its held-out picture shows each object white on black; of every third one cannot see where it ends."""
    monkeypatch.setattr(interactive, "MOST_OBJECTS", OBJECTS)
    store = gold_store(tmp_path / "a", iou=spread_iou)
    known = store.images.annotated("heldout")
    picture = np.zeros((400, 400, 3), np.uint8)
    for number, a in enumerate(known.annotations):
        rows, columns = np.nonzero(decode(a.rle))
        end = rows.min() + 20 if number % 3 == 0 else rows.max() + 1
        picture[rows.min() : end, columns.min() : columns.max() + 1] = 255
    Image.fromarray(picture).save(known.images[0].path)
    return store


def test_it_learns_on_heldout_objects_and_is_stored_beside_the_checkpoint(store):
    seen = []
    path = fit_ranker(store, ColourSegmenter(), 1, lambda stage, done, total: seen.append((stage, done, total)))
    assert path == ranker_path(store, 1, "colour-1") and path.is_file()
    assert seen[-1] == ("ranking", OBJECTS, OBJECTS) and len(seen) == OBJECTS
    ranker = Ranker.load(path)
    assert len(ranker.iou) >= OBJECTS and ranker.k_iou == store.settings.search.k_iou
    # What nobody stores of real clicks is a constant.
    assert set(ranker.table[:, NAMES.index("stability")].tolist()) == {1.0}
    judged = ranker.judge(ranker.table)
    correct = ranker.iou >= ranker.k_iou
    assert 0 < correct.mean() < 1
    assert judged.correct[correct].mean() > judged.correct[~correct].mean() + 0.1


def test_a_ranker_is_kept_until_another_mask_is_correct(store):
    path = fit_ranker(store, ColourSegmenter(), 1)
    before = path.stat().st_mtime_ns
    assert fit_ranker(store, ColourSegmenter(), 1) == path and path.stat().st_mtime_ns == before
    store.settings.search.k_iou = 0.9
    fit_ranker(store, ColourSegmenter(), 1)
    assert Ranker.load(path).k_iou == 0.9


def test_without_heldout_objects_there_is_none(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    store = verify_store(tmp_path / "a")
    assert fit_ranker(store, ColourSegmenter(), 1) is None
    assert "0 held-out ones, at least 20 needed" in caplog.text
    assert not ranker_path(store, 1, "colour-1").exists()


@pytest.mark.slow
def test_training_leaves_a_checkpoint_and_its_ranker_together(store, tmp_path, monkeypatch):
    monkeypatch.setattr(interactive, "MOST_OBJECTS", 25)
    monkeypatch.setattr(interactive, "CLICKS", 1)
    known, data = store.images.annotated("heldout"), {}
    for split in ("labelled", "heldout", "pool"):
        path = Path(shutil.copy(known.images[0].path, tmp_path / f"{split}.png"))
        image = replace(known.images[0], file_name=path.name, path=path)
        data[split] = replace(known, images=[image], annotations=[] if split == "pool" else known.annotations)
    other = Store.create(tmp_path / "b", CampaignSettings(name="t"), data)
    done = train_interactive(other, "click", {"steps": 2, "threads": 1})
    assert done.ranker is not None and done.ranker == done.checkpoint.with_suffix(".npz")
    assert len(Ranker.load(done.ranker).iou) >= 25
    assert train_interactive(other, "click", {"steps": 2, "threads": 1}) == done
