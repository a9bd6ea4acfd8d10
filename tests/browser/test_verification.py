"""The verification page as an annotator uses it: by keyboard, by mouse, on three screens."""

import os
import random

import pytest

import label_config
from tests.browser.conftest import annotations, chosen

pytestmark = [pytest.mark.label_studio, pytest.mark.browser]

KEYS = label_config.HOTKEYS
CROP = ".cv-crop img.cv-fill"


def pages(crops, number: int, rules: str = "") -> list[dict]:
    """Tasks of 15 masks each."""
    ids = [1000 + i % 150 for i in range(15 * number)]
    return [
        {
            "data": label_config.page_data(
                f"p{n}",
                "disc",
                [label_config.Crop(str(i), crops.crop(i)) for i in ids[15 * n : 15 * n + 15]],
                rules=rules,
            )
        }
        for n in range(number)
    ]


@pytest.fixture
def project(make_project, crops):
    """A verification project of so many pages."""
    xml = label_config.load("verification").xml
    return lambda number, **more: make_project(xml, pages(crops, number, **more))


def wait_for_page(screen, crops_of: dict) -> None:
    """Until every crop of this page is drawn: what a person waits for."""
    screen.wait_for(
        """values => { const found = [...document.querySelectorAll('.cv-wrong input')].map(i => i.name);
        const images = [...document.querySelectorAll('.cv-crop img.cv-fill')];
        return values.every((v, i) => found[i] === v) && images.every(i => i.complete && i.naturalWidth > 0) }""",
        [c["value"] for c in crops_of["crops"]],
    )


# More of them where it is asked for: CAMPAIGN_PAGES=200.
PAGES = int(os.environ.get("CAMPAIGN_PAGES", "20"))


