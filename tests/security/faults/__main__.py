"""`python -m tests.security.faults --runs 200 --seed N --json`: the fault matrix."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tests.security.faults.campaigns import Templates
from tests.security.faults.machines import Forked, Postgres, fork
from tests.security.faults.matrix import Outcome, run_one


def run_apart(number: int, seed: int, templates: Templates, postgres: Postgres | None, folder: Path) -> Outcome:
    """One run in a process of its own, so that its marks and clock end with it."""
    place = folder / f"run-{number:04d}"
    result = folder / f"result-{number:04d}.json"

    def work() -> None:
        outcome = run_one(number, seed, templates, postgres, place)
        result.write_text(json.dumps(asdict(outcome)))

    log = folder / f"driver-{number:04d}.log"
    code = Forked(fork(work, log)).wait(900)
    if not result.exists():
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        outcome = Outcome(number, seed, "", [], problems=[f"the driver ended with {code}: {last}"])
        result.write_text(json.dumps(asdict(outcome)))
    return Outcome(**json.loads(result.read_text()))


def run_lane(numbers: list[int], lane: int, folder: Path, templates: Templates, options: argparse.Namespace) -> None:
    """Some of the runs, one after the other, on a PostgreSQL of their own."""
    place = folder / f"postgres-{lane}"
    place.mkdir()
    postgres = None if Postgres.reason_without() else Postgres(place)
    try:
        for number in numbers:
            outcome = run_apart(number, options.seed, templates, postgres, folder)
            state = "; ".join(outcome.problems) or "holds"
            line = f"{number:4d} {outcome.seconds:5.1f} s  {outcome.plan}: {'; '.join(outcome.faults)}: {state}"
            print(line, file=sys.stderr, flush=True)
            run = folder / f"run-{number:04d}"
            if outcome.problems and options.keep:
                shutil.copytree(run, options.keep / run.name, dirs_exist_ok=True, ignore=_sockets)
            shutil.rmtree(run, ignore_errors=True)
    finally:
        if postgres is not None:
            postgres.stop()


def main(argv: list[str] | None = None) -> int:
    """Runs the matrix and prints what came of it; 1 where something does not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.security.faults", description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lanes", type=int, default=1, help="how many runs go on beside each other")
    parser.add_argument("--only", type=int, help="the number of one run, to look at it again")
    parser.add_argument("--keep", type=Path, help="a folder for the campaigns and logs of runs that fail")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if reason := Postgres.reason_without():
        print(f"without PostgreSQL: {reason}", file=sys.stderr)
    numbers = [options.only] if options.only is not None else list(range(options.runs))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        templates = Templates(folder / "templates")
        lanes = []
        for lane in range(options.lanes):
            share = numbers[lane :: options.lanes]
            lanes.append(Forked(fork(lambda n=share, k=lane: run_lane(n, k, folder, templates, options))))
        for one in lanes:
            one.wait()
        results = [folder / f"result-{number:04d}.json" for number in numbers]
        outcomes = [Outcome(**json.loads(path.read_text())) for path in results if path.exists()]
    summary = _summary(outcomes) | {"of": len(numbers), "wall_seconds": round(time.monotonic() - began)}
    if options.json:
        print(json.dumps(summary))
    else:
        for key, value in summary.items():
            print(f"{key}: {value}")
    return 1 if summary["failed"] or len(outcomes) < len(numbers) else 0


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_socket()]


def _summary(outcomes: list[Outcome]) -> dict:
    faults = Counter(" ".join(f.split(" after ")[0].split()[:2]) for o in outcomes for f in o.faults)
    slowest = max(outcomes, key=lambda o: o.seconds)
    return {
        "runs": len(outcomes),
        "failed": [{"run": o.number, "plan": o.plan, "faults": o.faults, "problems": o.problems}
                   for o in outcomes if o.problems],
        "faults": dict(faults.most_common()),
        "told_of": sum(o.told for o in outcomes),
        "pages": sum(o.pages for o in outcomes),
        "answers": sum(o.answers for o in outcomes),
        "seconds": round(sum(o.seconds for o in outcomes), 1),
        "slowest": [slowest.number, slowest.seconds],
        "at": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
