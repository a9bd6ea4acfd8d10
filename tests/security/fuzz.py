"""Runs seeded cases against every surface that takes something from outside.

A surface is a function that takes a `random.Random` and runs one case with it; it raises where the code did what it
must not. Modules `tests/security/surfaces_*.py` name theirs in `SURFACES`. Each surface runs in a process of its own,
which may take 2 s of the processor per case and 1 GiB of memory; a process that dies is a failure of the case that it
was in, and the next goes on behind it.

    python -m tests.security.fuzz --seed 1 --cases 10000
    python -m tests.security.fuzz --seed 1 --surface rle --case 17
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import logging
import mmap
import os
import random
import resource
import select
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

Surface = Callable[[random.Random], None]

CASE_SECONDS = 2.0  # of the processor
STUCK_SECONDS = 60.0  # of the clock, on a machine that has other work
GROWTH = 1 << 30
# The process is stopped here, before the machine is.
ADDRESS_SPACE = 6 << 30
MOST_FAILURES = 20


@dataclass
class Report:
    """What came of one surface: failures as {"case", "what"}, the slowest case in seconds, the most memory in MiB."""

    surface: str
    cases: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    slowest_case: int = -1
    slowest_seconds: float = 0.0
    memory: int = 0


def surfaces() -> dict[str, Surface]:
    """Every surface by its name, from all modules that have some."""
    found: dict[str, Surface] = {}
    for path in sorted(Path(__file__).parent.glob("surfaces_*.py")):
        module = importlib.import_module(f"tests.security.{path.stem}")
        doubled = found.keys() & module.SURFACES.keys()
        assert not doubled, f"{path.name}: expected new names of surfaces, got {sorted(doubled)}"
        found |= module.SURFACES
    return found


def run_case(name: str, surface: Surface, seed: int, case: int) -> None:
    """Runs one case; the same surface, seed and number are always the same case."""
    surface(random.Random(f"{name} {seed} {case}"))


def run_surface(name: str, surface: Surface, seed: int, cases: int) -> Report:
    """Runs the cases of one surface in processes of their own."""
    report, first = Report(name), 0
    while first < cases and len(report.failures) < MOST_FAILURES:
        first = _run_process(report, surface, seed, first, cases)
    report.cases = min(first, cases)
    return report


def _run_process(report: Report, surface: Surface, seed: int, first: int, cases: int) -> int:
    """Runs cases in a new process until they or it are over; returns the first one that is left."""
    state = mmap.mmap(-1, 16)  # the running case, and when it began
    state[:] = struct.pack("qd", first, time.monotonic())
    with tempfile.TemporaryFile() as log:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            _child(report.surface, surface, seed, first, cases, state, writer, log.fileno())
        os.close(writer)
        status = _collect(report, reader, pid, state)
        case, began = struct.unpack("qd", state[:])
        if status == 0:
            return cases
        if status != _GAVE_UP:
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
            seconds = time.monotonic() - began
            what = f"the process ended after {seconds:.1f} s: {how}; {_stack(log)}"
            report.failures.append({"case": case, "what": what})
        return case + 1


def _stack(log: IO[bytes]) -> str:
    """Where a process was that ended, as faulthandler wrote it."""
    log.seek(0)
    lines = log.read().decode(errors="replace").split("most recent call first", 1)[-1].splitlines()
    return " < ".join(line.strip() for line in lines if "File " in line)[:500]


def _collect(report: Report, reader: int, pid: int, state: mmap.mmap) -> int:
    """Takes what a process says of its cases, and ends it where one is stuck; returns how it ended."""
    said = b""
    while True:
        ready, _, _ = select.select([reader], [], [], 1.0)
        if ready:
            part = os.read(reader, 1 << 16)
            if not part:
                break
            said += part
        else:
            _, began = struct.unpack("qd", state[:])
            if time.monotonic() - began > STUCK_SECONDS:
                os.kill(pid, signal.SIGABRT)  # it says where it is
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    _take(report, said)
    return os.waitstatus_to_exitcode(status)


def _take(report: Report, said: bytes) -> None:
    for line in said.splitlines():
        row = json.loads(line)
        if "what" in row:
            report.failures.append(row)
        elif row["seconds"] > report.slowest_seconds:
            report.slowest_case, report.slowest_seconds = row["case"], row["seconds"]
        report.memory = max(report.memory, row.get("memory", 0))


_GAVE_UP = 99


def _child(
    name: str, surface: Surface, seed: int, first: int, cases: int, state: mmap.mmap, writer: int, log: int
) -> None:
    """Runs cases and says what came of them; never returns."""
    status = 1
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        faulthandler.enable(log)
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        limit = _memory("VmSize") + ADDRESS_SPACE
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        base, failures = _memory("VmRSS"), 0
        for case in range(first, cases):
            state[:] = struct.pack("qd", case, time.monotonic())
            what, seconds = _attempt(name, surface, seed, case)
            if what is None and seconds > CASE_SECONDS:
                # What is done once in a process, imports for one, is not the case's.
                what, seconds = _attempt(name, surface, seed, case)
            grown = _peak() - base
            if what is None and seconds > CASE_SECONDS:
                what = f"{seconds:.1f} s of the processor"
            if what is None and grown > GROWTH:
                what = f"{grown >> 20} MiB of memory"
            row = {"case": case, "seconds": seconds, "memory": grown >> 20}
            os.write(writer, json.dumps(row if what is None else row | {"what": what}).encode() + b"\n")
            failures += what is not None
            if failures >= MOST_FAILURES:
                os._exit(_GAVE_UP)
        status = 0
    finally:
        os._exit(status)


def _attempt(name: str, surface: Surface, seed: int, case: int) -> tuple[str | None, float]:
    """What went wrong in a case, None where nothing did, and the seconds of the processor that it took."""
    _reset_peak()
    began = time.process_time()
    try:
        run_case(name, surface, seed, case)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:200]
        return f"{type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})", time.process_time() - began
    return None, time.process_time() - began


def _memory(key: str) -> int:
    """Bytes that the kernel says of this process under a name."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) << 10
    return 0


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The most memory that this process held since the peak was reset."""
    return _memory("VmHWM")


def main(arguments: list[str] | None = None) -> int:
    """Runs what is asked for; returns 1 where a case failed."""
    parser = argparse.ArgumentParser(description="Seeded cases against all that takes something from outside.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=10_000, help="of all surfaces together")
    parser.add_argument("--surface", action="append", help="only this one; may be repeated")
    parser.add_argument("--case", type=int, help="only this case, in this process, with its traceback")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    known = surfaces()
    if unknown := set(asked.surface or ()) - known.keys():
        parser.error(f"--surface: expected some of {', '.join(known)}, got {', '.join(sorted(unknown))}")
    chosen = {name: known[name] for name in asked.surface or known}
    if asked.case is not None:
        for name, surface in chosen.items():
            run_case(name, surface, asked.seed, asked.case)
        return 0
    reports = []
    for number, (name, surface) in enumerate(chosen.items()):
        share = asked.cases * (number + 1) // len(chosen) - asked.cases * number // len(chosen)
        reports.append(run_surface(name, surface, asked.seed, max(share, 1)))
        if not asked.json:
            _print(reports[-1], asked.seed)
    if asked.json:
        print(json.dumps([asdict(report) for report in reports]))
    return int(any(report.failures for report in reports))


def _print(report: Report, seed: int) -> None:
    slowest = f"slowest {report.slowest_seconds:.2f} s (case {report.slowest_case})"
    memory = f"{report.memory} MiB"
    print(
        f"{report.surface:<24} {report.cases:>8} cases {len(report.failures):>4} failures  {slowest}  {memory}",
        flush=True,
    )
    for failure in report.failures:
        print(f"    case {failure['case']}: {failure['what']}")
        print(f"      python -m tests.security.fuzz --seed {seed} --surface {report.surface} --case {failure['case']}")


if __name__ == "__main__":
    sys.exit(main())
