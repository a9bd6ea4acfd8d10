"""`evaluate` and `compare`: figures as text and JSON, and pages with pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.campaign.cli.builders import campaign
from tests.campaign.dataset.test_evaluation import SIDE, drawn, write


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


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["none.json", "truth.json"], "none.json: expected a COCO file, got no such file"),
        (["export.json", "truth.json", "--html", "e.html", "--images", "none"], "none: expected a folder of images"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(files, tmp_path, args, message):
    done = campaign("evaluate", *(a if a.startswith("--") else tmp_path / a for a in args))
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "e.html").exists()
