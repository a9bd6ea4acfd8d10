"""Chromium on a real Label Studio, with crops from a real server of ours."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util
from werkzeug.serving import make_server

from campaign.label_studio.client import Client
from campaign.label_studio.server import LabelStudioServer, log_in
from ml_backend.server.app import MaskView, create_app
from ml_backend.server.signing import crop_url, image_url, sheet_url

ARTIFACTS = Path(os.environ.get("CAMPAIGN_ARTIFACTS", "build/browser"))
SECRET = "browser"
FLAGS = [
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
]


def chromium() -> str | None:
    """The installed Chromium, or None."""
    return next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, headless."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = chromium()
    if path is None:
        pytest.skip("needs chromium on PATH")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


class Scene:
    """One drawn image of 600x400 pixels with many masks: discs, some with a hole, some of two parts."""

    SIZE = (600, 400)

    def __init__(self, folder: Path):
        self.path = folder / "scene.jpg"
        rng = np.random.default_rng(5)
        picture = rng.integers(60, 110, (*self.SIZE[::-1], 3)).astype(np.uint8)
        yy, xx = np.mgrid[: self.SIZE[1], : self.SIZE[0]]
        self.masks: dict[int, np.ndarray] = {}
        for k in range(150):
            x, y, r = 20 + (k % 15) * 40, 20 + (k // 15) * 40, 9 + k % 6
            mask = (xx - x) ** 2 + (yy - y) ** 2 < r * r
            picture[mask] = rng.integers(120, 250, 3)
            if k % 3 == 1:
                mask &= (xx - x) ** 2 + (yy - y) ** 2 >= 9
            if k % 3 == 2:
                mask &= np.abs(xx - x) > 2
            self.masks[1000 + k] = mask
        Image.fromarray(picture).save(self.path, quality=95)

    def rle(self, mask_id: int) -> dict:
        return mask_util.encode(np.asfortranarray(self.masks[mask_id].astype(np.uint8)))

    def box(self, mask_id: int) -> tuple[float, float, float, float]:
        x, y, w, h = (float(v) for v in mask_util.toBbox(self.rle(mask_id)))
        return x, y, w, h

    def mask(self, mask_id: int) -> MaskView:
        return MaskView(self.path, self.box(mask_id), self.rle(mask_id))

    def image(self, image_id: int) -> Path:
        return {1: self.path}[image_id]

    def page(self, number: int) -> list[int]:
        return [1000 + (15 * number + k) % 150 for k in range(15)]


@dataclass
class Crops:
    """Our server for a scene: where it is, and addresses on it."""

    scene: Scene
    url: str
    served: list[str]  # the addresses that it was asked for, in their order

    def crop(self, mask_id: int) -> str:
        return crop_url(self.url, SECRET, mask_id, time.time() + 3600)

    def sheet(self, page: int) -> str:
        # The same address on every page that names it, as published pages have it.
        return sheet_url(self.url, SECRET, page, 4_000_000_000)

    def image(self) -> str:
        return image_url(self.url, SECRET, 1, time.time() + 3600)


@pytest.fixture(scope="session")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crops]:
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    scene = Scene(tmp_path_factory.mktemp("scene"))
    app, served = create_app(scene, secret=SECRET), []

    def counted(environ: dict[str, Any], start_response: Any) -> Any:
        served.append(environ["PATH_INFO"])
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, counted, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Crops(scene, f"http://127.0.0.1:{server.server_port}", served)
    server.shutdown()
    thread.join()


@dataclass
class Screen:
    """A browser page logged in as an annotator, with all that went wrong on it and all that it asked for."""

    page: Any
    url: str
    errors: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    arrived: set[str] = field(default_factory=set)

    def open(self, project: int, shown: str) -> None:
        """Opens the project's label stream and waits until `shown` (a CSS selector) can be seen."""
        self.page.goto(f"{self.url}/projects/{project}/data?labeling=1")
        self.page.wait_for_selector(shown)
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_timeout(500)

    def wait_until_all_is_answered(self) -> None:
        """Until Label Studio has saved the last task and found no other."""
        self.page.get_by_text("No More Tasks").wait_for()

    def wait_for(self, condition: str, argument: Any = None) -> None:
        """Until a function in the browser gives true; where it never does, what went wrong stands in the error."""
        from playwright.sync_api import TimeoutError as Late

        try:
            self.page.wait_for_function(condition, arg=argument)
        except Late:
            self.keep("stuck")
            raise AssertionError(f"{condition} never came true; on the page: {self.errors[-5:]}") from None

    def asked_for(self, text: str, at_least: int) -> int:
        """How many addresses with this text were asked for, once so many have arrived, and half a second later."""
        until = time.monotonic() + 60
        while sum(text in address for address in self.arrived) < at_least and time.monotonic() < until:
            self.page.wait_for_timeout(50)
        self.page.wait_for_timeout(500)
        return sum(text in address for address in self.asked)

    def keep(self, name: str) -> None:
        """A screenshot among the artifacts."""
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(ARTIFACTS / f"{name}.png"))

    def outside(self) -> list[str]:
        """Addresses asked for that are not on this machine."""
        return [u for u in self.asked if not u.startswith(("http://127.0.0.1", "data:", "blob:", "chrome"))]


@pytest.fixture(scope="session")
def login(label_studio: LabelStudioServer) -> list[dict]:
    """Cookies of the logged-in admin."""
    session = log_in(label_studio.url, label_studio.user, label_studio.password)
    return [{"name": c.name, "value": c.value, "url": label_studio.url} for c in session.cookies]


@pytest.fixture
def screen(browser: Any, login: list[dict], label_studio: LabelStudioServer) -> Iterator[Screen]:
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    context.set_default_timeout(120_000)  # other tests may keep the machine busy
    context.add_cookies(login)
    shown = Screen(context.new_page(), label_studio.url)
    shown.page.on("console", lambda m: shown.errors.append(m.text) if m.type == "error" else None)
    shown.page.on("pageerror", lambda e: shown.errors.append(str(e)))
    shown.page.on("request", lambda r: shown.asked.append(r.url))
    shown.page.on("requestfinished", lambda r: shown.arrived.add(r.url))
    yield shown
    context.close()


@pytest.fixture
def make_project(label_studio_client: Client) -> Iterator[Callable[..., int]]:
    """Makes a project: (config, tasks, **settings) -> its id. It is deleted afterwards."""
    made: list[int] = []

    def make(xml: str, tasks: list[dict], **settings: Any) -> int:
        body = {"title": "browser", "label_config": xml, "show_collab_predictions": False, **settings}
        number = label_studio_client.request("POST", "api/projects/", body=body)["id"]
        made.append(number)
        label_studio_client.request("POST", f"api/projects/{number}/import", body=tasks)
        return number

    yield make
    for number in made:
        label_studio_client.request("DELETE", f"api/projects/{number}/")


def annotations(client: Client, project: int) -> dict[str, list[dict]]:
    """Annotations of the project's tasks, by the task's key."""
    asked = {"project": project, "fields": "all", "page_size": 1000}
    tasks = client.request("GET", "api/tasks/", params=asked)["tasks"]
    return {task["data"]["key"]: task["annotations"] for task in tasks}


def chosen(annotation: dict) -> dict[str, list[str]]:
    """The choices in an annotation, by the control's name."""
    return {r["from_name"]: r["value"]["choices"] for r in annotation["result"] if r["type"] == "choices"}
