"""Images that are there twice are counted once: in trees, in status, in the export and its parts."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from campaign.dataset.choice import Division
from campaign.derived.duplicates import duplicate_counts, duplicates
from campaign.derived.status import status
from campaign.report import render_report, report_data
from campaign.report.card import write_card
from campaign.settings import CampaignSettings
from campaign.steps.cluster import cluster
from campaign.steps.detect import assess
from campaign.steps.export import export_campaign
from campaign.steps.export_files import Form
from campaign.steps.looking import sign
from campaign.steps.replay import replay
from campaign.store import Store
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions
from tests.campaign.dataset.test_duplicates import SIZE, encoded, picture

CLASSES = {1: "cell"}
# Of the pool: the original, its copy, it saved again, a copy of the labelled image, and one that stands alone.
NAMES = ["a", "copy-of-a", "a-again", "copy-of-labelled", "b"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twice")
    for n, name in enumerate(["labelled", "a", "b"]):
        Image.fromarray(picture(n)).save(folder / f"{name}.png")
    shutil.copy(folder / "a.png", folder / "copy-of-a.png")
    shutil.copy(folder / "labelled.png", folder / "copy-of-labelled.png")
    Image.fromarray(encoded(picture(1), 80)).save(folder / "a-again.png")

    def data(names):
        records = [ImageRecord(n, f"{i}.png", SIZE, SIZE, folder / f"{i}.png") for n, i in enumerate(names, 1)]
        return CocoDataset(records, CLASSES)

    settings = CampaignSettings(name="twice", search={"policy": "paper", "k_pr": 0.0, "k_pa": 0.0})
    store = Store.create(folder / "c", settings, {"labelled": data(["labelled"]), "pool": data(NAMES)})
    store.rounds.start(1, "detect")
    pool = store.images.records("pool")
    sign(store, "pool", 0, pool)
    mask = np.zeros((SIZE, SIZE), np.uint8, order="F")
    mask[10:40, 10:40] = 1
    rle = np.empty(2 * len(pool), object)
    rle[:] = [mask_util.encode(np.roll(mask, 60 * (n % 2), axis=0))["counts"] for n in range(len(rle))]
    ids = np.repeat([i.id for i in pool], 2)
    n = len(ids)
    box = np.array([[10, 10 + 60 * (i % 2), 30, 30] for i in range(n)])
    features = np.random.default_rng(0).normal(size=(n, 4))
    shown = Predictions(
        np.arange(n), ids, np.ones(n), box, rle, np.full((n, 2), SIZE), np.full(n, 0.9), np.ones(n), features
    )
    store.masks.save_shard(1, "pool", 0, shown, len(pool), 0.0)
    assess(store, 1)
    cluster(store, 1, 1)
    store.rounds.update(1, stage="verify")
    return store


def test_copies_and_near_duplicates_are_found_once_all_images_were_looked_at(store):
    by_name = {i.file_name: i.id for i in store.images.records()}
    found = duplicates(store)
    assert found.copy_of == {
        by_name["copy-of-a.png"]: by_name["a.png"], by_name["copy-of-labelled.png"]: by_name["labelled.png"],
    }  # fmt: skip
    assert found.alike.tolist() == [[by_name["a.png"], by_name["a-again.png"]]]
    assert duplicate_counts(store) == {"images": 6, "copies": 2, "alike": 2, "known": 1}
    assert any("2 of 6 images are copies of others" in e.text for e in store.events())


def test_a_replay_finds_them_again(store):
    before = duplicate_counts(store)
    replay(store)
    assert before is not None and duplicate_counts(store) == before


def test_masks_on_copies_are_in_no_tree(store):
    images = store.masks.read(store.trees.mask_ids(1, 1)).image_id
    assert sorted(set(images.tolist())) == sorted(
        i.id for i in store.images.records("pool") if not i.file_name.startswith("copy")
    )


def test_status_report_and_card_count_them(store, tmp_path):
    assert status(store)["duplicates"]["copies"] == 2
    assert "2 of 6 images are copies of others, 1 of them of annotated ones" in render_report(report_data(store))
    exported = export_campaign(store, tmp_path / "out.json", form=Form(division=Division.parse("0.5/0.5", "k")))
    names = [i["file_name"] for i in exported.images]
    assert sorted(names) == ["a-again.png", "a.png", "b.png"]
    assert exported.info["duplicates"]["copy_of"] == {"copy-of-a.png": "a.png", "copy-of-labelled.png": "labelled.png"}
    card = write_card(store, exported, tmp_path / "out.json")
    assert json.loads(card[0].read_text())["duplicates"]["alike"] == 2 and "copies of others" in card[1].read_text()


@pytest.mark.parametrize("key", ["k", "l", "m", "n", "o"])
def test_images_that_show_the_same_are_kept_in_one_part(store, tmp_path, key):
    export_campaign(store, tmp_path / "out.json", form=Form(division=Division.parse("0.5/0.5", key)))
    parts = {p.stem: {i["file_name"] for i in json.loads(p.read_text())["images"]} for p in tmp_path.glob("out*.json")}
    assert any({"a.png", "a-again.png"} <= names for names in parts.values())


def test_nothing_is_said_where_no_image_was_looked_at(tmp_path):
    picture_file = tmp_path / "a.png"
    Image.fromarray(picture(0)).save(picture_file)
    pool = CocoDataset([ImageRecord(1, "a.png", SIZE, SIZE, picture_file)], CLASSES)
    store = Store.create(tmp_path / "c", CampaignSettings(name="t"), {"pool": pool})
    assert duplicate_counts(store) is None and duplicates(store).copy_of == {} and status(store)["duplicates"] is None
