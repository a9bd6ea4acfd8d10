"""Starting from a large source project, for `tests.benchmarks.studio`.

Three of four tasks have four annotations each, of three polygons; Label Studio's import brings them in batches. Every
task has an image file of its own, which is fetched through Label Studio.

    imported        tasks and annotations, and how long its import took
    killed          a start that is killed once half of the tasks are noted
    went_on         the start after it: seconds, peak memory, how many tasks it read
    again           one more, with everything noted: what it costs to begin again
    small           a first start from a project of a tenth of the tasks
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from campaign.label_studio.client import Client
from campaign.label_studio.source import NOTES_FILE

if TYPE_CHECKING:
    from tests.benchmarks.studio_server import Studio

CONFIG = """<View><Image name="image" value="$image"/><PolygonLabels name="label" toName="image">
<Label value="cell"/><Label value="core"/></PolygonLabels></View>"""
BATCH = 500
SIDE = 64  # pixels
LINKS = 10_000  # images that are links to one file: a file system takes some ten thousand
ANNOTATED = 4  # every such task but one is annotated, this often
REGIONS, CORNERS = 3, 12


def measure(studio: Studio, folder: Path, tasks: int, say: Callable[[str], None]) -> dict[str, Any]:
    """What starts from a project of so many tasks took."""
    client = Client(studio.url, studio.token, timeout=600)
    small, _ = import_tasks(studio, client, tasks // 10, say)
    result: dict[str, Any] = {"small": {"tasks": tasks // 10} | start_apart(studio, folder / "small", small)}
    say(f"{result}")
    project, seconds = import_tasks(studio, client, tasks, say)
    annotations = (tasks - tasks // ANNOTATED) * ANNOTATED
    result["imported"] = {"tasks": tasks, "annotations": annotations, "seconds": round(seconds, 1)}
    say(f"{result}")
    result["killed"] = kill_halfway(studio, folder / "large", project, tasks)
    result["went_on"] = {"tasks": tasks - result["killed"]["tasks"]} | start_apart(studio, folder / "large", project)
    say(f"{result}")
    shutil.rmtree(folder / "large")
    result["again"] = start_apart(studio, folder / "large", project)
    return result


def import_tasks(studio: Studio, client: Client, tasks: int, say: Callable[[str], None]) -> tuple[int, float]:
    """(a project with so many tasks, the seconds that its import took)."""
    assert studio.files is not None
    project = client.request("POST", "api/projects", body={"title": f"Source of {tasks}", "label_config": CONFIG})["id"]
    images = studio.files / str(project)
    images.mkdir()
    # Label Studio hands out what lies below a storage of the project, and that is a folder with something in it.
    _link(images, 0)
    storage = {"project": project, "path": str(images), "use_blob_urls": True, "title": "images"}
    client.request("POST", "api/storages/localfiles", body=storage)
    rng, began = random.Random(0), time.perf_counter()
    for first in range(0, tasks, BATCH):
        bodies = []
        for number in range(first, min(first + BATCH, tasks)):
            if number:
                _link(images, number)
            address = f"/data/local-files/?d={project}/{number}.png"
            annotations = [
                {"result": [_region(rng, k) for k in range(REGIONS)], "ground_truth": False}
                for _ in range(ANNOTATED if number % ANNOTATED else 0)
            ]
            bodies.append({"data": {"image": address}, "annotations": annotations})
        client.request("POST", f"api/projects/{project}/import", body=bodies)
        if first % 10_000 == 0:
            say(f"{first} of {tasks} tasks of the source project are imported, {time.perf_counter() - began:.0f} s")
    return project, time.perf_counter() - began


def _link(folder: Path, number: int) -> None:
    """An image of its own name for a task."""
    first = folder / f"{number - number % LINKS}.png"
    if number % LINKS == 0:
        Image.new("RGB", (SIDE, SIDE)).save(first)
    else:
        (folder / f"{number}.png").hardlink_to(first)


def _region(rng: random.Random, number: int) -> dict[str, Any]:
    points = [[round(rng.uniform(10, 90), 2), round(rng.uniform(10, 90), 2)] for _ in range(CORNERS)]
    return {
        "id": f"r{number}", "type": "polygonlabels", "from_name": "label", "to_name": "image",
        "original_width": SIDE, "original_height": SIDE, "image_rotation": 0,
        "value": {"points": points, "polygonlabels": ["cell" if number else "core"]},
    }  # fmt: skip


def process(studio: Studio, folder: Path, project: int) -> subprocess.Popen:
    """A start in a process of its own, which prints what it took."""
    command = [sys.executable, "-m", "tests.benchmarks.studio_source", str(folder), studio.url, str(project)]
    environment = {**os.environ, "LABEL_STUDIO_API_KEY": studio.token}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def start_apart(studio: Studio, folder: Path, project: int) -> dict[str, Any]:
    """What a start in a process of its own took, and Label Studio meanwhile."""
    there = studio.processor_seconds()
    out, _ = process(studio, folder, project).communicate()
    return json.loads(out) | {"cpu_label_studio": round(studio.processor_seconds() - there, 1)}


def start(folder: Path, url: str, project: int) -> dict[str, Any]:
    """Starts a campaign from the project, in this process."""
    from campaign.steps.create import create_from_label_studio

    began = time.perf_counter()
    values = {"name": "source", "label_studio": {"url": url, "source_project": project}}
    store = create_from_label_studio(folder, values, os.environ["LABEL_STUDIO_API_KEY"])
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_here": round(time.process_time(), 1),
        "peak_rss_mib": _peak_mib(),
        "images": {split: store.images.count(split) for split in ("labelled", "heldout", "pool")},
    }


def _peak_mib() -> int:
    """The most memory that this process ever held; what the one that started it held does not count."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) >> 10


def kill_halfway(studio: Studio, folder: Path, project: int, tasks: int) -> dict[str, float]:
    """Kills a start once half of the tasks are noted; how many were, and after how long."""
    began, notes = time.perf_counter(), folder.with_name(folder.name + ".images") / NOTES_FILE
    running = process(studio, folder, project)
    noted = 0
    try:
        while noted < tasks // 2 and running.poll() is None:
            time.sleep(1)
            if notes.exists():
                file = sqlite3.connect(f"file:{notes}?mode=ro", uri=True, timeout=60)
                noted = file.execute("SELECT count(*) FROM tasks").fetchone()[0]
                file.close()
    finally:
        running.kill()
        running.wait()
    return {"tasks": noted, "seconds": round(time.perf_counter() - began, 1)}


if __name__ == "__main__":
    print(json.dumps(start(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
