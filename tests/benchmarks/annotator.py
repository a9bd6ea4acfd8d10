"""What an annotator waits for and presses: gaps between pages, keys per answer, crops per second, bytes per page.

    python -m tests.benchmarks.annotator --json

Starts a real Label Studio, our server under gunicorn and Chromium. The crops are cut from JPEGs of 2000x1500 pixels.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

SECRET = "benchmark"
SIZE = (2000, 1500)
MASKS = 15
IMAGES = 24


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.annotator", description=__doc__.split("\n")[0])
    parser.add_argument("--pages", type=int, default=12, help="pages per measurement in the browser")
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
                result |= measure_crops(base)
            if arguments.only != "crops":
                result |= measure_browser(folder, base, arguments.pages)
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


def application() -> Any:
    """What gunicorn serves."""
    from ml_backend.server.app import create_app

    return create_app(Folder(Path(os.environ["ANNOTATOR_FOLDER"])), secret=SECRET)


def start_crops(folder: Path) -> tuple[subprocess.Popen, str]:
    """Our server as `campaign serve` runs it: one process, eight threads."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "gunicorn", "-b", address, "-w", "1", "-k", "gthread", "--threads", "8"]
    server = subprocess.Popen(
        [*command, "--log-level", "error", "tests.benchmarks.annotator:application()"],
        env=os.environ | {"ANNOTATOR_FOLDER": str(folder)},
        cwd=Path(__file__).parents[2],
    )
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            connection = HTTPConnection(address, timeout=2)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return server, f"http://{address}"
        except OSError:
            time.sleep(0.1)
    raise SystemExit("crop server: expected it to be up, got no answer")


def address(base: str, image: int, k: int) -> str:
    from ml_backend.server.signing import crop_url

    return crop_url(base, SECRET, 1000 * image + k, 4_000_000_000)


def measure_crops(base: str) -> dict[str, Any]:
    """Milliseconds from request to the last byte with 15 requests at once, the image not decoded before and decoded."""
    cold, warm, sizes = [], [], []
    together(base, 0)  # the first request of all also imports and connects
    for image in range(1, IMAGES):
        cold += [t for t, _ in together(base, image)]
        for _ in range(3):
            got = together(base, image)
            warm += [t for t, _ in got]
            sizes += [n for _, n in got]
    both = {"cold": sorted(cold), "warm": sorted(warm)}
    result = {f"crop_{name}_p{q}_ms": at(times, q) for name, times in both.items() for q in (50, 95)}
    return (
        {"crop_p50_ms": at(both["warm"], 50), "crop_p95_ms": at(both["warm"], 95)}
        | result
        | {"crop_bytes": round(sum(sizes) / len(sizes))}
    )


def together(base: str, image: int) -> list[tuple[float, int]]:
    """(milliseconds, bytes) of the 15 crops of an image asked for at the same moment."""
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

    threads = [threading.Thread(target=ask, args=(address(base, image, k).removeprefix(base),)) for k in range(MASKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def at(times: list[float], percent: int) -> float:
    return round(times[min(len(times) - 1, len(times) * percent // 100)], 1)


def measure_browser(folder: Path, base: str, pages: int) -> dict[str, Any]:
    """Gaps, keys and bytes as Chromium sees them."""
    from playwright.sync_api import sync_playwright

    import label_config
    from campaign.label_studio.client import Client
    from campaign.label_studio.server import LabelStudioServer, log_in

    page_tasks = []
    for i in range(3 * pages + 1):
        image = i % IMAGES
        shown = [label_config.Crop(str(1000 * image + k), address(base, image, k)) for k in range(MASKS)]
        page_tasks.append({"data": label_config.page_data(f"p{i}", "disc", shown)})
    single_tasks = [
        {"data": label_config.single_data(f"s{i}", "disc", address(base, i % IMAGES, i % MASKS))}
        for i in range(pages + 1)
    ]
    with LabelStudioServer(folder / "label-studio") as studio, sync_playwright() as driver:
        client = Client(studio.url, studio.token)
        browser = driver.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-background-networking"]
        )
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        session = log_in(studio.url, studio.user, studio.password)
        context.add_cookies([{"name": c.name, "value": c.value, "url": studio.url} for c in session.cookies])
        screen = context.new_page()
        received: list[int] = []

        def receive(request: Any) -> None:
            sizes = request.sizes()
            received.append(sizes["responseBodySize"] + sizes["responseHeadersSize"])

        screen.on("requestfinished", receive)

        def project(name: str, tasks: list[dict]) -> int:
            body = {"title": name, "label_config": label_config.load(name).xml}
            number = client.request("POST", "api/projects/", body=body)["id"]
            client.request("POST", f"api/projects/{number}/import", body=tasks)
            return number

        gaps: dict[str, float] = {}
        keys: dict[str, float] = {}
        number = project("verification", page_tasks)
        screen.goto(f"{studio.url}/projects/{number}/data?labeling=1")
        wait_shown(screen, page_tasks[0]["data"]["crops"][0]["value"])
        screen.wait_for_timeout(1000)
        rng = random.Random(0)
        done, measured, received_before = 0, [], 0
        for share in (0, 10, 20):
            pressed = 0
            for _ in range(pages):
                for key in label_config.HOTKEYS:
                    if 100 * rng.random() < share:
                        screen.keyboard.press(key)
                        screen.wait_for_timeout(40)
                        pressed += 1
                if done == 1:
                    received_before = len(received)
                done += 1
                start = time.perf_counter()
                screen.keyboard.press("Space")
                pressed += 1
                wait_shown(screen, page_tasks[done]["data"]["crops"][0]["value"])
                measured.append(1000 * (time.perf_counter() - start))
            keys[str(share)] = round(pressed / (MASKS * pages), 3)
        per_page = sum(received[received_before:]) / (done - 1)
        screen.remove_listener("requestfinished", receive)
        gaps["page_gap_ms"] = round(median(measured))
        gaps["gap_ms_per_answer"] = round(median(measured) / MASKS, 1)

        number = project("single", single_tasks)
        screen.goto(f"{studio.url}/projects/{number}/data?labeling=1")
        screen.wait_for_selector(".cs-views img", timeout=60_000)
        screen.wait_for_timeout(1500)
        measured = []
        for task in single_tasks[1:]:
            screen.keyboard.press("y")
            screen.wait_for_timeout(150)
            start = time.perf_counter()
            screen.keyboard.press("Space")
            path = task["data"]["views"].split("src='")[1].split("?")[0]
            screen.wait_for_function(
                """p => { const all = [...document.querySelectorAll('.cs-views img')];
                return all.length && all[0].src.startsWith(p) && all.every(i => i.complete && i.naturalWidth) }""",
                arg=path,
            )
            measured.append(1000 * (time.perf_counter() - start))
        gaps["single_gap_ms_per_answer"] = round(median(measured))
        browser.close()
    data = len(json.dumps(page_tasks[0]["data"]))
    return {"keys_per_answer": keys} | gaps | {"page_bytes": round(per_page), "task_bytes": data}


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
