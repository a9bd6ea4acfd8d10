"""What every step costs as a campaign grows: `python -m tests.benchmarks.scale --images N --masks M --classes C`.

A pool of tiny pictures, and a detector that writes known masks (`tests.benchmarks.scale_pool`). Each step
but those of Label Studio is run by real workers of RQ, in processes of their own, or by the command line. Prints, with
--json as one object:

    steps    {step: {seconds, cpu_seconds, peak_rss_gib, read_gib, written_gib, jobs}}
    growth   with --growth, {step: {seconds, cpu_seconds, peak_rss}}: exponents over three sizes a factor of four apart,
             N and M the largest; the figures of all three stand under `sizes`

`seconds` pass from the beginning of a step's first job to the end of its last, `cpu_seconds` are those of the processor
and mean something on a machine that does other things too, `peak_rss_gib` is the most memory of any process, and bytes
are those of its calls, from the disk or its cache; what is read through a memory map is not among them. `turn` and
`answer` are the means of several turns; `answer` stores the answers to be read by one.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from campaign.jobs.broker import broker
from campaign.jobs.processes import die_with_parent
from campaign.jobs.queues import enqueue, enqueue_due, waiting
from campaign.records.page import is_question
from campaign.records.stage import Stage
from campaign.search.sampling import draw_keys
from campaign.steps.rounds import Step, StepName, start_campaign
from campaign.store import Store
from tests.benchmarks import scale_pool

SIZES = 3  # of --growth, a factor of FACTOR apart
FACTOR = 4
TURNS = 5
ANSWERS = 600  # to be read by one turn
WRONG = 20  # one answer in so many is wrong
GIB = 2**30
LIMIT = 6 * 3600  # seconds that a step may take


class Run:
    """One campaign, and what its steps took."""

    def __init__(self, folder: Path, options: argparse.Namespace):
        self.base, self.options = folder, options
        self.folder, self.figures = folder / "campaign", folder / "figures.jsonl"
        entry = folder / "entry"
        scale_pool.register(entry)
        paths = [str(entry), str(Path.cwd()), os.environ.get("PYTHONPATH", "")]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self.annotation = self.page = 0

    def command(self, step: str, *arguments: object) -> None:
        """Runs a command of the campaign as this step."""
        self._process("command", step, *map(str, arguments), check=True)

    def _process(self, *arguments: str, check: bool = False) -> subprocess.Popen:
        command = [sys.executable, "-m", "tests.benchmarks.scale_process", str(self.figures), *arguments]
        out = (self.base / "out.log").open("ab")
        process = subprocess.Popen(command, env=self.environment, stdout=out, stderr=out, preexec_fn=die_with_parent)
        if check and process.wait():
            raise SystemExit(f"{' '.join(arguments)}: {(self.base / 'out.log').read_text()[-2000:]}")
        return process

    @contextmanager
    def workers(self) -> Iterator[None]:
        """Workers for as long as the block runs."""
        started = [self._process("work", str(self.folder), f"w{n}") for n in range(self.options.workers)]
        try:
            yield
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait()

    def go(self) -> dict[str, dict[str, float]]:
        """Drives the campaign through a round, and returns {step: figures}."""
        images, masks, classes = self.options.images, self.options.masks, self.options.classes
        scale_pool.write_files(self.base / "data", images, masks, classes)
        detector, option = scale_pool.DETECTOR, f"each={masks / images}"
        if self.options.results:
            results = self.base / f"results.{self.options.results}"
            scale_pool.write_results(results, images, classes, masks / images)
            detector, option = "coco-results", f"results={results}"
        settings = [f"detector.name={detector}", f"detector.options.{option}", "detector.keep=0", "rounds.rounds=2"]
        self.command(
            "init", "init", self.folder, "--data", self.base / "data", *(f"--set={s}" for s in settings), "--json"
        )
        store = Store.open(self.folder)
        with broker(store) as connection:
            start_campaign(store)
            enqueue_due(store, connection)
            with self.workers():
                self._await(lambda: store.rounds.get(1).stage == Stage.VERIFY and not waiting(store, connection))
                sync = Step(StepName.SYNC, "default", 1)
                for _ in range(TURNS):
                    self._answer(store)
                    done = len(self._rows("sync"))
                    enqueue(store, connection, sync)
                    self._await(lambda done=done: len(self._rows("sync")) > done)
                store.rounds.update(1, stage=Stage.PROPAGATE)
                enqueue_due(store, connection)
                if not store.questions.count():
                    raise SystemExit("expected questions about the masks of the pool, got none: the pool is too small")
                self._await(lambda: store.rounds.get(1).stage == Stage.DONE and self._rows("train, round 2"))
        self.command("status", "status", self.folder, "--json")
        self.command("export", "export", self.folder, "--json")
        self.command("export parquet", "export", self.folder, "--format", "parquet", "--json")
        return self._steps()

    def _await(self, is_done: Any) -> None:
        until = time.monotonic() + LIMIT
        while not is_done():
            log = (self.base / "out.log").read_text()
            if time.monotonic() > until or "Traceback" in log:
                raise SystemExit(log[-3000:])
            time.sleep(0.05)

    def _answer(self, store: Store) -> None:
        """Stores answers by the truth to the pages that were opened since."""
        asked = [a for a in store.questions.after(self.page) if is_question(a.kind)][:ANSWERS]
        if not asked:
            return
        self.page = max(a.number for a in asked)
        ids = np.array([a.mask_id for a in asked])
        right = scale_pool.is_correct(store.masks.read(ids)) != (draw_keys(1, 1, ids) % WRONG == 0)
        rows = []
        for n, (question, yes) in enumerate(zip(asked, right.tolist(), strict=True)):
            stamp = f"2026-01-01T{(self.annotation + n) // 3600 % 24:02d}:{n // 60 % 60:02d}:{n % 60:02d}.{n:06d}Z"
            rows.append(
                {
                    "page_key": question.page_key, "annotation_id": self.annotation + question.number,
                    "mask_id": question.mask_id, "annotator": str(1 + question.number % 5),
                    "verdict": "yes" if yes else "no", "answered_at": stamp, "lead_time": 20.0,
                }
            )  # fmt: skip
        self.annotation += len(asked)
        began, cpu = time.time(), time.process_time()
        store.answers.add(rows)
        row = {"step": "answer", "began": began, "ended": time.time(), "cpu": time.process_time() - cpu}
        with self.figures.open("a") as file:
            file.write(json.dumps(row | {"rss": 0, "read": 0, "written": 0}) + "\n")

    def _rows(self, step: str | None = None) -> list[dict]:
        rows = [json.loads(line) for line in self.figures.read_text().splitlines()]
        return [row for row in rows if step in (None, row["step"])]

    def _steps(self) -> dict[str, dict[str, float]]:
        jobs: dict[str, list[dict]] = defaultdict(list)
        for row in self._rows():
            jobs[row["step"]].append(row)
        steps = {}
        for step, rows in jobs.items():
            seconds = max(r["ended"] for r in rows) - min(r["began"] for r in rows)
            cpu = sum(r["cpu"] for r in rows)
            if step in ("sync", "answer"):  # beside other work, and the first has everything to do
                rows = rows[1:] if step == "sync" else rows
                seconds, cpu = np.mean([(r["ended"] - r["began"], r["cpu"]) for r in rows], axis=0).tolist()
            steps["turn" if step == "sync" else step] = {
                "seconds": round(seconds, 3),
                "cpu_seconds": round(cpu, 3),
                "peak_rss_gib": round(max(r["rss"] for r in rows) / GIB, 3),
                "read_gib": round(sum(r["read"] for r in rows) / GIB, 4),
                "written_gib": round(sum(r["written"] for r in rows) / GIB, 4),
                "jobs": len(rows),
            }
        return steps


def measure(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The steps of one campaign, in a folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="scale-", dir=options.folder))
    try:
        return Run(folder, options).go()
    finally:
        if not options.keep:
            shutil.rmtree(folder)


def exponents(sizes: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """{step: {seconds, cpu_seconds, peak_rss}}: the slopes of logarithms over those of the masks, by least squares."""
    growth: dict[str, dict[str, float]] = {}
    masks = np.log([size["masks"] for size in sizes])
    for step in sizes[-1]["steps"]:
        growth[step] = {}
        for name, key in (("seconds", "seconds"), ("cpu_seconds", "cpu_seconds"), ("peak_rss", "peak_rss_gib")):
            values = np.array([size["steps"].get(step, {}).get(key, 0) for size in sizes])
            if (values > 0).all():
                growth[step][name] = round(float(np.polyfit(masks, np.log(values), 1)[0]), 2)
    return growth


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32_000, help="images of the pool")
    parser.add_argument("--masks", type=int, default=320_000, help="predictions on it, 16 an image at most")
    parser.add_argument("--classes", type=int, default=50)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--growth", action="store_true", help="three sizes a factor of four apart")
    parser.add_argument("--results", choices=["json", "jsonl"], help="predictions from a results file of this form")
    parser.add_argument("--folder", type=Path, help="where to put campaigns; a temporary folder by default")
    parser.add_argument("--keep", action="store_true", help="leave the campaigns there")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sizes = []
    for step in reversed(range(SIZES if options.growth else 1)):
        part = argparse.Namespace(**vars(options))
        part.images, part.masks = options.images // FACTOR**step, options.masks // FACTOR**step
        sizes.append({"images": part.images, "masks": part.masks, "steps": measure(part)})
        if not options.json:
            print(f"{part.images} images, {part.masks} masks", file=sys.stderr)
    result: dict[str, Any] = {"classes": options.classes, "workers": options.workers, **sizes[-1]}
    if options.growth:
        result |= {"growth": exponents(sizes), "sizes": sizes}
    if options.json:
        print(json.dumps(result))
        return
    for step, figures in result["steps"].items():
        grown = result.get("growth", {}).get(step, {})
        print(f"{step:>20} {figures} {grown or ''}")


if __name__ == "__main__":
    main()
