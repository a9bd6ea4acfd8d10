"""How long an annotator waits for the answer to a click: several annotators, pictures of 1024x1024 pixels.

    python -m tests.benchmarks.clicks --json

Starts our server under gunicorn with the segmenter `click`, trained for a few steps: its speed is that of any weights.
Each annotator goes from picture to picture, looks at it, and clicks; the first click on a picture is counted apart.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from base64 import b64encode
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from tests.benchmarks.serving import start_server

SIDE = 1024
OBJECTS = 24
CONFIG = (
    '<View><Text name="hint" value="$hint"/><TextArea name="message" toName="hint"/>'
    '<KeyPoint name="outside" toName="i" smart="true"/><KeyPoint name="click" toName="i" smart="true"/>'
    '<Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="cell"/></BrushLabels></View>'
)
ACCESS = ("campaign", "benchmark")


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.clicks", description=__doc__.split("\n")[0])
    parser.add_argument("--annotators", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=4, help="of each annotator")
    parser.add_argument("--clicks", type=int, default=9, help="on each picture")
    parser.add_argument("--think", type=float, default=1.0, help="seconds between an answer and the next click")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="clicks-") as name:
        folder = Path(name)
        prepare(folder, options.annotators * options.pictures)
        server, base = start_server("tests.benchmarks.clicks:application()", {"CLICKS_FOLDER": name}, threads=32)
        try:
            before = processor_seconds(server.pid)
            result = measure(base, options)
            spent = processor_seconds(server.pid) - before
            result["processor_seconds_per_click"] = round(spent / result["clicks"], 4)
        finally:
            server.terminate()
            server.wait(10)
    result = {"load": round(os.getloadavg()[0], 2), "cpus": os.cpu_count(), **result}
    print(json.dumps(result) if options.json else "\n".join(f"{k:28} {v}" for k, v in result.items()))


def processor_seconds(pid: int) -> float:
    """What a server's processes have used of the processors, pictures encoded on the way included."""
    server = psutil.Process(pid)
    return sum(t.user + t.system for t in (p.cpu_times() for p in (server, *server.children(recursive=True))))


def draw(seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """A textured picture with ellipses, and their masks."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(50, 90, (SIDE, SIDE, 3)).astype(np.uint8)
    yy, xx = np.mgrid[:SIDE, :SIDE]
    masks = []
    for k in range(OBJECTS):
        x, y = 100 + (k % 5) * 200 + rng.integers(-30, 30), 100 + (k // 5) * 200 + rng.integers(-30, 30)
        mask = ((xx - x) / rng.integers(30, 70)) ** 2 + ((yy - y) / rng.integers(30, 70)) ** 2 < 1
        picture[mask] = picture[mask] + rng.integers(60, 120, 3).astype(np.uint8)
        masks.append(mask)
    return picture, masks


def prepare(folder: Path, count: int) -> None:
    """Pictures, and a segmenter that was trained for a few steps."""
    from PIL import Image
    from pycocotools import mask as mask_util

    from ml_backend.interactive.click import ClickSegmenter
    from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord

    annotations: list[Annotation] = []
    for n in range(count):
        picture, masks = draw(n)
        Image.fromarray(picture).save(folder / f"{n}.png")
        if n == 0:
            rles = [mask_util.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
            annotations = [Annotation(i + 1, 1, 1, rle) for i, rle in enumerate(rles)]
    record = ImageRecord(1, "0.png", SIDE, SIDE, folder / "0.png")
    data = CocoDataset([record], {1: "cell"}, annotations)
    ClickSegmenter.train(data, None, folder / "model", options={"steps": 3})


def application() -> Any:
    """What gunicorn serves."""
    from ml_backend.interactive.click import CHECKPOINT, ClickSegmenter
    from ml_backend.interactive.steps import StepLog
    from ml_backend.server.app import Access, create_app
    from ml_backend.server.backend import Backend, ModelSource
    from ml_backend.server.image_files import ImageFiles
    from ml_backend.server.interactive import Interactive, TaskPictures

    folder = Path(os.environ["CLICKS_FOLDER"])

    class NoModel(ModelSource):
        version = "none"

    segmenter = ClickSegmenter.load(folder / "model" / CHECKPOINT)
    pictures = TaskPictures(lambda _project, task, _key: folder / f"{task['id'] - 1}.png")
    interactive = Interactive(lambda: segmenter, pictures, StepLog(folder / "steps.sqlite"))
    backend = Backend(NoModel(), ImageFiles(folder / "cache"), interactive=interactive)  # type: ignore[abstract]
    return create_app(backend=backend, access=Access(ACCESS))


class Annotator(threading.Thread):
    """Clicks through some pictures; `first` and `later` are the seconds of its clicks."""

    def __init__(self, base: str, tasks: range, clicks: int, think: float):
        super().__init__()
        self.connection = HTTPConnection(base, timeout=60)
        self.tasks, self.clicks, self.think = tasks, clicks, think
        self.first: list[float] = []
        self.later: list[float] = []

    def run(self) -> None:
        """Clicks until all pictures are done."""
        for task in self.tasks:
            rng, points = np.random.default_rng(task), list[dict[str, Any]]()
            self._post(task, {"event": "prewarm"})
            time.sleep(self.think)
            for n in range(self.clicks):
                x, y = rng.uniform(5, 95, 2).tolist()
                sign = n == 0 or bool(rng.random() < 0.6)
                value = {"x": x, "y": y, "width": 0.5}
                new = {"id": f"n{n}", "from_name": "click", "type": "keypoint", "value": value, "is_positive": sign}
                begin = time.perf_counter()
                answer = self._post(task, {"result": [*points, new]})
                (self.later if n else self.first).append(time.perf_counter() - begin)
                points = [r for r in answer["results"][0]["result"] if r["type"] == "keypoint"]
                time.sleep(self.think)

    def _post(self, task: int, context: dict[str, Any]) -> dict[str, Any]:
        tasks = [{"id": task, "data": {"image": "x", "hint": ""}}]
        body = {"tasks": tasks, "project": "1.1", "label_config": CONFIG, "params": {"context": context}}
        head = {
            "Content-Type": "application/json",
            "Authorization": f"Basic {b64encode(':'.join(ACCESS).encode()).decode()}",
        }
        self.connection.request("POST", "/predict", json.dumps(body), head)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the server answered {answer.status}: {text[:200]!r}")
        return json.loads(text)


def measure(base: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of clicks, over all annotators."""
    host = base.removeprefix("http://")
    each = options.pictures
    people = [
        Annotator(host, range(1 + n * each, 1 + (n + 1) * each), options.clicks, options.think)
        for n in range(options.annotators)
    ]
    for person in people:
        person.start()
    for person in people:
        person.join()
    first, later = ([s for p in people for s in getattr(p, name)] for name in ("first", "later"))
    return {
        "annotators": options.annotators,
        "think_seconds": options.think,
        "clicks": len(first) + len(later),
        "first_click_median": round(median(first), 3),
        "first_click_p95": round(float(np.quantile(first, 0.95)), 3),
        "later_click_median": round(median(later), 3),
        "later_click_p95": round(float(np.quantile(later, 0.95)), 3),
    }


if __name__ == "__main__":
    sys.exit(main())
