"""What an annotator waits for and presses: gaps between pages, keys per answer, crops per second, bytes per page.

    python -m tests.benchmarks.annotator --json

Starts a real Label Studio, our server under gunicorn and Chromium. The crops are cut from JPEGs of 2000x1500 pixels.
Two ratios do not depend on the machine: the gap per answer of pages of 15 to that of one mask per task, and the time of
15 pictures of pages that are ready to that of a static file of the same size.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from tests.benchmarks.serving import start_server

SECRET = "benchmark"
STATIC = "static.jpg"
AHEAD = 2
SIZE = (2000, 1500)
MASKS = 15
IMAGES = 24
ROUNDS = 20  # times that 15 pictures are asked for at once


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.annotator", description=__doc__.split("\n")[0])
    parser.add_argument("--pages", type=int, default=12, help="pages per measurement in the browser")
    parser.add_argument(
        "--look", type=float, default=1.0, help="seconds that a page is looked at before it is submitted"
    )
    parser.add_argument("--only", choices=("crops", "browser"), help="leave the other part out")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"load": round(os.getloadavg()[0], 2), "cpus": os.cpu_count()}
    with tempfile.TemporaryDirectory(prefix="annotator-") as name:
        folder = Path(name)
        draw(folder)
        server, base = start_crops(folder)
        try:
            if arguments.only != "browser":
                result |= measure_crops(base) | measure_sheets(base, folder)
            if arguments.only != "crops":
                result |= measure_browser(folder, base, arguments.pages, arguments.look)
        finally:
            server.terminate()
            server.wait(10)
    print(json.dumps(result) if arguments.json else "\n".join(f"{k:28} {v}" for k, v in result.items()))


def draw(folder: Path) -> None:
    """JPEGs of textured ground with 15 bright ellipses each, and their masks."""
    import numpy as np
    from PIL import Image
    from pycocotools import mask as mask_util
    from scipy import ndimage

    rng = np.random.default_rng(0)
    yy, xx = np.mgrid[: SIZE[1], : SIZE[0]]
    ground = ndimage.gaussian_filter(rng.integers(0, 256, (SIZE[1], SIZE[0], 3)).astype(np.float32), (2, 2, 0))
    rles = []
    for i in range(IMAGES):
        picture = np.clip(np.roll(ground, 37 * i, 1) * 1.2 - 25, 0, 255).astype(np.uint8)
        for k in range(MASKS):
            x, y = 200 + (k % 5) * 400, 250 + (k // 5) * 500
            mask = ((xx - x) / (60 + 3 * k)) ** 2 + ((yy - y) / (40 + 5 * k)) ** 2 < 1
            picture[mask] = np.clip(picture[mask] + 60, 0, 255)
            if i == 0:
                rles.append(mask_util.encode(np.asfortranarray(mask.astype(np.uint8))))
        Image.fromarray(picture).save(folder / f"{i}.jpg", quality=92)
    boxes = [mask_util.toBbox(r).tolist() for r in rles]
    (folder / "masks.json").write_text(
        json.dumps([{"box": b, "counts": r["counts"].decode()} for b, r in zip(boxes, rles, strict=True)])
    )


class Folder:
    """The drawn images as a crop source: mask 1000 * image + k."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.masks = json.loads((folder / "masks.json").read_text())

    def mask(self, mask_id: int) -> Any:
        from ml_backend.server.app import MaskView

        image, k = divmod(mask_id, 1000)
        rle = {"size": [SIZE[1], SIZE[0]], "counts": self.masks[k]["counts"].encode()}
        return MaskView(self.folder / f"{image}.jpg", tuple(self.masks[k]["box"]), rle)

    def image(self, image_id: int) -> Path:
        return self.folder / f"{image_id}.jpg"

    def page(self, number: int) -> list[int]:
        return [1000 * (number % IMAGES) + k for k in range(MASKS)]

    def following(self, number: int | None, count: int) -> list[int]:
        return [] if number is None else list(range(number + 1, number + 1 + count))


def application() -> Any:
    """What gunicorn serves."""
    from flask import send_file

    from ml_backend.server.app import Limits, create_app

    folder = Path(os.environ["ANNOTATOR_FOLDER"])
    app = create_app(Folder(folder), secret=SECRET, limits=Limits(ahead=AHEAD))
    app.add_url_rule("/static", view_func=lambda: send_file(folder / STATIC, mimetype="image/jpeg"))
    return app


def start_crops(folder: Path) -> tuple[subprocess.Popen, str]:
    """Our server with the crops of a folder."""
    return start_server("tests.benchmarks.annotator:application()", {"ANNOTATOR_FOLDER": str(folder)})


