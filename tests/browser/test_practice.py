"""A practice page in Chromium: what was right is shown when it is asked for, and only then."""

import pytest

import label_config
from label_config import Crop, Lesson
from tests.browser.conftest import annotations

pytestmark = [pytest.mark.label_studio, pytest.mark.browser]

WHY = "Too large: 38 % of the mask lies beside the object."
SHOWN = """() => [...document.querySelectorAll('.cv-wrong .cv-lesson')].map(e => e.innerText.trim())"""


def test_a_page_says_what_was_right_once_it_is_asked(screen, make_project, crops, label_studio_client):
    ids = range(1000, 1015)
    lessons = [Lesson(i % 2 == 0, "" if i % 2 == 0 else WHY) for i in ids]
    tasks = [
        {"data": label_config.practice_data(key, "disc", [Crop(str(i), crops.crop(i)) for i in ids], lessons)}
        for key in ("p", "q")
    ]
    project = make_project(label_config.load("practice").xml, tasks)
    screen.open(project, ".cv-crop img.cv-fill")
    for key in ("w", "e", "Shift+R", "Shift+T"):  # right, not right, and unsure about one of each
        screen.page.keyboard.press(key)
    assert not any(screen.page.locator(".cv-lesson").nth(k).is_visible() for k in range(15))
    screen.page.keyboard.press("Space")
    screen.page.get_by_text("Press J first").wait_for()
    screen.page.get_by_role("button", name="OK").click()
    assert annotations(label_studio_client, project)["p"] == []

    screen.page.keyboard.press("j")
    screen.page.locator(".cv-lesson").first.wait_for()
    screen.keep("practice-answers")
    said = screen.page.evaluate(SHOWN)
    assert said[:6] == [
        "✓ Right The mask is correct.", f"✓ Right {WHY}", "✗ Not right The mask is correct.", f"? Unsure {WHY}",
        "? Unsure The mask is correct.", f"✗ Not right {WHY}",
    ]  # fmt: skip
    screen.page.mouse.click(*centre(screen.page.locator(".cv-crop").nth(10)))
    assert screen.page.locator(".cv-wrong input:checked").count() == 2, "a click changes nothing any more"
    screen.page.keyboard.press("Space")
    screen.page.wait_for_function("() => !document.querySelector('.cv-status input:checked')")
    assert not any(screen.page.locator(".cv-lesson").nth(k).is_visible() for k in range(15)), "the next page hides them"
    assert len(annotations(label_studio_client, project)["p"]) == 1
    assert screen.outside() == []


def centre(element) -> tuple[float, float]:
    box = element.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
