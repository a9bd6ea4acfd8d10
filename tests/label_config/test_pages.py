"""Task data: it holds every key that its config asks for, and nothing breaks out of the markup."""

import json
import re

import pytest

from label_config import (
    Crop,
    Lesson,
    complete_data,
    correct_data,
    edit_data,
    load,
    page_data,
    paint_data,
    practice_data,
    single_data,
)

URL = "http://host/crops/x.jpg"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("verification", page_data("k", "nucleus", [Crop("1", URL)])),
        ("single", single_data("k", "nucleus", URL)),
        ("practice", practice_data("k", "nucleus", [Crop("1", URL)], [Lesson(False, "Too large.")])),
        ("correct", correct_data("k", "nucleus", URL)),
        ("edit", edit_data("k", "nucleus", URL)),
        ("paint", paint_data("k", URL)),
        ("complete", complete_data("k", URL)),
    ],
)
def test_data_holds_what_its_config_asks_for(name, data):
    config = load(name, ("nucleus",) if name in ("complete", "correct", "edit", "paint") else ())
    assert set(config.data_keys) <= set(data)
    assert data["key"] == "k" and json.loads(json.dumps(data)) == data


def test_crops_lie_as_the_keys_on_the_keyboard():
    data = page_data("k", "cell", [Crop(str(i), f"{URL}?{i}") for i in range(100, 115)])
    assert "".join(c["hotkey"] for c in data["crops"]) == "qwertasdfgzxcvb"
    assert (
        [c["value"] for c in data["crops"]] == [c["value"] for c in data["doubts"]] == [str(i) for i in range(100, 115)]
    )
    assert [c["hotkey"] for c in data["doubts"][:2]] == ["shift+q", "shift+w"]


def test_no_hotkey_of_a_crop_is_one_of_the_page():
    page = set(re.findall(r'hotkey="(.)"', load("verification").xml))
    assert page == set("hoiju") and not page & set("qwertasdfgzxcvb")


def test_pages_of_real_work_hold_no_lesson():
    crops = [Crop(str(i), URL) for i in range(15)]
    assert "lesson" not in json.dumps(page_data("k", "cell", crops)) + load("verification").xml
    taught = practice_data("k", "cell", crops, [Lesson(k > 3, "Too <large>.") for k in range(15)])
    assert [("cv-is-yes" in c["html"]) for c in taught["crops"]] == [k > 3 for k in range(15)]
    assert "Too &lt;large&gt;." in taught["crops"][0]["html"] and "Too" not in taught["crops"][5]["html"]


def test_a_sheet_is_loaded_in_place_of_crops_and_those_of_later_pages_ahead():
    crops = [Crop(str(i), f"{URL}?{i}") for i in range(15)]
    data = page_data("k", "cell", crops, sheet="http://h/s.jpg", ahead=["http://h/t.jpg", "http://h/u'.jpg"])
    loaded = {re.findall(r"<img class='cv-fill[^>]* src='([^']*)'", c["html"])[0] for c in data["crops"]}
    assert loaded == {"http://h/s.jpg"}
    assert re.findall(r"rel='prefetch' as='image' href='([^']*)'", data["rules"]) == [
        "http://h/t.jpg",
        "http://h/u&#x27;.jpg",
    ]


@pytest.mark.parametrize("ids", [[], range(16), [1, 2, 1]])
def test_a_page_of_no_too_many_or_doubled_masks_is_refused(ids):
    with pytest.raises(ValueError, match="page k: expected 1 to 15 different masks"):
        page_data("k", "cell", [Crop(str(i), URL) for i in ids])


def test_an_address_cannot_break_out_of_its_attribute():
    html = page_data("k", "cell", [Crop("1", "http://h/'><img src=x onerror='alert(1)")])["crops"][0]["html"]
    assert "'><img src=x" not in html and html.count("<img") == 3