def address(base: str, image: int, k: int) -> str:
    from ml_backend.server.signing import crop_url

    return crop_url(base, SECRET, 1000 * image + k, 4_000_000_000)


def sheet(base: str, page: int) -> str:
    from ml_backend.server.signing import sheet_url

    return sheet_url(base, SECRET, page, 4_000_000_000)


def measure_crops(base: str) -> dict[str, Any]:
    """Milliseconds from request to the last byte with 15 requests at once, the image not decoded before and decoded."""
    cold, warm, sizes = [], [], []
    together(
        base, [address(base, 0, k).removeprefix(base) for k in range(MASKS)]
    )  # the first request of all also imports and connects
    for image in range(1, IMAGES):
        paths = [address(base, image, k).removeprefix(base) for k in range(MASKS)]
        cold += [t for t, _ in together(base, paths)]
        for _ in range(3):
            got = together(base, paths)
            warm += [t for t, _ in got]
            sizes += [n for _, n in got]
    both = {"cold": sorted(cold), "warm": sorted(warm)}
    result = {f"crop_{name}_p{q}_ms": at(times, q) for name, times in both.items() for q in (50, 95)}
    return (
        {"crop_p50_ms": at(both["warm"], 50), "crop_p95_ms": at(both["warm"], 95)}
        | result
        | {"crop_bytes": round(sum(sizes) / len(sizes))}
    )


