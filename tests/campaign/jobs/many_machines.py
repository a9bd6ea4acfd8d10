"""`python -m tests.campaign.jobs.many_machines FOLDER`: one campaign on many machines that share no disk.

Real Redis and PostgreSQL, moto's S3 server, and the fault matrix's stand-in for Label Studio. A machine is a process
with a home, a cache and a current folder of its own. What came of it is printed as JSON, beside what the same campaign
comes to in a folder on one machine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

from campaign.jobs import worker  # noqa: E402
from campaign.jobs.broker import ping  # noqa: E402
from campaign.jobs.supervisor import Supervisor  # noqa: E402
from campaign.records.stage import Stage  # noqa: E402
from campaign.steps.create import create_from_files  # noqa: E402
from campaign.steps.export import export_campaign  # noqa: E402
from campaign.steps.rounds import due, progress_of, run_step, start_campaign  # noqa: E402
from campaign.store import Store  # noqa: E402
from ml_backend.learning.evaluation import true_iou  # noqa: E402
from ml_backend.masks.coco import CocoDataset  # noqa: E402
from tests.campaign.steps.colours import draw  # noqa: E402
from tests.security.faults.campaigns import _install_colours  # noqa: E402
from tests.security.faults.label_studio import FIRST_TOKEN, LabelStudio, control  # noqa: E402
from tests.security.faults.machines import Forked, Postgres, Redis, fork, free_port  # noqa: E402
from tests.security.faults.matrix import People, _answers, _until  # noqa: E402

URL = "s3://bucket/campaigns/many"
IMAGES = {"labelled": 3, "pool": 8, "heldout": 2}
SETTINGS = {
    "name": "many", "detector": {"name": "colours"}, "rounds": {"rounds": 2, "least_new": 0.0},
    "search": {"policy": "paper", "n_s": 4, "k_iou": 0.6}, "quality": {"gold_share": 0.0},
}  # fmt: skip
JOBS = {"shard_images": 2, "poll_seconds": 0.25, "retry_seconds": 0.1}
LIMIT = 300.0  # seconds


@dataclass
class Site:
    """What all machines reach: a bucket, a database, queues, Label Studio; and where their own folders are."""

    folder: Path
    data: Path
    database_url: str
    redis_url: str
    port: int  # of Label Studio

    def machine(self, name: str, work: Callable[[], Any]) -> Forked:
        """A machine of its own that does some work."""

        def begin() -> None:
            own = self.folder / "machines" / name
            own.mkdir(parents=True)
            os.environ |= {
                "HOME": str(own),
                "CAMPAIGN_CACHE": str(own / "cache"),
                "CAMPAIGN_IMAGE_CACHE": str(own / "images"),
            }
            os.chdir(own)
            import logging

            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
            work()

        return Forked(fork(begin, self.folder / f"{name}.log"))

    def do(self, name: str, work: Callable[[], Any]) -> Any:
        """What a machine that does one thing says of it."""
        said = self.folder / f"{name}.json"
        code = self.machine(name, lambda: said.write_text(json.dumps(work()))).wait(LIMIT)
        assert code == 0, (self.folder / f"{name}.log").read_text()
        return json.loads(said.read_text())

    def control(self, what: str, **body: Any) -> Any:
        """See `tests.security.faults.label_studio.control`."""
        return control(self.port, what, **body)


class Truth:
    """Whether a mask is correct, by the true masks of its image."""

    def __init__(self, store: Store, data: Path):
        self.store, self.data = store, data
        self.known: dict[int, bool] = {}

    def __call__(self, mask: int) -> bool:
        """Looks at all masks of a round when one of them is asked for first."""
        if mask not in self.known:
            for row in self.store.rounds.all():
                masks = self.store.masks.predictions(row.number, "pool", features=False)
                names = {r.file_name: r.id for r in self.store.images.records("pool")}
                true = CocoDataset.load(self.data / "pool.json", self.data / "images")
                ids = {image.id: names[image.file_name] for image in true.images}
                moved = CocoDataset(
                    [type(i)(ids[i.id], i.file_name, i.width, i.height, i.path) for i in true.images], true.classes,
                    [type(a)(a.id, ids[a.image_id], a.class_id, a.rle) for a in true.annotations],
                )  # fmt: skip
                right = true_iou(masks, moved, one_to_one=False) >= self.store.settings.search.k_iou
                self.known |= dict(zip(masks.mask_id.tolist(), right.tolist(), strict=True))
        return self.known[mask]


def make(site: Site, place: str | Path, jobs: dict[str, Any]) -> Store:
    """The campaign, at a place."""
    settings = SETTINGS | {"jobs": JOBS | jobs, "label_studio": {"url": f"http://127.0.0.1:{site.port}"}}
    files = (site.data / name for name in ("images", "labelled.json", "pool.json", "heldout.json"))
    store = create_from_files(place, settings, *files)
    store.save_secrets({"label_studio_token": FIRST_TOKEN})
    return store


def outcome(store: Store, path: Path) -> dict[str, Any]:
    """What a campaign came to: its export, without what no two have in common, and its rounds."""
    export_campaign(store, path)
    content = json.loads(path.read_text())
    content["info"].pop("date_created")
    rounds = [[r.number, r.stage, r.model_version, store.masks.count(r.number, "pool")] for r in store.rounds.all()]
    return {"export": content, "rounds": rounds, "answers": len(store.answers.rows())}


def on_one(site: Site) -> dict[str, Any]:
    """The campaign in a folder, step by step."""
    store = make(site, Path("campaign"), {})
    people = People(site, store, Truth(store, site.data))  # type: ignore[arg-type]
    start_campaign(store)
    while (progress := progress_of(store)) is not None and progress.stage != Stage.DONE:
        for step in due(progress):
            run_step(store, step.name, step.round_number, *step.args)
        while people.answer():
            pass
    return outcome(store, Path("export.json"))


def on_many(site: Site, kill: Callable[[list[Forked]], int]) -> dict[str, Any]:
    """The campaign at a URL: a machine that runs it, people, and four workers, of which one is killed."""
    jobs = {"database_url": site.database_url, "redis_url": site.redis_url}
    key = site.do("init", lambda: make(site, URL, jobs).key)

    def lead() -> None:
        store = Store.open(URL)
        start_campaign(store)
        with Supervisor.started(store, gpu_workers=0, default_workers=0, serve=False) as run:
            run.until_done()

    def answer() -> None:
        store = Store.open(URL)
        people = People(site, store, Truth(store, site.data))  # type: ignore[arg-type]
        while True:
            if not people.answer():
                time.sleep(0.2)

    def work(number: int) -> Callable[[], None]:
        # Workers of the queue for GPUs load this one ahead, and torch with it; the campaign here has another detector.
        sys.modules.setdefault("ml_backend.detectors.torchvision.detector", sys.modules[__name__])
        return lambda: worker.work(URL, ["gpu", "default"], name=f"{key}-machine-{number}")

    crowd = [site.machine(f"worker-{number}", work(number)) for number in range(4)]
    crowd.append(site.machine("people", answer))
    main = site.machine("run", lead)
    try:
        killed = kill(crowd)
        crowd.append(site.machine("worker-4", work(4)))
        code = main.wait(LIMIT)
        assert code == 0, (site.folder / "run.log").read_text()
    finally:
        for one in [main, *crowd]:
            one.kill()
            one.wait()
    return site.do("look", look) | {"killed": killed} | done_by(site)


def look() -> dict[str, Any]:
    """What a machine that was never there finds at the end."""
    from campaign.pages.consistency import findings

    store = Store.open(URL)
    objects = store.files.below(store.folder)
    shards = [f"{s.round}/{s.split}/{s.number}" for r in store.rounds.all() for s in store.masks.shards(r.number)]
    found = [f"{f.thing}: {f.problem}" for f in findings(Store.open(URL, read_only=True), None)]
    held = sorted(name for name in store._place.bucket.names() if "/predictions/" in name)  # type: ignore[attr-defined]
    named = sorted(path.name for path in objects if path.parent.name == "predictions")
    return outcome(store, Path("export.json")) | {
        "shards": shards, "findings": found, "objects of shards": len(held), "files of shards": len(named),
    }  # fmt: skip


def done_by(site: Site) -> dict[str, Any]:
    """Which workers did steps, turns left out, of which there are many; and how often each shard was uploaded."""
    workers = [
        number
        for number in range(5)
        for line in (site.folder / f"worker-{number}.log").read_text().splitlines()
        if line.endswith("] is done") and "step=sync" not in line
    ]
    words = (line.split() for line in (site.folder / "s3.log").read_text().splitlines() if "/predictions/" in line)
    uploads = Counter(path for line in words for verb, path in pairwise(line) if verb == '"PUT')
    return {"workers": sorted(set(workers)), "uploads": sorted(uploads.values())}


def killer(site: Site) -> Callable[[list[Forked]], int]:
    """Kills the machine that first works on a shard of the pool."""

    def kill(crowd: list[Forked]) -> int:
        connection = ping(site.redis_url)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            for raw in connection.keys("rq:job:*detect-pool*"):
                name, status = connection.hmget(raw, "worker_name", "status")  # type: ignore[misc]
                if name and status == b"started":
                    number = int(name.decode().rpartition("-")[2])
                    crowd[number].kill()
                    crowd[number].wait()
                    return number
            time.sleep(0.01)
        raise AssertionError("no worker took a shard")

    return kill


def main() -> None:
    """Sets the site up, runs the campaign on one machine and on many, and prints what came of both."""
    began = time.monotonic()
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    _install_colours()
    port, s3 = free_port(), free_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}", "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    (folder / "postgres").mkdir()
    postgres, redis = Postgres(folder / "postgres"), Redis(folder / "redis")
    redis.start()
    servers = [
        Forked(fork(lambda: LabelStudio(port).serve(), folder / "label_studio.log")),
        Forked(fork(lambda: serve_bucket(s3), folder / "s3.log")),
    ]
    site = Site(folder, draw(folder / "data", IMAGES), postgres.database("many"), redis.url, port)
    try:
        assert _until(lambda: _answers(port) and _answers(s3), 20)
        one = site.do("alone", lambda: on_one(site))
        many = on_many(site, killer(site))
    finally:
        for server in servers:
            server.kill()
        redis.stop()
        postgres.stop()
    print(json.dumps({"one": one, "many": many, "seconds": round(time.monotonic() - began, 1)}))


def serve_bucket(port: int) -> None:
    """moto's S3 server, with an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False).start()
    while True:
        with suppress(Exception):  # it is not up yet
            boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}").create_bucket(Bucket="bucket")
            break
        time.sleep(0.2)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main()
