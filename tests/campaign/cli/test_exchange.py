"""`export` and `convert`: what they print, and what they refuse in one line."""

import json

import pytest

from tests.campaign.builders import finish, verify_store
from tests.campaign.cli.builders import campaign


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    store = verify_store(tmp_path_factory.mktemp("a") / "a")
    finish(store)
    store.engine.dispose()
    return store.folder


def test_export_in_every_form(folder, tmp_path):
    whole = json.loads(campaign("export", folder, "--out", tmp_path / "e.json", "--json").stdout)
    assert whole["path"] == str(tmp_path / "e.json") and whole["masks"] > 0
    part = ["--classes", "cell", "--rounds", "1", "--min-score", "0.5", "--split", "0.5/0.5", "--polygons"]
    done = campaign("export", folder, "--out", tmp_path / "p.json", *part, "--json")
    said = json.loads(done.stdout)
    assert said["masks"] + said["left_out"] == whole["masks"] and sum(said["parts"].values()) == said["masks"]
    assert said["polygons"]["mean_iou"] == 1 and len(said["files"]) == 2
    done = campaign("export", folder, "--format", "yolo", "--out", tmp_path / "y", "--min-score", "0.5")
    assert "polygons keep an IoU of 1.0000 with their masks" in done.stdout
    assert {p.name for p in (tmp_path / "y").iterdir()} >= {"README.md", "card.json", "card.png"}
    assert {p.name for p in tmp_path.iterdir() if p.name.startswith("e.")} == {
        "e.json", "e.README.md", "e.card.json", "e.card.png",
    }  # fmt: skip
    done = campaign("export", folder, "--format", "parquet", "--no-card")
    assert done.returncode == 0 and (folder / "export.parquet").exists()


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["--format", "voc"], 2, "--format: expected coco, yolo or parquet, got voc"),
        (["--format", "yolo", "--polygons"], 2, "--polygons: expected --format coco, got yolo"),
        (["--rounds", "1,9"], 1, "rounds: expected some of 1, got 9"),
        (["--rounds", "one"], 2, "--rounds: expected numbers such as 1,2, got one"),
        (["--classes", "cell,nut"], 1, "classes: expected some of cell, dot, got nut"),
        (["--parts", ""], 1, "parts: expected class, or a number of images such as 100000, got"),
        (["--jobs"], 2, "--jobs: expected --parts with it"),
        (["--out", "s3://bucket/e.json"], 2, "--out: expected a path, or --jobs with it, got s3://bucket/e.json"),
        (["--jobs", "--parts", "class"], 1, "embedded Redis: expected `campaign run"),
        (["--split", "0.8"], 1, "split: expected two or three shares"),
    ],
)
def test_bad_options_are_one_line(folder, tmp_path, args, code, message):
    done = campaign("export", folder, "--out", tmp_path / "e", *args)
    assert done.returncode == code and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
