"""The pages on which single masks are judged, corrected and painted."""

import numpy as np
import pytest
from pycocotools import mask as mask_util

import label_config
from ml_backend.masks.editing import edit_prediction, edit_window, edited_mask, painted_masks
from tests.browser.conftest import annotations, chosen

pytestmark = [pytest.mark.label_studio, pytest.mark.browser]

WHOLE, HOLE, TWO_PARTS = 1075, 1076, 1077


def submit(screen) -> None:
    """Submits the last task."""
    screen.page.get_by_role("button", name="Submit").first.click()
    screen.wait_until_all_is_answered()


@pytest.fixture
def edit_project(make_project, crops, label_studio_client):
    """A project with one edit page for a mask of the scene."""

    def make(mask_id: int) -> tuple[int, tuple[int, int, int, int]]:
        scene = crops.scene
        window = edit_window(scene.box(mask_id), *scene.SIZE)
        task = {
            "data": label_config.edit_data("k", "disc", crops.crop(mask_id)),
            "predictions": [edit_prediction(scene.rle(mask_id), window, "disc", "v1")],
        }
        number = make_project(label_config.load("edit", ["disc"]).xml, [task])
        shown = {"show_collab_predictions": True, "model_version": "v1"}
        label_studio_client.request("PATCH", f"api/projects/{number}/", body=shown)
        return number, window

    return make


def answer(client, project: int) -> list[dict]:
    [[annotation]] = annotations(client, project).values()
    return annotation["result"]


@pytest.mark.parametrize("mask_id", [WHOLE, HOLE, TWO_PARTS])
def test_a_mask_that_needs_no_correction_comes_back_exactly(screen, edit_project, crops, label_studio_client, mask_id):
    project, window = edit_project(mask_id)
    screen.open(project, ".ce canvas")
    submit(screen)
    rle = edited_mask(answer(label_studio_client, project), window, *crops.scene.SIZE[::-1])
    assert (mask_util.decode(rle) == crops.scene.masks[mask_id]).all()


def on_image(screen, window, x: float, y: float) -> tuple[float, float]:
    """Where on the screen the pixel x, y of the scene is."""
    stage = screen.page.locator(".ce .konvajs-content").bounding_box()
    x0, y0, x1, y1 = window
    scale = min(stage["width"] / (x1 - x0), stage["height"] / (y1 - y0))
    return stage["x"] + (x - x0) * scale, stage["y"] + (y - y0) * scale


