"""The data card of an export says what the export says, and nothing of the whole where it is a part."""

import hashlib
import json

import pytest

from campaign.dataset.choice import Choice
from campaign.report.card import card_data, write_card
from campaign.steps.export import export_campaign
from campaign.steps.export_files import Form, Format
from ml_backend.masks.coco import SourceFields
from tests.campaign.target_builders import Truth, finish, target_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = target_store(tmp_path_factory.mktemp("card") / "a", quality={"wage_per_hour": 30.0})
    store.images.save_fields(SourceFields(licenses=[{"id": 1, "name": "CC BY", "url": "https://example.com"}]))
    finish(store, Truth())
    return store


def test_the_card_of_the_whole(store, tmp_path):
    path = tmp_path / "e.json"
    exported = export_campaign(store, path)
    files = write_card(store, exported, path)
    assert [f.name for f in files] == ["e.card.json", "e.README.md", "e.card.png"]
    card, info = json.loads(files[0].read_text()), json.loads(path.read_text())["info"]
    assert card["precision"] == info["promise"] and card["masks_digest"] == info["masks_digest"]
    assert card["masks"] == len(exported.masks) == sum(c["masks"] for c in card["classes"].values())
    assert card["files"] == [
        {"name": "e.json", "bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    ]
    assert card["gold"]["right"] == card["gold"]["answers"] > 0 and card["models"] == {"1": "v1"}
    assert card["work"]["hours"] > 0 and card["work"]["cost"] == pytest.approx(30 * card["work"]["hours"], abs=0.02)
    for own in card["classes"].values():
        assert own["statistics"]["masks"] == own["masks"] == sum(own["sources"].values())
    text = files[1].read_text()
    assert info["promise"]["sentence"] in text and "CC BY: https://example.com" in text
    assert "![Density and position, against the labelled set](e.card.png)" in text
    assert files[2].read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("name", "said"), [("coco-results", "that learns nothing"), ("elsewhere", "learned from")])
def test_only_what_learns_is_said_to_have_learned(store, tmp_path, monkeypatch, name, said):
    monkeypatch.setattr(store.settings.detector, "name", name)
    text = card_data(store, export_campaign(store, tmp_path / "e.json"), {}, {})["method"]
    assert f"detector ({name}) {said}" in text


def test_the_card_of_a_part_promises_nothing(store, tmp_path):
    path = tmp_path / "y"
    exported = export_campaign(store, path, Choice(classes=("cell",)), Form(Format.YOLO))
    files = write_card(store, exported, path)
    assert files[1] == path / "README.md"
    card, text = json.loads(files[0].read_text()), files[1].read_text()
    assert card["precision"] is None and list(card["classes"]) == ["cell"] and card["polygons"]["mean_iou"] == 1
    assert "A part of the data set" in text and "with 95% confidence" not in text
    # Written again, the folder is its own.
    export_campaign(store, path, Choice(classes=("cell",)), Form(Format.YOLO))
