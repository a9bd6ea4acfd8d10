"""A mask corrected by clicks in the real Label Studio, from the box to the dataset."""

import json
import logging
import socket
import threading

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util
from werkzeug.serving import make_server

from campaign.derived.dataset import final_masks
from campaign.pages import correcting
from campaign.settings import CampaignSettings
from campaign.store import Store
from campaign.web.serving import build_app
from ml_backend.mask_ids import is_drawn
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions
from tests.ml_backend.interactive.colour_segmenter import ColourSegmenter

pytestmark = [pytest.mark.label_studio, pytest.mark.browser]

SIDE = 200


def disc(x, y, outer, inner=0):
    yy, xx = np.mgrid[:SIDE, :SIDE]
    distance = (xx - x) ** 2 + (yy - y) ** 2
    return (distance < outer**2) & (distance >= inner**2)


RING, SPOT = disc(90, 95, 40, 12), disc(140, 60, 9)


@pytest.fixture
def store(tmp_path, label_studio):
    """A campaign over one image: a ring, a spot beside it, and a prediction of the ring that is not quite right."""
    image = np.full((SIDE, SIDE, 3), 70, np.uint8)
    image[RING], image[SPOT] = (220, 180, 40), (40, 200, 230)
    path = tmp_path / "i.png"
    Image.fromarray(image).save(path)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = CampaignSettings(
        name="clicks",
        page={"public_url": f"http://127.0.0.1:{port}"},
        label_studio={"url": label_studio.url},
        quality={"gold_share": 0.0},
        search={"policy": "paper"},
    )
    data = {"pool": CocoDataset([ImageRecord(1, path.name, SIDE, SIDE, path)], {1: "ring"})}
    store = Store.create(tmp_path / "c", settings, data)
    store.save_secrets({"label_studio_token": label_studio.token})
    store.rounds.start(1, "verify")
    store.rounds.update(1, model_version="v1")
    shape = mask_util.encode(np.asfortranarray(disc(80, 85, 30).astype(np.uint8)))
    rle = np.array([shape["counts"]], object)
    found = Predictions(
        np.arange(1), np.array([store.images.records("pool")[0].id]), np.ones(1, np.int32),
        np.array([mask_util.toBbox(shape)]), rle, np.full((1, 2), SIDE), np.ones(1), np.ones(1), np.zeros((1, 8)),
    )  # fmt: skip
    store.masks.save_shard(1, "pool", 0, found, 1, 0.0)
    return store


@pytest.fixture
def served(store):
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    app = build_app(store.folder)
    app.extensions["campaign_interactive"].segmenter = ColourSegmenter
    server = make_server("127.0.0.1", int(store.settings.page.public_url.rpartition(":")[2]), app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield app
    server.shutdown()
    thread.join()


def regions(screen):
    """{id: type} of what stands in the annotation."""
    return screen.page.evaluate(
        "() => Object.fromEntries([...window.Htx.annotationStore.selected.areas.values()]"
        ".map(r => [r.id.split('#')[0], r.type]))"
    )


def switch_on(page, name):
    """Switches on what is below the picture; the page may be drawn anew while it is clicked."""
    switch = page.get_by_test_id(name)
    switch.wait_for(state="attached")
    for _ in range(60):
        if switch.is_checked():
            return
        switch.evaluate("element => element.click()")
        page.wait_for_timeout(500)
    raise AssertionError(f"{name} cannot be switched on")


def choose(screen, key, tool):
    """Presses the key of a tool, as soon as the picture takes keys."""
    chosen = (
        "tool => Object.values(window.ToolManager.getInstance({name: 'image'}).tools)"
        ".some(t => t.selected && t.dynamic && t.toolName == tool)"
    )
    for _ in range(60):
        screen.page.keyboard.press(key)
        screen.page.wait_for_timeout(300)
        if screen.page.evaluate(chosen, tool):
            return
    raise AssertionError(f"{key} does not choose {tool}")


def mask_on_screen(screen):
    """The run lengths of the mask as it stands in the annotation."""
    return screen.page.evaluate(
        "() => JSON.stringify([...window.Htx.annotationStore.selected.areas.values()]"
        ".filter(r => r.type == 'brushregion').map(r => Array.from(r.rle)))"
    )


def test_a_box_and_two_clicks_with_one_taken_back_are_the_mask_of_the_dataset(
    screen, store, served, label_studio_client
):
    (mask,) = store.masks.predictions(1, "pool", features=False).mask_id.tolist()
    correcting.add_correct_pages(store, [mask])
    assert correcting.publish_corrections(store, label_studio_client) == 1
    shown = store.masks.read([mask])
    window = correcting.window_of(shown)
    screen.open(store.values.project("correct"), ".cc canvas")
    page, hint = screen.page, screen.page.locator(".cc-switch")
    assert hint.is_visible()
    switch_on(page, "bottombar-auto-annotation-toggle")
    switch_on(page, "bottombar-auto-accept-toggle")
    hint.wait_for(state="hidden")
    seen = [mask_on_screen(screen)]

    def changes(act):
        act()
        screen.wait_for(
            "before => JSON.stringify([...window.Htx.annotationStore.selected.areas.values()]"
            ".filter(r => r.type == 'brushregion').map(r => Array.from(r.rle))) != before",
            seen[-1],
        )
        page.wait_for_timeout(300)
        seen.append(mask_on_screen(screen))
        assert list(regions(screen).values()).count("brushregion") == 1, "the new mask replaces the one before"

    def at(x, y):
        stage = page.locator(".cc .konvajs-content").bounding_box()
        x0, y0, x1, y1 = window
        scale = min(stage["width"] / (x1 - x0), stage["height"] / (y1 - y0))
        return stage["x"] + (x + 0.5 - x0) * scale, stage["y"] + (y + 0.5 - y0) * scale

    def drag():
        page.mouse.click(*at(5 + window[0], 5 + window[1]))  # the keyboard is the picture's, after the switches
        choose(screen, "r", "RectangleTool")
        page.mouse.move(*at(45, 50))
        page.mouse.down()
        page.mouse.move(*at(134, 138), steps=5)
        page.mouse.up()

    def click(x, y, negative=False):
        choose(screen, "k", "KeyPointTool")
        if negative:
            page.keyboard.down("Alt")
        page.mouse.click(*at(x, y))
        if negative:
            page.keyboard.up("Alt")

    changes(drag)
    changes(lambda: click(140, 60))
    screen.keep("correct")
    changes(lambda: click(60, 95, negative=True))  # on the mask itself
    changes(lambda: page.keyboard.press("Control+z"))
    assert seen[-1] == seen[-3]
    page.get_by_role("button", name="Submit").first.click()
    screen.wait_until_all_is_answered()

    assert correcting.read_corrections(store, label_studio_client) == 1
    masks = final_masks(store)
    (row,) = np.flatnonzero(is_drawn(masks.mask_id))
    assert (mask_util.decode(masks.rles()[row]).astype(bool) == RING | SPOT).all()
    assert masks.rule[row].startswith("edited by 2 clicks")
    (steps,) = store.clicks.of_annotations(range(1, 10_000)).values()
    assert [s.kind for s in steps] == ["box", "positive"]
    assert json.dumps(steps[-1].after) and steps[-1].after["counts"].encode() == masks.rle[row]
    assert screen.outside() == []
