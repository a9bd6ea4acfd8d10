"""What the browser's requests say, and how they are answered."""

import math

import numpy as np
import pytest

from ml_backend.errors import InputError
from ml_backend.interactive.protocol import (
    MASK_ID,
    MOST_CLICKS,
    Names,
    answer_regions,
    label_of,
    names_of,
    read_said,
)
from ml_backend.masks.brush import decode_brush

NAMES = Names("mask", "image", "disc", "click", "outside", "message", "hint", "image", ("disc", "ring"))
NOW = 1_800_000_000_000


def point(x, y, name="a", control="click", **more):
    return {"id": name, "from_name": control, "type": "keypoint", "value": {"x": x, "y": y, "width": 0.5}, **more}


def box(x, y, w, h, name="r"):
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0}
    return {"id": name, "from_name": "box", "type": "rectangle", "value": value}


def clicks(*regions, **options):
    said = read_said(list(regions), 100, 200, NOW, **options)
    return [(c.x, c.y, c.positive) for c in said.clicks], said.notes


@pytest.mark.parametrize(
    ("region", "expected"),
    [
        (point(50, 25), [(100.0, 25.0, True)]),
        (point(50, 25, is_positive=False), [(100.0, 25.0, False)]),
        (point(50, 25, control="outside"), [(100.0, 25.0, False)]),
        (point(50, 25) | {"value": {"x": 50, "y": 25, "positive": False}}, [(100.0, 25.0, False)]),
        (point(50, 25) | {"type": "keypointlabels"}, [(100.0, 25.0, True)]),
        (point(0, 100), [(0.0, 100.0, True)]),
        (point(50, 25) | {"type": "brushlabels"}, []),
    ],
)
def test_both_spellings_of_the_sign_are_read(region, expected):
    assert clicks(region) == (expected, ())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -0.1, 100.1, 1e300, 10**400, "50", None, True, [50]])
def test_a_click_that_is_no_place_in_the_picture_is_left_out_and_said_so(bad):
    assert clicks(point(bad, 25), point(1, 1, "b")) == ([(2.0, 1.0, True)], ("outside the picture",))


@pytest.mark.parametrize("sides", [(10, 10, 0, 30), (10, 10, 0.01, 30), (200, 10, 5, 5), (math.nan, 1, 1, 1)])
def test_a_box_without_a_size_is_no_box(sides):
    said = read_said([box(*sides)], 100, 200, NOW)
    assert said.box is None
    assert said.notes == ("no box",)


def test_a_box_ends_at_the_picture():
    assert read_said([box(50, 50, 1e9, 80)], 100, 200, NOW).box == (100.0, 50.0, 200.0, 100.0)


def test_a_second_region_of_a_point_is_not_a_second_click():
    labels = point(50, 25) | {"type": "keypointlabels", "from_name": "labels"}
    assert len(clicks(point(50, 25), labels)[0]) == 1


def answered(said, mask=None):
    return [r for r in answer_regions(mask, said, NAMES, (100, 200), "text") if r["type"] == "keypoint"]


def test_what_was_answered_is_what_the_next_request_says():
    first = read_said([box(10, 10, 50, 50)], 100, 200, NOW)
    second = read_said([*answered(first), point(20, 20)], 100, 200, NOW + 10)
    third = read_said([*answered(second), point(30, 30, "b", is_positive=False)], 100, 200, NOW + 20)
    assert third.box == first.box == (20.0, 10.0, 120.0, 60.0)
    assert [(c.x, c.y, c.positive) for c in third.clicks] == [(40.0, 20.0, True), (60.0, 30.0, False)]
    # Undo takes the last answer's regions away; their order in the browser says nothing.
    undone = read_said([*reversed(answered(second)), point(40, 40, "c")], 100, 200, NOW + 30)
    assert [(c.x, c.positive) for c in undone.clicks] == [(40.0, True), (80.0, True)]
    assert not third.stale


def test_a_new_box_begins_anew_and_takes_the_old_points_away():
    first = read_said([point(50, 50)], 100, 200, NOW)
    boxed = read_said([box(10, 10, 50, 50)], 100, 200, NOW + 10)
    said = read_said([*answered(first), *answered(boxed), point(20, 20)], 100, 200, NOW + 20)
    assert [c.x for c in said.clicks] == [40.0]
    gone = [r["id"] for r in answered(said) if r.get("dynamic")]
    assert gone == [r["id"] for r in answered(first)]


def test_two_clicks_before_an_answer_both_count():
    assert [c[0] for c in clicks(point(10, 10), point(20, 20, "b"))[0]] == [20.0, 40.0]


def test_ten_thousand_clicks_are_as_many_as_count():
    many = [point(n % 100, n % 90, f"p{n}") for n in range(10_000)]
    said, notes = clicks(*many)
    assert (len(said), notes) == (MOST_CLICKS, ("too many",))
    assert len(clicks(*many, most=4)[0]) == 4


@pytest.mark.parametrize(
    "result", [None, {}, "text", [None, 1, "a"], [{"type": "keypoint"}], [point(1, 1, name=["a"])]]
)
def test_a_malformed_result_says_what_can_be_made_of_it(result):
    assert len(read_said(result, 100, 200, NOW).clicks) <= 1


@pytest.mark.parametrize("name", ["click-99999999999999-0", "click-1-0", "box-1800000000000-7", "click-x-0"])
def test_forged_names_of_points_are_clicks_like_any(name):
    assert len(read_said([point(10, 10, name)], 100, 200, NOW).clicks) == 1


def test_the_mask_replaces_the_one_before_exactly():
    mask = np.zeros((100, 200), bool)
    mask[10:60, 20:90] = True
    mask[20:30, 30:40] = False
    said = read_said([point(50, 25)], 100, 200, NOW)
    region, *_, text = answer_regions(mask, said, NAMES, (100, 200), "text")
    assert region["id"] == MASK_ID
    assert (decode_brush(region["value"]["rle"], 100, 200) == mask).all()
    assert text["value"] == {"text": ["text"]}


def test_a_config_is_read_for_its_controls():
    xml = (
        '<View><Image name="i" value="$img"/><BrushLabels name="b" toName="i"><Label value="Car"/><Label value="Bus"/>'
        '</BrushLabels><KeyPointLabels name="k" toName="i" smart="true"><Label value="Bus"/></KeyPointLabels></View>'
    )
    names = names_of(xml)
    assert (names.mask, names.image, names.data_key, names.keeps_points) == ("b", "i", "img", False)
    assert label_of([{"value": {"keypointlabels": ["Bus"]}}], names) == "Bus"
    assert label_of([{"value": {"keypointlabels": ["Truck"]}}], names) == "Car"
    said = read_said([point(50, 25)], 100, 200, NOW)
    [one], [two] = (answer_regions(np.ones((100, 200), bool), said, names, (100, 200)) for _ in range(2))
    assert one["id"] != two["id"]  # several objects of an image are told apart
    with pytest.raises(InputError, match="BrushLabels"):
        names_of('<View><Image name="i" value="$img"/></View>')
