"""The page on which people click what is missing."""

import pytest

import label_config
from ml_backend.server.app import PartView
from ml_backend.server.signing import part_url
from tests.browser.conftest import SECRET, annotations, chosen

pytestmark = [pytest.mark.label_studio, pytest.mark.browser]
WINDOW = (0, 0, 600, 400)
MISSING = (1046, 1051)


@pytest.fixture
def task(crops):
    """A page of the whole scene on which two discs have no mask."""
    scene = crops.scene
    drawn = [i for i in scene.masks if i not in MISSING]
    scene.part = lambda number: PartView(scene.path, WINDOW, [(scene.rle(i), i % 2) for i in drawn])
    return {"data": label_config.complete_data("k", part_url(crops.url, SECRET, 1, 4e9), {"image": "scene.jpg"})}


def middle(scene, mask_id):
    x, y, w, h = scene.box(mask_id)
    return x + w / 2, y + h / 2


def on_image(screen, x, y):
    """Where on the screen the pixel x, y of the scene is."""
    stage = screen.page.locator(".cc .konvajs-content").bounding_box()
    scale = min(stage["width"] / 600, stage["height"] / 400)
    left = stage["x"] + (stage["width"] - scale * 600) / 2
    return left + x * scale, stage["y"] + y * scale


def test_what_is_missing_is_clicked(screen, make_project, crops, task, label_studio_client):
    project = make_project(label_config.load("complete", ["disc", "ring"]).xml, [task])
    screen.open(project, ".cc canvas")
    screen.keep("complete-before")
    for mask_id in MISSING:
        screen.page.mouse.click(*on_image(screen, *middle(crops.scene, mask_id)))
        screen.page.wait_for_timeout(400)
        screen.keep(f"complete-{mask_id}")
    screen.page.keyboard.press("j")
    screen.page.wait_for_timeout(300)
    screen.keep("complete")
    screen.page.keyboard.press("Space")
    screen.wait_until_all_is_answered()
    [[annotation]] = annotations(label_studio_client, project).values()
    print(annotation["result"])
    assert chosen(annotation)["verdict"] == ["complete"]
    assert 0
