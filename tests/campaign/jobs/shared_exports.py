"""`python -m tests.campaign.jobs.shared_exports FOLDER`: an export of a campaign at a URL, by workers without a disk.

Real Redis and PostgreSQL and moto's S3 server; see `many_machines`. A worker is killed while it makes a part, and
another comes later. What came of it is printed as JSON, beside what one process makes of the same campaign.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from campaign.dataset.choice import Parts
from campaign.jobs import worker
from campaign.jobs.broker import ping
from campaign.records.stage import Stage
from campaign.settings import CampaignSettings
from campaign.steps import export_files
from campaign.steps.export import export_campaign
from campaign.steps.export_files import Form
from campaign.store import Store
from ml_backend.buckets import Bucket
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.masks.fetched import file_of
from tests.benchmarks.exports import EACH, ENLARGED, enlarged, obtained
from tests.benchmarks.scale_pool import SIDE, known_masks
from tests.campaign.jobs.many_machines import Site, serve_bucket
from tests.security.faults.machines import Forked, Postgres, Redis, fork, free_port
from tests.security.faults.matrix import _answers, _until

URL, OUT = "s3://bucket/campaigns/exported", "s3://bucket/delivered/e.json"
IMAGES, CLASSES, LENGTH = 40, 3, 8
SLOW = 0.5  # seconds that a part takes longer, so that a worker can be killed in the middle of one


def make(site: Site) -> str:
    """The campaign, whose only round has ended; returns its key."""
    names, side = {c: f"class {c}" for c in range(1, CLASSES + 1)}, SIDE * ENLARGED
    # Images that lie elsewhere: an export looks at none.
    urls = {n: f"s3://bucket/images/{n}.png" for n in range(1, IMAGES + 1)}
    pool = [ImageRecord(n, f"{n}.png", side, side, file_of(url)) for n, url in urls.items()]
    settings = CampaignSettings(
        name="exported", search={"policy": "adaptive"},
        jobs={"database_url": site.database_url, "redis_url": site.redis_url, "retry_seconds": 0.1},
    )  # fmt: skip
    store = Store.create(URL, settings, {"pool": CocoDataset(pool, names)})
    store.rounds.start(1, "verify")
    masks = enlarged(known_masks(store.images.ids("pool"), CLASSES, EACH)).with_ids(1, 0)
    store.datasets.save(1, obtained(masks))
    store.rounds.update(1, model_version="v1", stage=Stage.DONE)
    return store.key


def alone() -> dict[str, str]:
    """What one process writes."""
    export_campaign(Store.open(URL), Path("e.json"), form=Form(parts=Parts(LENGTH)))
    return {path.name: digest(path.read_bytes()) for path in Path().glob("e-*")}


def digest(content: bytes) -> str:
    """The digest that a data card names."""
    return hashlib.sha256(content).hexdigest()


def work(key: str, number: int) -> None:
    """A worker, who takes some time for a part."""
    # Workers of the queue for GPUs load this one ahead, and torch with it.
    sys.modules.setdefault("ml_backend.detectors.torchvision.detector", sys.modules[__name__])
    write = export_files.PartWriter.write

    def slow(self: Any, *arguments: Any) -> None:
        write(self, *arguments)
        print("wrote a part", flush=True)
        time.sleep(SLOW)

    export_files.PartWriter.write = slow  # type: ignore[method-assign]
    worker.work(URL, ["gpu"], name=f"{key}-machine-{number}")


def export() -> dict[str, Any]:
    """What the command prints."""
    from typer.testing import CliRunner

    from campaign.cli import app

    arguments = ["export", URL, "--out", OUT, "--parts", str(LENGTH), "--jobs", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout))


def look() -> dict[str, Any]:
    """What lies where the export was to go, and what is left of its plan."""
    there = Bucket(OUT.rpartition("/")[0])
    left = [path.name for path in Store.open(URL).files.below(Store.open(URL).folder / "exports")]
    return {"files": {name: digest(there.read(name) or b"") for name in there.names()}, "left": left,
            "card": json.loads(there.read("e.card.json") or b"{}")}  # fmt: skip


def kill_one(site: Site, crowd: list[Forked]) -> int:
    """Kills the machine that makes a part first, in the middle of it."""
    connection = ping(site.redis_url)
    for _ in range(3000):
        for raw in connection.keys("rq:job:*-export-*"):
            name, status = connection.hmget(raw, "worker_name", "status")  # type: ignore[misc]
            number = int(name.decode().rpartition("-")[2]) if name and status == b"started" else None
            if number is not None and "wrote a part" in (site.folder / f"worker-{number}.log").read_text():
                crowd[number].kill()
                crowd[number].wait()
                return number
        time.sleep(0.01)
    raise AssertionError("no worker took a part")


def on_machines(site: Site) -> dict[str, Any]:
    """The export by two workers, of which one is killed, and one that comes then."""
    key = site.do("init", lambda: make(site))
    one = site.do("alone", alone)
    crowd = [site.machine(f"worker-{n}", lambda n=n: work(key, n)) for n in (0, 1)]  # type: ignore[misc]
    said = site.folder / "export.json"
    lead = site.machine("export", lambda: said.write_text(json.dumps(export())))
    try:
        killed = kill_one(site, crowd)
        crowd.append(site.machine("worker-2", lambda: work(key, 2)))
        assert lead.wait(60) == 0, (site.folder / "export.log").read_text()
    finally:
        for machine in [lead, *crowd]:
            machine.kill()
            machine.wait()
    made = [(site.folder / f"worker-{n}.log").read_text().count("wrote a part") for n in range(3)]
    return {"one": one, "killed": killed, "made": made, "said": json.loads(said.read_text())} | site.do("look", look)


def main() -> None:
    """Sets the site up, has the export made, and prints what came of it."""
    began, folder = time.monotonic(), Path(sys.argv[1])
    port = free_port()
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "127.0.0.1",
    }  # fmt: skip
    (folder / "postgres").mkdir()
    postgres, redis = Postgres(folder / "postgres"), Redis(folder / "redis")
    redis.start()
    server = Forked(fork(lambda: serve_bucket(port), folder / "s3.log"))
    site = Site(folder, folder, postgres.database("exported"), redis.url, 0)
    try:
        assert _until(lambda: _answers(port), 20)
        result = on_machines(site)
    finally:
        server.kill()
        redis.stop()
        postgres.stop()
    print(json.dumps(result | {"seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main()
