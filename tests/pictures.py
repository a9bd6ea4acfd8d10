"""The README's pictures, made anew from the real pages: before a release, on a machine with Chromium and Label Studio.

    python -m tests.pictures demo-out

The folder is that of a finished demo, on whatever data: the lead's page and the report are its own, and for the film
copies of its pages are answered by keys, in its own Label Studio. Everything goes to `docs/`.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from PIL import Image, ImageDraw, ImageFont

from campaign.label_studio.client import Client
from campaign.label_studio.server import LabelStudioServer
from campaign.records.page import Screen
from campaign.store import Store
from campaign.web.lead.login import USER, lead_password
from tests.browser.conftest import FLAGS, chromium
from tests.browser.person import Person, load, log_in
from tests.campaign.cli.builders import CAMPAIGN

DOCS = Path(__file__).parents[1] / "docs"
WIDTH = 900  # pixels of a film's frame
FILMED = 2  # pages
MILLISECONDS = {"new": 1600, "key": 550, "Space": 450}
MOST_BYTES = {".webp": 2_000_000, ".png": 400_000}


def main() -> None:
    """Makes the pictures of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.pictures", description=__doc__.split("\n")[0])
    parser.add_argument("campaign", type=Path, help="folder of a finished demo")
    parser.add_argument("--only", choices=("film", "lead", "report"), help="leave the others as they are")
    arguments = parser.parse_args()
    from playwright.sync_api import sync_playwright

    DOCS.mkdir(exist_ok=True)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=FLAGS)
        for name, make in (("lead", lead), ("report", report), ("film", film)):
            if arguments.only in (None, name):
                path = make(browser, arguments.campaign)
                size = path.stat().st_size
                print(f"{path} {size:,} bytes")
                if size > MOST_BYTES[path.suffix]:
                    sys.exit(f"{path}: expected at most {MOST_BYTES[path.suffix]:,} bytes, got {size:,}")
        browser.close()


def lead(browser: Any, out: Path) -> Path:
    """The lead's page at the end of a campaign."""
    store = Store.open(out / "campaign")
    with _served(store) as address:
        page = browser.new_page(viewport={"width": 1280, "height": 1500})
        page.goto(f"{address}/lead/")
        page.fill("[name=user]", USER)
        page.fill("[name=password]", lead_password(store))
        page.keyboard.press("Enter")
        page.wait_for_load_state("networkidle")
        return _kept(page.screenshot(), "lead")


def report(browser: Any, out: Path) -> Path:
    """The beginning of the report of a campaign, written anew."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        subprocess.run([CAMPAIGN, "report", str(out / "campaign"), "--out", str(path)], check=True)
        page = browser.new_page(viewport={"width": 1280, "height": 1700})
        page.goto(path.as_uri())
        page.wait_for_load_state("networkidle")
        return _kept(page.screenshot(), "report")


def film(browser: Any, out: Path) -> Path:
    """Pages being answered, as an animated picture: copies of the campaign's, in a project that is then deleted."""
    frames: list[tuple[Image.Image, int]] = []
    store, person = Store.open(out / "campaign"), Person(out)
    with LabelStudioServer(out / "label-studio") as server, _served(store), _copied(store, server) as project:
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.set_default_timeout(60_000)
        address = f"{server.url}/projects/{project}/data?labeling=1"
        log_in(page, address, server.user, server.password)
        while person.pages < FILMED:
            if not page.locator(".cv-crop img").count():
                load(page, address)
                continue
            page.wait_for_function(
                "[...document.querySelectorAll('.cv-crop img.cv-fill')].every(i => i.complete && i.naturalWidth)"
            )
            page.wait_for_timeout(400)
            shown = [_frame(page)]
            frames.append((shown[0], MILLISECONDS["new"]))

            def pressed(key: str, shown: list[Image.Image] = shown) -> None:
                if key != "Space":  # after it the page is gone
                    shown.append(_frame(page))
                frames.append((_with_key(shown[-1], key), MILLISECONDS.get(key, MILLISECONDS["key"])))

            person.answer(page, pressed)
        page.close()
    path = DOCS / "answering.webp"
    first, *rest = [image for image, _ in frames]
    pauses = [pause for _, pause in frames]
    first.save(path, save_all=True, append_images=rest, duration=pauses, loop=0, quality=80)
    return path


@contextmanager
def _served(store: Store) -> Iterator[str]:
    """Serves crops and the lead's page of a campaign at its own address, which is given."""
    server = subprocess.Popen([CAMPAIGN, "serve", str(store.folder)])
    address = store.settings.page.public_url
    try:
        _wait_for(f"{address}/health")
        yield address
    finally:
        server.terminate()
        server.wait(30)


@contextmanager
def _copied(store: Store, server: LabelStudioServer) -> Iterator[int]:
    """A project with copies of the first pages of a campaign, unanswered; deleted afterwards."""
    client = Client(server.url, server.token)
    own = client.request("GET", f"api/projects/{store.values.project(Screen.VERIFICATION)}/")
    tasks = client.request("GET", "api/tasks/", params={"project": own["id"], "fields": "all", "page_size": 100})[
        "tasks"
    ]
    full = [{"data": task["data"]} for task in tasks if len(task["data"]["crops"]) == store.settings.page.page_size]
    body = {"title": own["title"], "label_config": own["label_config"], "show_instruction": False}
    project = client.request("POST", "api/projects/", body=body)["id"]
    try:
        client.request("POST", f"api/projects/{project}/import", body=full[: FILMED + 1])
        yield project
    finally:
        client.request("DELETE", f"api/projects/{project}/")


def _frame(page: Any) -> Image.Image:
    """What is on the screen."""
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return image.resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)


def _with_key(frame: Image.Image, key: str) -> Image.Image:
    """A frame with the key that was pressed drawn on it."""
    image = frame.copy()
    draw = ImageDraw.Draw(image)
    text = key.lower() if key == "Space" else key.upper()
    font = ImageFont.load_default(30)
    half = draw.textlength(text, font) / 2 + 18
    x, y = image.width / 2, image.height - 70
    draw.rounded_rectangle(
        (x - half, y - 26, x + half, y + 26), 10, fill=(30, 30, 34), outline=(255, 255, 255), width=2
    )
    draw.text((x, y), text, (255, 255, 255), font, anchor="mm")
    return image


def _kept(screenshot: bytes, name: str) -> Path:
    """A screenshot in 128 colours, which is enough for a page."""
    path = DOCS / f"{name}.png"
    Image.open(io.BytesIO(screenshot)).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def _wait_for(address: str) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            with urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.3)
    raise SystemExit(f"{address}: expected an answer, got none")


if __name__ == "__main__":
    main()
