"""A pool that grows: new images are detected once, by the round that takes them, and bad input changes nothing."""

import json

import numpy as np
import pytest
from PIL import Image

from campaign.derived.duplicates import NONE, duplicates
from campaign.settings import CampaignSettings
from campaign.steps import detect as detection
from campaign.steps.export import export_campaign
from campaign.steps.extend import Extended, Taking, extend_from_file
from campaign.steps.rounds import due, progress_of, run_step
from campaign.store import Store
from campaign.store.values import Key
from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset
from ml_backend.predictions import Predictions

CATEGORIES = [{"id": 1, "name": "cell"}]


class One:
    """One mask on each image."""

    def predict(self, images):
        for image in images:
            yield Predictions(
                [0], [image.id], [1], [[0, 0, 2, 2]], np.array([b"02"], object), [[6, 8]], [0.5], [1.0], [[1.0]]
            )


def files(folder, ids, categories=CATEGORIES):
    """A COCO file of images with these ids, each a file of its own."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = [{"id": n, "file_name": f"{n}.png", "width": 8, "height": 6, "license": n} for n in ids]
    for row in rows:
        Image.new("RGB", (8, 6)).save(folder / "images" / row["file_name"])
    (folder / "pool.json").write_text(json.dumps({"images": rows, "categories": categories}))
    return folder / "images", folder / "pool.json"


@pytest.fixture
def store(tmp_path, monkeypatch):
    """A campaign over five images, in shards of two."""
    monkeypatch.setattr(detection, "load_checkpoint", lambda name, checkpoint: One())
    images, pool = files(tmp_path / "first", range(1, 6))
    settings = CampaignSettings(name="t", jobs={"shard_images": 2}, rounds={"rounds": 3})
    made = Store.create(tmp_path / "c", settings, {"pool": CocoDataset.load(pool, images)})
    made.rounds.start(1, "detect")
    made.rounds.update(1, checkpoint="none")
    return made


def detect_all(store, number):
    while steps := [s for s in due(progress_of(store)) if s.name == "detect"]:
        run_step(store, "detect", number, *steps[0].args)
    return sorted(store.masks.predictions(number, "pool").image_id.tolist())


def test_the_running_round_takes_images_while_it_detects(store, tmp_path):
    run_step(store, "detect", 1, "pool", 0, 3)
    assert extend_from_file(store, *files(tmp_path / "more", [7, 9, 8])) == Extended(3, 1)
    assert [s.args for s in due(progress_of(store))] == [("pool", 3, 4), ("pool", 4, 5)]
    assert detect_all(store, 1) == list(range(1, 9))
    assert store.images.ids("pool", "coco_id").tolist() == [1, 2, 3, 4, 5, 7, 9, 8]


@pytest.mark.parametrize(
    ("stage", "taking"),
    [("detect", Taking.NEXT), ("cluster", Taking.DETECTION), ("verify", Taking.DETECTION), ("verify", Taking.NEXT)],
)
def test_else_the_next_round_does(store, tmp_path, stage, taking):
    assert detect_all(store, 1) == [1, 2, 3, 4, 5]
    store.rounds.update(1, stage=stage)
    assert extend_from_file(store, *files(tmp_path / "more", [7, 8]), taking=taking) == Extended(2, 2)
    assert [s.name for s in due(progress_of(store))] == {
        "detect": ["assess"], "cluster": ["gather"], "verify": ["sync"]
    }[stage]  # fmt: skip
    store.rounds.update(1, stage="done")
    store.rounds.start(2, "detect")
    store.rounds.update(2, checkpoint="none")
    assert detect_all(store, 2) == list(range(1, 8))


def test_copies_among_new_images_are_found(store, tmp_path):
    detect_all(store, 1)
    known = duplicates(store).copy_of
    assert known == {n: 1 for n in range(2, 6)}, "they are of one colour"
    images, pool = files(tmp_path / "more", [7, 8])
    Image.new("RGB", (8, 6), "red").save(images / "8.png")
    assert extend_from_file(store, images, pool) == Extended(2, 1)
    store.rounds.update(1, stage="done")
    store.rounds.start(2, "detect")
    store.rounds.update(2, checkpoint="none")
    detect_all(store, 2)
    assert duplicates(store).copy_of == known | {6: 1}


def test_where_nothing_was_signed_nothing_is_later(store, tmp_path):
    """A release that did not sign images has detected the first round."""
    detect_all(store, 1)
    for file in (store.folder / "signatures").iterdir():
        file.unlink()
    store.rounds.update(1, stage="done")
    extend_from = files(tmp_path / "more", [7])
    store.rounds.start(2, "detect")
    store.rounds.update(2, checkpoint="none")
    extend_from_file(store, *extend_from)
    detect_all(store, 2)
    assert duplicates(store) is NONE


def test_an_export_names_new_images_and_what_is_said_of_them(store, tmp_path):
    extend_from_file(store, *files(tmp_path / "more", [9, 8]))
    export_campaign(store, tmp_path / "export.json")
    rows = json.loads((tmp_path / "export.json").read_text())["images"]
    assert [(row["id"], row["license"]) for row in rows] == [(n, n) for n in [1, 2, 3, 4, 5, 9, 8]]


def facts(key):
    return lambda store: store.values.set(key, {"any": 1})


REFUSED = {
    "no image": ([], CATEGORIES, None, "expected"),
    "an id of the pool": ([7, 3], CATEGORIES, None, "expected an id that no image of the pool has, got 3"),
    "an id twice": ([7, 7], CATEGORIES, None, "expected a file that is not in the pool|expected unique ids"),
    "other classes": ([7], [{"id": 1, "name": "dot"}], None, "categories: expected {1: 'cell'}, got {1: 'dot'}"),
    "a promise": ([7], CATEGORIES, facts(Key.PROMISE), "got one whose masks carry a promise"),
    "a search for what is missing": ([7], CATEGORIES, facts(Key.COMPLETENESS), "got one that was searched"),
    "the end": ([7], CATEGORIES, lambda s: s.rounds.update(1, stage="done"), "a round to come"),
}


@pytest.mark.parametrize(("ids", "categories", "before", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_leaves_the_pool_as_it_was(store, tmp_path, ids, categories, before, message):
    if before:
        before(store)
    kept = store.images.batches(), (store.folder / "pool-image-fields.jsonl").read_text()
    with pytest.raises(InputError, match=message) as error:
        extend_from_file(store, *files(tmp_path / "more", ids, categories))
    assert len(str(error.value).splitlines()) == 1
    assert store.images.count("pool") == 5
    assert (store.images.batches(), (store.folder / "pool-image-fields.jsonl").read_text()) == kept


def test_a_file_of_the_pool_is_refused_under_another_name(store, tmp_path):
    images, pool = files(tmp_path / "first", [8])
    (images / "8.png").unlink()
    (images / "8.png").symlink_to(images / "3.png")
    with pytest.raises(InputError, match="expected a file that is not in the pool"):
        extend_from_file(store, images, pool)