@pytest.mark.parametrize(("number", "milliseconds"), [(PAGES, 100), (PAGES // 2, 250), (PAGES // 4, 500)])
def test_every_verdict_is_the_one_meant(screen, project, crops, label_studio_client, number, milliseconds):
    tasks = pages(crops, number)
    project_id = project(number)
    rng = random.Random(milliseconds)
    screen.open(project_id, CROP)
    meant = {}
    for task in tasks:
        wait_for_page(screen, task["data"])
        wrong = [i for i in range(15) if rng.random() < 0.15]
        doubt = [i for i in range(15) if i not in wrong and rng.random() < 0.03]
        unsure = rng.random() < 0.1
        presses = [KEYS[i] for i in wrong] + [f"Shift+{KEYS[i].upper()}" for i in doubt] + ["u"] * unsure
        rng.shuffle(presses)
        for key in [*presses, " "]:
            screen.page.keyboard.press("Space" if key == " " else key)
            screen.page.wait_for_timeout(milliseconds)
        values = [c["value"] for c in task["data"]["crops"]]
        meant[task["data"]["key"]] = (
            {values[i] for i in wrong},
            {values[i] for i in doubt},
            "unsure" if unsure else "reviewed",
        )
    screen.wait_until_all_is_answered()
    stored = {}
    for key, [annotation] in annotations(label_studio_client, project_id).items():
        answer = chosen(annotation)
        stored[key] = (set(answer.get("wrong", [])), set(answer.get("doubt", [])), answer["status"][0])
    assert stored == meant


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (1280, 720), (1920, 1080), (1024, 768), (820, 1180)])
def test_all_crops_are_on_screen_without_scrolling(screen, project, width, height):
    screen.page.set_viewport_size({"width": width, "height": height})
    screen.open(project(1), CROP)
    screen.keep(f"verification-{width}x{height}")
    boxes = screen.page.eval_on_selector_all(
        ".cv-crop", "all => all.map(e => { const r = e.getBoundingClientRect(); return [r.x, r.y, r.right, r.bottom] })"
    )
    bar = screen.page.locator(".lsf-bottombar").bounding_box()
    assert len(boxes) == 15
    assert all(x >= 0 and y >= 48 and right <= width and bottom <= bar["y"] + 1 for x, y, right, bottom in boxes)
    assert min(right - x for x, _, right, _ in boxes) >= 180
    held = ["document.documentElement", "document.querySelector('.lsf-main-content')"]
    for part in held:
        assert screen.page.evaluate(f"{part}.scrollHeight - {part}.clientHeight") <= 0
        assert screen.page.evaluate(f"{part}.scrollWidth - {part}.clientWidth") <= 0
    assert screen.errors == [] and screen.outside() == []


def test_pictures_of_other_views_are_loaded_only_when_asked_for(screen, project):
    screen.open(project(1), CROP)
    crops = [u for u in screen.asked if "/crops/" in u]
    assert len(crops) == 15 and not any("?" in u for u in crops)
    screen.page.keyboard.press("o")
    assert screen.asked_for("view=image", 15) == 15
    screen.keep("verification-whole-image")
    screen.page.keyboard.press("o")
    screen.page.keyboard.press("h")
    assert screen.asked_for("fill=0", 15) == 15


def test_the_mouse_and_a_finger_do_as_the_keys_do(screen, project, label_studio_client):
    project_id = project(1)
    screen.open(project_id, CROP)
    screen.page.locator(".cv-crop").nth(4).click(position={"x": 90, "y": 120})
    screen.page.locator(".cv-crop").nth(6).click(position={"x": 90, "y": 120})
    screen.page.locator(".cv-crop").nth(6).click(position={"x": 90, "y": 120})
    screen.page.locator(".cv-doubt .cv-mark").nth(8).click()
    screen.keep("verification-answered")
    screen.page.get_by_role("button", name="Submit").first.click()
    screen.wait_until_all_is_answered()
    [[annotation]] = annotations(label_studio_client, project_id).values()
    assert chosen(annotation) == {"status": ["reviewed"], "wrong": ["1004"], "doubt": ["1008"]}


def test_the_whole_image_opens_without_answering(screen, project):
    screen.open(project(1), CROP)
    with screen.page.context.expect_page() as opened:
        screen.page.locator(".cv-crop a").nth(2).click()
    assert "view=image" in opened.value.url
    assert screen.page.locator(".cv-wrong input:checked").count() == 0


def test_rules_and_instructions_are_a_key_or_click_away(screen, make_project, crops):
    texts = label_config.Instructions()
    xml = label_config.load("verification").xml
    tasks = pages(crops, 1, rules=texts.class_html("disc"))
    project_id = make_project(xml, tasks, expert_instruction=texts.project_html(), show_instruction=True)
    screen.open(project_id, ".cv-crop, .ant-modal")
    guide = screen.page.get_by_text("How it works").first
    guide.wait_for()
    screen.keep("instructions")
    screen.page.keyboard.press("Escape")
    guide.wait_for(state="hidden")
    rules = screen.page.locator(".cv-rules")
    assert not rules.is_visible()
    screen.page.keyboard.press("i")
    rules.wait_for()
    assert rules.get_by_text("When is a mask correct?").is_visible()
    screen.keep("verification-rules")
    screen.page.keyboard.press("i")
    rules.wait_for(state="hidden")


def test_the_last_page_is_called_back_and_changed(screen, project, crops, label_studio_client):
    project_id = project(3)
    screen.open(project_id, CROP)
    tasks = pages(crops, 3)
    screen.page.keyboard.press("w")
    screen.page.keyboard.press("Space")
    wait_for_page(screen, tasks[1]["data"])
    screen.page.get_by_label("Previous task").click()
    wait_for_page(screen, tasks[0]["data"])
    screen.wait_for("() => document.querySelector('.cv-wrong input:checked')")
    for key in ("w", "e"):
        screen.page.keyboard.press(key)
    with screen.page.expect_response(lambda r: "/api/annotations/" in r.url and r.request.method == "PATCH"):
        screen.page.keyboard.press("Space")
    [annotation] = annotations(label_studio_client, project_id)["p0"]
    assert chosen(annotation) == {"status": ["reviewed"], "wrong": ["1002"]}
    screen.page.get_by_label("Next task").click()
    wait_for_page(screen, tasks[1]["data"])
    assert annotations(label_studio_client, project_id)["p1"] == []


def test_a_page_is_one_picture_and_the_next_ones_are_loaded_ahead(screen, make_project, crops):
    tasks = [
        page | {"data": sheet_data(crops, number)} for number, page in enumerate(pages(crops, 3), 1)
    ]  # as they are published
    project_id = make_project(label_config.load("verification").xml, tasks)
    screen.open(project_id, CROP)
    assert screen.asked_for("/sheets/", 3) == 3 and not any("/crops/" in u for u in screen.asked)
    screen.keep("verification-sheet")
    shown = screen.page.eval_on_selector_all(
        CROP,
        """all => all.map(e => { const r = e.getBoundingClientRect(), c = e.parentElement.getBoundingClientRect();
        return [(c.x - r.x) / c.width, (c.y - r.y) / c.height, r.width / c.width] })""",
    )
    assert [[round(v) for v in place] for place in shown] == [[k % 5, k // 5, 5] for k in range(15)]
    screen.page.keyboard.press("h")
    assert screen.asked_for("fill=0", 1) == 1
    screen.page.keyboard.press("h")
    crops.served.clear()
    screen.page.keyboard.press("Space")
    wait_for_page(screen, tasks[1]["data"])
    screen.page.wait_for_load_state("networkidle")
    screen.page.wait_for_timeout(500)
    assert len(crops.served) <= 1, f"the pictures of this page and the next one are in the browser: {crops.served}"


def sheet_data(crops, number: int) -> dict:
    masks = crops.scene.page(number)
    shown = [label_config.Crop(str(i), crops.crop(i)) for i in masks]
    ahead = [crops.sheet(number + n) for n in (1, 2)]
    return label_config.page_data(f"p{number}", "disc", shown, sheet=crops.sheet(number), ahead=ahead)


def test_a_page_of_three_masks_is_answered_too(screen, make_project, crops, label_studio_client):
    few = [label_config.Crop(str(i), crops.crop(i)) for i in (1003, 1004, 1005)]
    project_id = make_project(
        label_config.load("verification").xml, [{"data": label_config.page_data("p", "disc", few)}]
    )
    screen.open(project_id, CROP)
    for key in ("w", "a", "Space"):  # there is no crop on A
        screen.page.keyboard.press(key)
    screen.wait_until_all_is_answered()
    [[annotation]] = annotations(label_studio_client, project_id).values()
    assert chosen(annotation) == {"status": ["reviewed"], "wrong": ["1004"]}
