"""A small, seeded share of the cases that `make fuzz` runs, and that the harness sees what goes wrong."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.security import fuzz

ROOT = Path(__file__).parents[2]
CASES = 40


def run(*options: str) -> tuple[int, list[dict]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.security.fuzz", *options, "--json"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_a_share_of_every_surface():
    names = list(fuzz.surfaces())
    status, reports = run("--seed", "7", "--cases", str(CASES * len(names)))
    assert [report["surface"] for report in reports] == names
    assert [failure for report in reports for failure in report["failures"]] == [] and status == 0
    assert all(report["cases"] == CASES for report in reports)


def fails(rng: random.Random) -> None:
    assert rng.random() > 0.2


def crashes(rng: random.Random) -> None:
    if rng.random() < 0.2:
        os.abort()


def grows(rng: random.Random) -> None:
    bytearray(1 << 28) if rng.random() < 0.2 else None


def leaves(rng: random.Random) -> None:
    if rng.random() < 0.2:
        sys.exit(3)


def hangs(rng: random.Random) -> None:
    time.sleep(600 if rng.random() < 0.2 else 0)


@pytest.mark.parametrize(
    ("surface", "what"),
    [(fails, "AssertionError"), (crashes, "SIGABRT"), (leaves, "exit status 1"), (hangs, "SIGABRT"), (grows, "MiB")],
)
def test_what_goes_wrong_is_seen_and_comes_again(monkeypatch, surface, what):
    monkeypatch.setattr(fuzz, "GROWTH", 1 << 27)
    if surface is hangs:
        monkeypatch.setattr(fuzz, "STUCK_SECONDS", 2.0)
    cases = 12
    report = fuzz.run_surface("a", surface, 5, cases)
    again = fuzz.run_surface("a", surface, 5, cases)
    assert report.cases == cases and report.failures
    assert all(what in failure["what"] for failure in report.failures)
    assert [f["case"] for f in report.failures] == [f["case"] for f in again.failures]
    assert [f["case"] for f in fuzz.run_surface("a", surface, 6, cases).failures] != [f["case"] for f in again.failures]


def test_a_slow_case_is_seen(monkeypatch):
    monkeypatch.setattr(fuzz, "CASE_SECONDS", -1.0)
    report = fuzz.run_surface("a", lambda rng: None, 0, 2)
    assert ["s of the processor" in failure["what"] for failure in report.failures] == [True, True]
