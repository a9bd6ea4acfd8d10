"""`evaluate` and `compare`: figures as text and JSON, and pages with pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.campaign.builders import finish, verify_store
from tests.campaign.cli.builders import campaign
from tests.campaign.dataset.test_evaluation import SIDE, box_mask, drawn, write


@pytest.fixture
def files(tmp_path):
    true, found = drawn(0)
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(tmp_path / "images" / "a.png")
    return write(tmp_path / "export.json", found), write(tmp_path / "truth.json", true)


def test_evaluation_with_pictures(files, tmp_path):
    done = campaign("evaluate", *files, "--json", "--html", tmp_path / "e.html")
    figures = json.loads(done.stdout)
    assert 0 < figures["precision"] < 1 and 0 < figures["recall"] < 1 and 0.5 <= figures["sq"] < 1
    assert set(figures["classes"]) == {"cell", "dot"}
    page = (tmp_path / "e.html").read_text()
    wrong = figures["masks"] - figures["correct"]
    assert page.count("<img ") >= min(wrong, 50) and "1 images were not found" in page
    assert "http" not in page  # it needs no network
    assert "all classes: precision" in campaign("evaluate", *files).stdout


def test_comparison_with_pictures(files, tmp_path):
    done = campaign("compare", *files, "--json", "--html", tmp_path / "c.html")
    figures = json.loads(done.stdout)
    pairs = figures["same"] + figures["moved"] + figures["renamed"]
    assert pairs + figures["gained"] == figures["second"] and pairs + figures["lost"] == figures["first"]
    page = (tmp_path / "c.html").read_text()
    kinds = ("gained", "lost", "moved", "renamed")
    assert page.count("<img ") == sum(min(figures[kind], 24) for kind in kinds) and "http" not in page
    same = json.loads(campaign("compare", files[0], files[0], "--json").stdout)
    assert [same[kind] for kind in kinds] == [0] * 4 and same["mean_iou"] == 1


def test_rounds_and_detectors_are_compared(tmp_path):
    store = verify_store(tmp_path / "a")
    finish(store)
    name = f"{store.folder}@1"
    figures = json.loads(campaign("compare", f"{name}/predictions", store.folder, "--json").stdout)
    assert figures["first"] == 160 and figures["gained"] == 0 and figures["lost"] == 160 - figures["second"] > 0
    figures = json.loads(campaign("compare", name, store.folder, "--json", "--html", tmp_path / "c.html").stdout)
    assert figures["same"] == figures["first"] == figures["second"] > 0
    done = campaign("compare", f"{store.folder}@7", store.folder)
    assert done.returncode == 1 and "@7: expected a round among 1, got 7" in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["none.json", "truth.json"], "none.json: expected a COCO file, got no such file"),
        (["export.json", "other.json"], "expected images that both have, by their file names, got none"),
        (["nan.json", "truth.json"], "annotation 1: expected a score that is a number, got nan"),
        (["export.json", "truth.json", "--html", "e.html", "--images", "none"], "none: expected a folder of images"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(files, tmp_path, args, message):
    write(tmp_path / "other.json", [(0, 0, box_mask(1, 1, 9, 9))], images=("c.png", "d.png"))
    write(tmp_path / "nan.json", [(0, 0, box_mask(1, 1, 9, 9), float("nan"))])
    done = campaign("evaluate", *(a if a.startswith("--") else tmp_path / a for a in args))
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "e.html").exists()