@pytest.mark.parametrize("key", ["b", "e"])
def test_a_stroke_changes_the_mask_where_it_was_drawn_and_nowhere_else(
    screen, edit_project, crops, label_studio_client, key
):
    project, window = edit_project(HOLE)
    mask = crops.scene.masks[HOLE]
    ys, xs = np.nonzero(mask)
    middle = (ys.min() + ys.max()) / 2
    screen.open(project, ".ce canvas")
    screen.page.get_by_text("disc", exact=True).last.click()  # the region in the list
    screen.page.wait_for_timeout(300)
    screen.page.keyboard.press(key)
    screen.page.wait_for_timeout(300)
    for _ in range(8):
        screen.page.keyboard.press("]")  # at first it is thinner than a pixel of the image
    # Painted from the edge outwards, or erased from the edge inwards.
    start = on_image(screen, window, xs.max(), middle)
    end = on_image(screen, window, xs.max() + (6 if key == "b" else -3), middle)
    screen.page.mouse.move(*start)
    screen.page.mouse.down()
    screen.page.mouse.move(*end, steps=8)
    screen.page.mouse.up()
    screen.page.wait_for_timeout(500)
    screen.keep(f"edit-{'painted' if key == 'b' else 'erased'}")
    submit(screen)
    rle = edited_mask(answer(label_studio_client, project), window, *crops.scene.SIZE[::-1])
    new = mask_util.decode(rle).astype(bool)
    changed = new ^ mask
    assert changed.any() and (new & ~mask if key == "b" else mask & ~new)[changed].all()
    columns = np.nonzero(changed)[1]
    assert columns.min() > xs.max() - 12  # the far side and the hole are as they were
    hole = ~mask[int(middle) - 1 : int(middle) + 2, (xs.min() + xs.max()) // 2]
    assert hole.all() and not new[int(middle), (xs.min() + xs.max()) // 2]


@pytest.mark.parametrize(("key", "choice"), [("n", "no such object"), ("u", "unsure")])
def test_a_mask_that_cannot_be_corrected_is_said_so(screen, edit_project, crops, label_studio_client, key, choice):
    project, window = edit_project(WHOLE)
    screen.open(project, ".ce canvas")
    screen.page.keyboard.press(key)
    submit(screen)
    result = answer(label_studio_client, project)
    assert chosen({"result": result})["verdict"] == [choice]
    assert edited_mask(result, window, *crops.scene.SIZE[::-1]) is None


def test_objects_are_painted_from_scratch(screen, make_project, crops, label_studio_client):
    data = label_config.paint_data("k", crops.image())
    project = make_project(label_config.load("paint", ["disc", "ring"]).xml, [{"data": data}])
    screen.open(project, ".cp canvas")
    image = screen.page.locator(".cp canvas").first.bounding_box()
    for key, fraction in (("1", 0.25), ("2", 0.6)):
        screen.page.keyboard.press(key)
        screen.page.wait_for_timeout(300)
        screen.page.mouse.move(image["x"] + fraction * image["width"], image["y"] + 0.3 * image["height"])
        screen.page.mouse.down()
        screen.page.mouse.move(
            image["x"] + (fraction + 0.1) * image["width"], image["y"] + 0.3 * image["height"], steps=9
        )
        screen.page.mouse.up()
        screen.page.wait_for_timeout(300)
        screen.keep("paint")
        screen.page.keyboard.press("Escape")
        screen.page.wait_for_timeout(300)
    submit(screen)
    found = painted_masks(answer(label_studio_client, project), *crops.scene.SIZE[::-1])
    assert [name for name, _ in found] == ["disc", "ring"]
    for (_, rle), fraction in zip(found, (0.25, 0.6), strict=True):
        x, _, w, _ = mask_util.toBbox(rle)
        assert abs(x + w / 2 - (fraction + 0.05) * crops.scene.SIZE[0]) < 20 and w > 40


def test_a_single_mask_is_answered_with_two_keys(screen, make_project, crops, label_studio_client):
    verdicts = {"1000": "yes", "1001": "no", "1002": "unsure"}
    addresses = {k: crops.crop(int(k)) for k in verdicts}
    tasks = [{"data": label_config.single_data(k, "disc", url)} for k, url in addresses.items()]
    project = make_project(label_config.load("single").xml, tasks)
    screen.open(project, ".cs img")
    screen.keep("single")
    for key, verdict in verdicts.items():
        screen.page.wait_for_selector(f".cs-views img[src^='{addresses[key]}']")
        screen.page.keyboard.press(verdict[0])
        screen.page.wait_for_timeout(200)
        screen.page.keyboard.press("Space")
    screen.wait_until_all_is_answered()
    stored = {k: chosen(a)["verdict"] for k, [a] in annotations(label_studio_client, project).items()}
    assert stored == {k: [v] for k, v in verdicts.items()}
    assert screen.outside() == []


def test_a_single_mask_without_an_answer_is_not_submitted(screen, make_project, crops, label_studio_client):
    data = label_config.single_data("k", "disc", crops.crop(1000))
    project = make_project(label_config.load("single").xml, [{"data": data}])
    screen.open(project, ".cs img")
    screen.page.keyboard.press("Space")
    screen.page.get_by_text("Press Y, N or U first").wait_for()
    screen.page.wait_for_timeout(500)
    assert annotations(label_studio_client, project) == {"k": []}