def measure_sheets(base: str, folder: Path) -> dict[str, Any]:
    """Milliseconds of the pictures of 15 pages that are ready, all at once, and of a static file of the same size.

    Both come from the same server, in turns.
    """
    paths = [sheet(base, page).removeprefix(base) for page in range(MASKS)]
    sizes = [size for _, size in together(base, paths)]  # which draws them
    (folder / STATIC).write_bytes(os.urandom(sum(sizes) // len(sizes)))
    ready, static = [], []
    for _ in range(ROUNDS):
        static += [t for t, _ in together(base, ["/static"] * MASKS)]
        ready += [t for t, _ in together(base, paths)]
    both = {"sheet": sorted(ready), "static": sorted(static)}
    result = {f"{name}_p{q}_ms": at(times, q) for name, times in both.items() for q in (50, 95)}
    ratio = round(result["sheet_p95_ms"] / result["static_p95_ms"], 2)
    return result | {"sheet_bytes": sum(sizes) // len(sizes), "sheet_to_static_p95": ratio}


def together(base: str, paths: list[str]) -> list[tuple[float, int]]:
    """(milliseconds, bytes) of 15 addresses asked for at the same moment."""
    where = urlsplit(base).netloc
    barrier = threading.Barrier(MASKS)
    found: list[tuple[float, int]] = []

    def ask(path: str) -> None:
        connection = HTTPConnection(where, timeout=60)
        connection.connect()
        barrier.wait()
        start = time.perf_counter()
        connection.request("GET", path)
        body = connection.getresponse().read()
        found.append((1000 * (time.perf_counter() - start), len(body)))
        connection.close()

    threads = [threading.Thread(target=ask, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def at(times: list[float], percent: int) -> float:
    return round(times[min(len(times) - 1, len(times) * percent // 100)], 1)


def measure_browser(folder: Path, base: str, pages: int, look: float) -> dict[str, Any]:
    """Gaps, keys and bytes as Chromium sees them."""
    from playwright.sync_api import sync_playwright

    import label_config
    from campaign.label_studio.client import Client
    from campaign.label_studio.server import LabelStudioServer, log_in

    with LabelStudioServer(folder / "label-studio") as studio, sync_playwright() as driver:
        client = Client(studio.url, studio.token)
        browser = driver.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-background-networking"]
        )
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        session = log_in(studio.url, studio.user, studio.password)
        context.add_cookies([{"name": c.name, "value": c.value, "url": studio.url} for c in session.cookies])
        annotator = Annotator(context.new_page(), studio.url, look)

        def project(name: str, tasks: list[dict]) -> int:
            body = {"title": name, "label_config": label_config.load(name).xml}
            number = client.request("POST", "api/projects/", body=body)["id"]
            client.request("POST", f"api/projects/{number}/import", body=tasks)
            return number

        ready, alone = verification_tasks(base, 3 * pages, True), verification_tasks(base, pages, False)
        single = [
            {"data": label_config.single_data(f"s{i}", "disc", address(base, i % IMAGES, i % MASKS))}
            for i in range(pages + 1)
        ]
        result = annotator.answer_pages(project("verification", ready), ready, (0, 10, 20))
        crops = annotator.answer_pages(project("verification", alone), alone, (0,))
        each = annotator.answer_single(project("single", single), single)
        browser.close()
    gap = result["gap_ms_per_answer"]
    return result | {
        "gap_ms_per_answer_crops_by_themselves": crops["gap_ms_per_answer"],
        "single_gap_ms_per_answer": each,
        "gap_ratio": round(gap / each, 3),
        "gap_ratio_crops_by_themselves": round(crops["gap_ms_per_answer"] / each, 3),
        "task_bytes": len(json.dumps(ready[0]["data"])),
    }


def verification_tasks(base: str, pages: int, ready: bool) -> list[dict[str, Any]]:
    """Tasks of 15 masks each, one more than `pages`; `ready` with their crops in one picture, loaded ahead."""
    import label_config

    tasks = []
    for i in range(pages + 1):
        shown = [label_config.Crop(str(1000 * (i % IMAGES) + k), address(base, i % IMAGES, k)) for k in range(MASKS)]
        ahead = [sheet(base, i + n) for n in range(1, 1 + AHEAD)]
        more: dict[str, Any] = {"sheet": sheet(base, i), "ahead": ahead} if ready else {}
        tasks.append({"data": label_config.page_data(f"p{i}", "disc", shown, **more)})
    return tasks


class Annotator:
    """Somebody in Chromium who looks at a page for `look` seconds and goes on."""

    def __init__(self, screen: Any, url: str, look: float):
        self.screen, self.url, self.look = screen, url, 1000 * look
        self.rng = random.Random(0)

    def answer_pages(self, number: int, tasks: list[dict], shares: tuple[int, ...]) -> dict[str, Any]:
        """Keys per answer at each share of wrong masks, the gap between pages, bytes per page."""
        import label_config

        received: list[int] = []

        def receive(request: Any) -> None:
            sizes = request.sizes()
            received.append(sizes["responseBodySize"] + sizes["responseHeadersSize"])

        self._open(number)
        wait_shown(self.screen, tasks[0]["data"]["crops"][0]["value"])
        self.screen.wait_for_timeout(1000)
        self.screen.on("requestfinished", receive)
        keys: dict[str, float] = {}
        measured, pages = list[float](), (len(tasks) - 1) // len(shares)
        for share in shares:
            pressed = 0
            for _ in range(pages):
                for key in label_config.HOTKEYS:
                    if 100 * self.rng.random() < share:
                        self.screen.keyboard.press(key)
                        self.screen.wait_for_timeout(40)
                        pressed += 1
                self.screen.wait_for_timeout(self.look)
                start = time.perf_counter()
                self.screen.keyboard.press("Space")
                pressed += 1
                wait_shown(self.screen, tasks[len(measured) + 1]["data"]["crops"][0]["value"])
                measured.append(1000 * (time.perf_counter() - start))
            keys[str(share)] = round(pressed / (MASKS * pages), 3)
        self.screen.remove_listener("requestfinished", receive)
        return {
            "keys_per_answer": keys,
            "page_gap_ms": round(median(measured)),
            "gap_ms_per_answer": round(median(measured) / MASKS, 1),
            "page_bytes": round(sum(received) / len(measured)),
        }

    def answer_single(self, number: int, tasks: list[dict]) -> int:
        """The gap between two masks, each a task of its own."""
        self._open(number)
        self.screen.wait_for_selector(".cs-views img", timeout=60_000)
        self.screen.wait_for_timeout(1500)
        measured = []
        for task in tasks[1:]:
            self.screen.keyboard.press("y")
            self.screen.wait_for_timeout(self.look)
            start = time.perf_counter()
            self.screen.keyboard.press("Space")
            path = task["data"]["views"].split("src='")[1].split("?")[0]
            self.screen.wait_for_function(
                """p => { const all = [...document.querySelectorAll('.cs-views img')];
                return all.length && all[0].src.startsWith(p) && all.every(i => i.complete && i.naturalWidth) }""",
                arg=path,
            )
            measured.append(1000 * (time.perf_counter() - start))
        return round(median(measured))

    def _open(self, number: int) -> None:
        self.screen.goto(f"{self.url}/projects/{number}/data?labeling=1")


def wait_shown(screen: Any, first: str) -> None:
    """Until the page whose first crop is that of mask `first` is drawn in full."""
    screen.wait_for_function(
        """first => { const input = document.querySelector('.cv-wrong input');
        const all = [...document.querySelectorAll('.cv-crop img.cv-fill')];
        return input && input.name === first && all.length && all.every(i => i.complete && i.naturalWidth > 0) }""",
        arg=first,
        timeout=60_000,
    )


def chromium() -> str:
    import shutil

    found = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    if found is None:
        raise SystemExit("chromium: expected it on PATH, got none")
    return found


if __name__ == "__main__":
    main()
