"""Results for Label Studio: the right control, label and geometry for every config."""

import numpy as np
import pytest
from pycocotools import mask as mask_util

from ml_backend.errors import InputError
from ml_backend.masks.brush import decode_brush
from ml_backend.masks.coco import ImageRecord
from ml_backend.masks.regions import LabelMap, polygons, to_prediction
from tests.ml_backend.bright_objects import SPOTS, BrightObjects, draw_spots


def config(kind: str, labels: str = '<Label value="apple"/><Label value="Pear"/>', attributes: str = "") -> str:
    return (
        f'<View><Image name="img" value="$photo"/><{kind} name="tag" toName="img" {attributes}>{labels}</{kind}></View>'
    )


@pytest.fixture
def found(tmp_path):
    record = ImageRecord(1, "a.png", 100, 80, draw_spots(tmp_path / "a.png"))
    return next(BrightObjects().predict([record]))


def predict(found, xml: str) -> dict:
    return to_prediction(found, {0: "apple", 1: "pear"}, LabelMap.parse(xml), 80, 100, "v1")


def test_brush_regions_are_exact(found):
    prediction = predict(found, config("BrushLabels"))
    assert prediction["model_version"] == "v1" and prediction["score"] == pytest.approx(float(found.score.mean()))
    for region, rle in zip(prediction["result"], found.rles(), strict=True):
        assert (region["from_name"], region["to_name"], region["type"]) == ("tag", "img", "brushlabels")
        assert (region["original_width"], region["original_height"]) == (100, 80)
        assert region["value"]["format"] == "rle"
        assert (decode_brush(region["value"]["rle"], 80, 100) == mask_util.decode(rle)).all()
    assert [r["value"]["brushlabels"] for r in prediction["result"]] == [["apple"], ["apple"], ["Pear"]]
    assert len({r["id"] for r in prediction["result"]}) == 3


def test_rectangles_are_in_percent(found):
    values = [r["value"] for r in predict(found, config("RectangleLabels"))["result"]]
    got = sorted((v["x"], v["y"] * 0.8, v["width"], v["height"] * 0.8) for v in values)
    assert np.allclose(got, sorted(box for _, box in SPOTS)) and values[0]["rotation"] == 0


def test_polygons_run_along_the_edges_of_pixels(found):
    for region in predict(found, config("PolygonLabels"))["result"]:
        corners = {(round(x, 6), round(y * 0.8, 6)) for x, y in region["value"]["points"]}
        assert any(corners == {(x, y), (x + w, y), (x, y + h), (x + w, y + h)} for _, (x, y, w, h) in SPOTS)


def test_each_part_is_a_polygon_and_holes_are_lost():
    mask = np.zeros((40, 60), bool)
    mask[5:20, 5:20] = True
    mask[9:12, 9:12] = False
    mask[25:35, 40:55] = True
    assert len(polygons(mask_util.encode(np.asfortranarray(mask.astype(np.uint8))))) == 2


@pytest.mark.parametrize("seed", range(5))
def test_a_polygon_keeps_close_to_its_mask(seed):
    from scipy import ndimage

    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((120, 160)), 8)
    mask = ndimage.binary_fill_holes(noise > 0.02)
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    parts = [[c for x, y in part for c in (x * 1.6, y * 1.2)] for part in polygons(rle)]
    back = mask_util.decode(mask_util.merge(mask_util.frPyObjects(parts, 120, 160))).astype(bool)
    assert (back & mask).sum() / (back | mask).sum() > 0.95


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ('<Label value="apple"/>', ["apple", "apple"]),
        ('<Label value="APPLE"/>', ["APPLE", "APPLE"]),
        ('<Label value="fruit" predicted_values="apple, pear"/>', ["fruit", "fruit", "fruit"]),
        ('<Label value="fruit" predicted_values="pear"/><Label value="apple"/>', ["apple", "apple", "fruit"]),
        ('<Label value="apple"/><Label value="red" predicted_values="apple"/>', ["red", "red"]),
        ('<Label value="x" alias="pear"/>', ["pear"]),
        ('<Label value="apple" alias="A1"/><Label value="Pear" alias="P1"/>', ["A1", "A1", "P1"]),
        ('<Label value="other" alias="apple"/><Label value="apple" alias="A1"/>', ["apple", "apple"]),
        ('<Label value="banana"/>', []),
    ],
)
def test_labels_are_found_by_predicted_values_then_by_name(found, labels, expected):
    prediction = predict(found, config("BrushLabels", labels))
    assert [r["value"]["brushlabels"][0] for r in prediction["result"]] == expected
    assert (prediction["score"] > 0) == bool(expected)


def test_a_label_in_several_controls_is_answered_in_the_most_exact(found):
    xml = (
        '<View><Image name="img" value="$photo"/>'
        '<RectangleLabels name="r" toName="img"><Label value="apple"/><Label value="pear"/></RectangleLabels>'
        '<BrushLabels name="b" toName="img"><Label value="apple"/></BrushLabels></View>'
    )
    assert [(r["type"], r["from_name"]) for r in predict(found, xml)["result"]] == [
        ("brushlabels", "b"),
        ("brushlabels", "b"),
        ("rectanglelabels", "r"),
    ]


def test_masks_below_the_threshold_of_the_control_are_left_out(found):
    prediction = predict(found, config("BrushLabels", attributes='model_score_threshold="0.6"'))
    assert len(prediction["result"]) == 2 and all(r["score"] >= 0.6 for r in prediction["result"])


def test_the_key_of_the_image_is_found():
    assert LabelMap.parse(config("BrushLabels")).data_key == "photo"


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<View",
        "<View>\ud800</View>",
        "<View>" + "<a/>" * 300_000 + "</View>",
        '<View><Text name="t" value="$t"/></View>',
        '<View><Image name="img" value="$photo"/></View>',
        '<View><Text name="t" value="$t"/><BrushLabels name="b" toName="t"><Label value="a"/></BrushLabels></View>',
    ],
)
def test_a_config_without_labels_on_an_image_is_refused(xml):
    with pytest.raises(InputError, match="labeling config: expected"):
        LabelMap.parse(xml)
