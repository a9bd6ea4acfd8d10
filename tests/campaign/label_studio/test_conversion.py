"""Any project as exact COCO, from the real Label Studio."""

import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from campaign.label_studio.client import Client
from campaign.label_studio.controls import mask_controls
from campaign.label_studio.conversion import convert, save
from campaign.label_studio.server import LabelStudioServer
from campaign.label_studio.source import parse_regions
from ml_backend.masks.brush import encode_brush
from tests.campaign.cli.builders import campaign
from tests.campaign.label_studio.test_source import (
    CONFIG,
    annotation,
    box,
    drawn,
    polygon,
    region,
    ring_and_dot,
)

ELLIPSE = '<EllipseLabels name="round" toName="img"><Label value="cell"/></EllipseLabels>'
XML = CONFIG.replace("</View>", f"{ELLIPSE}</View>")


def ellipse(x: float, y: float, a: float, b: float, rotation: float = 0) -> dict:
    return {
        "x": x * 100 / 64,
        "y": y * 100 / 48,
        "radiusX": a * 100 / 64,
        "radiusY": b * 100 / 48,
        "rotation": rotation,
    }


@pytest.mark.parametrize("rotation", [0, 90, 30])
def test_ellipses(rotation: float) -> None:
    (found,) = parse_regions(
        [region("round", "ellipselabels", ellipse(30, 24, 16, 8, rotation), "cell")], mask_controls(XML)
    )
    mask = mask_util.decode(found.rle)
    assert mask.sum() == pytest.approx(np.pi * 16 * 8, rel=0.02)
    y, x = np.nonzero(mask)
    assert (x.mean() + 0.5, y.mean() + 0.5) == pytest.approx((30, 24), abs=0.3)
    across, down = np.ptp(x) + 1, np.ptp(y) + 1
    if rotation == 30:  # clockwise on the screen: the long axis goes down to the right
        assert np.corrcoef(x, y)[0, 1] > 0.5
    else:
        assert (across, down) == ((32, 16) if rotation == 0 else (16, 32))


@pytest.mark.label_studio
def test_every_kind_of_region(
    label_studio: LabelStudioServer,
    label_studio_client: Client,
    web: str,
    tmp_path: Path,
) -> None:
    client = label_studio_client
    brush = region("brush", "brushlabels", {"format": "rle", "rle": encode_brush(ring_and_dot())}, "cell", id="b")
    tasks = [
        {"data": {"image": f"{web}/im0.png"}, "annotations": annotation(
            brush,
            region("poly", "polygonlabels", polygon((4, 4), (24, 4), (24, 20), (4, 20)), "nucleus", id="p"),
            region("box", "rectanglelabels", box(30, 4, 10, 16) | {"rectanglelabels": ["dirt", "cell"]}, None, id="r"),
            region("round", "ellipselabels", ellipse(30, 24, 16, 8), "cell", id="e"),
            region("quality", "choices", {"choices": ["good"]}, None, id="c"),
            region("box", "rectanglelabels", box(1, 1, 5, 5), "dirt", id="s", original_width=32, original_height=24),
            region("brush", "brushlabels", {"format": "rle", "rle": [1, 2, 3]}, "cell", id="torn"),
            {"type": "relation", "from_id": "b", "to_id": "p", "direction": "right"},
        )},
        {"data": {"image": f"{web}/im1.png"}, "annotations": [{"result": [brush], "was_cancelled": True}]},
        {"data": {"image": f"{web}/im2.png"}, "annotations": annotation()},
        {"data": {"image": f"{web}/im3.png"}},
        {"data": {"image": f"{web}/im4.png"}, "annotations": annotation(brush) * 2},
    ]  # fmt: skip
    project = client.request("POST", "api/projects/", body={"title": "Convert", "label_config": XML})["id"]
    made = client.request("POST", f"api/projects/{project}/import", params={"return_task_ids": "true"}, body=tasks)
    first, _, empty, _, last = made["task_ids"]
    result = convert(client, project)
    save(result, tmp_path / "coco.json")
    coco = COCO(str(tmp_path / "coco.json"))
    names = {row["id"]: row["name"] for row in coco.cats.values()}
    masks = {
        (a["image_id"], a["attributes"]["region"], names[a["category_id"]]): coco.annToMask(a)
        for a in coco.anns.values()
    }
    assert masks.keys() == {
        (first, "b", "cell"), (first, "p", "nucleus"), (first, "r", "dirt"), (first, "r", "cell"),
        (first, "e", "cell"), (last, "b", "cell"),
    }  # fmt: skip
    assert np.array_equal(masks[first, "b", "cell"], ring_and_dot())
    assert np.array_equal(masks[first, "p", "nucleus"], drawn(4, 4, 24, 20))
    assert np.array_equal(masks[first, "r", "dirt"], drawn(30, 4, 40, 20))
    assert [(i["id"], i["file_name"], i["width"], i["height"]) for i in coco.imgs.values()] == [
        (first, "im0.png", 64, 48), (last, "im4.png", 64, 48),
    ]  # fmt: skip
    said = result.as_dict()
    assert said["left_out"] == {
        "choices regions": 1, "malformed regions": 1, "regions of another size than their image": 1,
        "further annotations of a task": 1, "further labels of a region, each an annotation of its own": 1,
    }  # fmt: skip
    assert said["tasks_left_out"] == {
        "not annotated": 2, "annotated, but without a region that says how large the image is": 1,
    }  # fmt: skip
    assert len(said["malformed"]) == 1 and said["malformed"][0] == f"task {first} region torn"
    # With the images the empty one is kept too.
    done = campaign(
        "convert", "--label-studio", label_studio.url, "--project", project, "--to", tmp_path / "all.json",
        "--images", tmp_path / "folder", "--json", LABEL_STUDIO_API_KEY=label_studio.token,
    )  # fmt: skip
    assert json.loads(done.stdout)["images"] == 3, done.stderr
    whole = json.loads((tmp_path / "all.json").read_text())
    assert [i["id"] for i in whole["images"]] == [first, empty, last]
    assert all((tmp_path / "folder" / i["file_name"]).is_file() for i in whole["images"])


def test_without_a_token_one_line_says_so(tmp_path: Path) -> None:
    done = campaign("convert", "--label-studio", "http://127.0.0.1:9", "--project", 1, "--to", tmp_path / "c.json")
    assert done.returncode == 1 and "LABEL_STUDIO_API_KEY" in done.stderr and len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
