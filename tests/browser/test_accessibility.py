"""Who cannot see colours, uses a screen reader, a tablet or less motion answers pages too."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import label_config
from campaign.report import render_report, report_data
from label_config import Crop, Lesson
from tests.browser.conftest import annotations, chosen
from tests.browser.test_lead import address, store  # noqa: F401
from tests.browser.test_verification import CROP, pages, sheet_data

AXE = Path(sys.prefix) / "axe" / "node_modules" / "axe-core" / "axe.min.js"
SERIOUS = {"serious", "critical"}

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.exists():
        pytest.skip("needs axe-core, which make installs where there is npm")
    return AXE.read_text(encoding="utf-8")


def found(page, axe: str, within: str = "html") -> list[str]:
    """What axe finds within an element that keeps somebody out."""
    page.evaluate(axe)
    result = page.evaluate("within => axe.run({include: [[within]]}, {resultTypes: ['violations']})", within)
    assert result["passes"], f"axe looked at nothing in {within}"
    return [
        f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]}" for v in result["violations"] if v["impact"] in SERIOUS
    ]


def practice(crops) -> dict:
    ids = crops.scene.page(1)
    lessons = [Lesson(i % 2 == 0, "" if i % 2 == 0 else "Too small: 40 % of the object is missing.") for i in ids]
    return label_config.practice_data("x", "disc", [Crop(str(i), crops.crop(i)) for i in ids], lessons)


@pytest.mark.label_studio
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_the_screens(screen, make_project, crops, axe, theme):
    screen.page.emulate_media(color_scheme=theme)
    screens = {
        "verification": (sheet_data(crops, 1), ".cv", CROP, ("w", "Shift+R", "i")),
        "practice": (practice(crops), ".cv", CROP, ("w", "Shift+R", "j")),
        "single": (label_config.single_data("s", "disc", crops.crop(1000)), ".cs", ".cs-views img", ("n", "i")),
    }
    for name, (data, within, shown, keys) in screens.items():
        screen.open(make_project(label_config.load(name).xml, [{"data": data}]), shown)
        if theme == "dark":
            screen.page.evaluate("document.documentElement.setAttribute('data-color-scheme', 'dark')")
            screen.page.wait_for_timeout(300)
        assert found(screen.page, axe, within) == [], name
        for key in keys:
            screen.page.keyboard.press(key)
        screen.page.wait_for_timeout(200)
        screen.keep(f"{name}-{theme}")
        assert found(screen.page, axe, within) == [], name


@pytest.mark.label_studio
def test_a_screen_reader_is_told_what_every_control_is(screen, make_project, crops):
    screen.open(make_project(label_config.load("verification").xml, [{"data": sheet_data(crops, 1)}]), CROP)
    for key in "QWERTASDFGZXCVB":
        for name in (f"Mask {key} is wrong", f"Unsure about mask {key}"):
            assert screen.page.get_by_role("checkbox", name=name).count() == 1
        assert screen.page.get_by_role("link", name=f"Mask {key} in its whole image").count() == 1
    for role, name in (("checkbox", "outline only"), ("checkbox", "rules"), ("radio", "reviewed"), ("radio", "unsure")):
        assert screen.page.get_by_role(role, name=name).count() == 1


@pytest.mark.label_studio
def test_marks_differ_without_colour_vision(screen, make_project, crops):
    screen.open(make_project(label_config.load("verification").xml, [{"data": sheet_data(crops, 1)}]), CROP)
    screen.page.keyboard.press("w")
    screen.page.keyboard.press("Shift+E")
    screen.page.mouse.move(5, 5)
    screen.page.wait_for_timeout(200)
    boxes = [screen.page.locator(".cv-crop").nth(k).bounding_box() for k in range(3)]
    devtools = screen.page.context.new_cdp_session(screen.page)
    for kind in ("none", "deuteranopia", "protanopia", "tritanopia", "achromatopsia"):
        devtools.send("Emulation.setEmulatedVisionDeficiency", {"type": kind})
        picture = cv2.imdecode(np.frombuffer(screen.page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
        screen.keep(f"verification-{kind}")
        lab = cv2.cvtColor(picture.astype(np.float32) / 255, cv2.COLOR_BGR2LAB)
        # The frames at the left of a crop: the outer half of that of wrong, the inner line of that of unsure.
        plain, wrong, unsure = (
            lab[int(b["y"] + 60) : int(b["y"] + 160), int(b["x"] + x)].mean(0)
            for b, x in zip(boxes, (3, 3, 7), strict=True)
        )
        differ = [float(np.linalg.norm(a - b)) for a, b in ((plain, wrong), (plain, unsure), (wrong, unsure))]
        # About 2 can just be told apart side by side. Without any colour the cross and the question mark say it.
        assert min(differ[:2]) > 10 and (kind == "achromatopsia" or differ[2] > 20), (kind, differ)


@pytest.mark.label_studio
def test_a_finger_answers_on_a_tablet(browser, login, label_studio, make_project, crops, label_studio_client):
    context = browser.new_context(
        viewport={"width": 1024, "height": 768}, has_touch=True, is_mobile=True, reduced_motion="reduce"
    )
    context.set_default_timeout(120_000)
    context.add_cookies(login)
    page = context.new_page()
    project = make_project(label_config.load("verification").xml, pages(crops, 1))
    page.goto(f"{label_studio.url}/projects/{project}/data?labeling=1")
    page.wait_for_selector(CROP)
    page.wait_for_timeout(500)
    for mark in (".cv-mark", ".cv-crop a", ".cv-head label"):
        sizes = page.eval_on_selector_all(mark, "all => all.map(e => e.getBoundingClientRect().height)")
        assert min(sizes) >= 36, mark
    for place in (2, 4, 4):  # a tap marks, another takes it back
        tap(page, page.locator(".cv-crop").nth(place), 0.4, 0.6)
    tap(page, page.locator(".cv-crop").nth(7), 0.75, 0.25)  # beside the question mark, where a finger meets it too
    page.screenshot(path="build/browser/verification-tablet.png")
    assert page.eval_on_selector_all(
        ".cv *", "all => all.every(e => parseFloat(getComputedStyle(e).transitionDuration) === 0)"
    )
    page.get_by_role("button", name="Submit current").tap()
    page.get_by_text("No More Tasks").wait_for()
    [[annotation]] = annotations(label_studio_client, project).values()
    assert chosen(annotation) == {"status": ["reviewed"], "wrong": ["1002"], "doubt": ["1007"]}
    context.close()


def tap(page, element, x: float, y: float) -> None:
    box = element.bounding_box()
    page.touchscreen.tap(box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.wait_for_timeout(100)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_the_lead_s_page_and_the_report(browser, store, address, axe, tmp_path, theme):  # noqa: F811
    from campaign.web.lead.login import lead_password

    context = browser.new_context(viewport={"width": 1400, "height": 900}, color_scheme=theme)
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.goto(address)
    assert found(page, axe) == []
    page.fill("input[name=user]", "lead")
    page.fill("input[name=password]", lead_password(store))
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector(".cards")
    was = max((d for d in store.decisions.rows() if d.kind == "accept"), key=lambda d: d.size)
    place, mask = f"1/{was.class_id}/{was.cluster}", store.answers.rows()[0].mask_id
    for path in ("", f"trees/1/{was.class_id}", f"clusters/{place}", f"masks/{mask}", "annotators/7"):
        page.goto(address + path)
        assert found(page, axe) == [], path
    (tmp_path / "report.html").write_text(render_report(report_data(store)), encoding="utf-8")
    page.goto(f"file://{tmp_path}/report.html")
    assert found(page, axe) == []
    context.close()
