"""Processes of `tests.benchmarks.scale` that write down what they took: workers with each of their jobs, and commands.

python -m tests.benchmarks.scale_process FIGURES work FOLDER NAME
python -m tests.benchmarks.scale_process FIGURES command STEP ARGUMENTS...
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def written_down(figures: Path, step: str) -> Iterator[None]:
    """Adds a line about the block, in this process, to `figures`."""
    began, cpu, before = time.time(), time.process_time(), read_and_written()
    try:
        yield
    finally:
        after = read_and_written()
        row = {
            "step": step, "began": began, "ended": time.time(), "rss": _peak(),
            "read": after[0] - before[0], "written": after[1] - before[1], "cpu": time.process_time() - cpu,
        }  # fmt: skip
        with figures.open("a") as file:
            file.write(json.dumps(row) + "\n")


def read_and_written() -> tuple[int, int]:
    """Bytes that this process has read and written by calls, whether from the disk or from its cache."""
    lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(lines["rchar"]), int(lines["wchar"])


def _peak() -> int:
    """The most memory that this process ever held, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10


def work(figures: Path, folder: Path, name: str) -> None:
    """A worker of the campaign, whose turns do without Label Studio."""
    from campaign.jobs import worker
    from campaign.jobs.processes import die_with_parent
    from campaign.steps import rounds
    from campaign.steps.verify import decide, save_views

    def turn(store: Any, round_number: int, _args: tuple, _report: Any) -> None:
        with store.locked():
            decide(store, round_number)
            save_views(store)

    rounds._RUN[rounds.StepName.SYNC] = turn
    perform_job = worker.CampaignWorker.perform_job

    def measured(self: Any, job: Any, queue: Any) -> bool:
        step, number, args = str(job.args[1]), job.args[2], job.args[3:]
        if step == "detect" and args[0] == "heldout":
            step = "detect held-out"
        with written_down(figures, step if number == 1 else f"{step}, round {number}"):
            return perform_job(self, job, queue)

    worker.CampaignWorker.perform_job = measured  # type: ignore[method-assign]
    die_with_parent()
    worker.work(folder, ["gpu", "default"], name=name)


def command(figures: Path, step: str, arguments: list[str]) -> None:
    """A command of the campaign."""
    from campaign.cli import main

    sys.argv = ["campaign", *arguments]
    with written_down(figures, step):
        main()


if __name__ == "__main__":
    if sys.argv[2] == "work":
        work(Path(sys.argv[1]), Path(sys.argv[3]), sys.argv[4])
    else:
        command(Path(sys.argv[1]), sys.argv[3], sys.argv[4:])
