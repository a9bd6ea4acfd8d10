"""The page on which people click what is missing."""

import threading

import pytest
from werkzeug.serving import make_server

from campaign.derived.recall import looked, points
from campaign.pages import completeness
from campaign.web.serving import StoreCrops
from ml_backend.server.app import create_app
from tests.campaign.looked import EXTENT, SIDE, looked_store, place_of

pytestmark = [pytest.mark.label_studio, pytest.mark.browser]
MISSING = (6, 18)


@pytest.fixture
def store(tmp_path, label_studio, label_studio_client):
    """A campaign of one image that lacks two objects, and a server that draws its pages."""
    store = looked_store(tmp_path / "a", {0: set(MISSING)}, pool=1, heldout=0, label_studio={"url": label_studio.url})
    server = make_server("127.0.0.1", 0, create_app(StoreCrops(store), secret=store.secret("crop_key")), threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    store.settings.page.public_url = f"http://127.0.0.1:{server.server_port}"
    completeness.add_complete_pages(store, 1)
    completeness.publish_complete(store, label_studio_client)
    yield store
    server.shutdown()
    thread.join()


def on_screen(screen, number):
    """Where on the screen the middle of an object is."""
    stage = screen.page.locator(".cc .konvajs-content").bounding_box()
    scale = min(stage["width"], stage["height"]) / SIDE
    x, y = (v + EXTENT / 2 for v in place_of(number))
    return stage["x"] + x * scale, stage["y"] + y * scale


def begin(screen, store):
    """Opens the page and closes the instructions, which Label Studio shows first."""
    screen.open(store.values.project("complete"), ".cc canvas")
    screen.keep("complete-instructions")
    screen.page.locator(".lsf-modal-ls__body").wait_for()
    screen.page.mouse.click(5, 5)
    screen.page.locator(".lsf-modal-ls__body").wait_for(state="detached", timeout=5000)


def test_what_is_missing_is_clicked(screen, store, label_studio_client):
    begin(screen, store)
    screen.page.mouse.click(*on_screen(screen, MISSING[0]))  # the first class is chosen beforehand
    screen.page.wait_for_timeout(300)
    screen.page.keyboard.press("Space")
    screen.page.get_by_text("Press J when each missing object has its point, or U").wait_for()
    screen.page.get_by_role("button", name="OK").click()
    screen.page.wait_for_timeout(300)
    screen.page.keyboard.press("2")
    screen.page.mouse.click(*on_screen(screen, MISSING[1]))
    screen.page.wait_for_timeout(300)
    screen.page.keyboard.press("j")
    screen.page.wait_for_timeout(300)
    screen.keep("complete")
    screen.page.keyboard.press("Space")
    screen.wait_until_all_is_answered()
    assert completeness.read_complete(store, label_studio_client) == 1
    assert [d.state for d in looked(store).values()] == ["missing"]
    found = points(store)
    assert [p["class_id"] for p in found] == [1, 2]
    for point, number in zip(found, MISSING, strict=True):
        x, y = place_of(number)
        assert x <= point["x"] <= x + EXTENT and y <= point["y"] <= y + EXTENT
    assert screen.outside() == []


def test_an_image_that_lacks_nothing_takes_one_key(screen, store, label_studio_client):
    begin(screen, store)
    screen.page.keyboard.press("j")
    screen.page.wait_for_timeout(300)
    screen.page.keyboard.press("Space")
    screen.wait_until_all_is_answered()
    completeness.read_complete(store, label_studio_client)
    assert [d.state for d in looked(store).values()] == ["complete"] and points(store) == []


def test_a_page_that_is_skipped_says_nothing(screen, store, label_studio_client):
    begin(screen, store)
    screen.page.mouse.click(*on_screen(screen, MISSING[0]))
    screen.page.get_by_role("button", name="Skip").first.click()
    screen.wait_until_all_is_answered()
    completeness.read_complete(store, label_studio_client)
    assert [d.state for d in looked(store).values()] == ["unsure"] and points(store) == []
