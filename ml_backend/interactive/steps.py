"""What was answered to each prompt, in a file: it survives a restart, is bounded, and expires."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from ml_backend.interactive.segmenter import Click, Prompt

MOST_STEPS = 200_000
MOST_BYTES = 256 << 20
DAYS = 90.0
SWEEP = 256  # steps between two looks at the limits


class Step(NamedTuple):
    """One prompt and its mask: counts of a COCO RLE of `size`, height and width.

    `box` and `clicks` are all that had been said by then; `at` is in seconds since 1970.
    """

    digest: str
    subject: str
    at: float
    box: tuple[float, float, float, float] | None
    clicks: tuple[Click, ...]
    size: tuple[int, int]
    counts: bytes
    predicted_iou: float
    version: str

    def mask(self) -> np.ndarray:
        """The mask, (height, width) bool."""
        return mask_util.decode({"size": list(self.size), "counts": self.counts}).astype(bool)


def digest_of(
    subject: str, version: str, box: tuple[float, float, float, float] | None, clicks: Sequence[Click]
) -> str:
    """What names the answer to a prompt: the same subject, model, box and clicks always have the same mask."""
    said = [subject, version, _rounded(box), [(*_rounded((c.x, c.y)), c.positive) for c in clicks]]
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=16).hexdigest()


def _rounded(values: Sequence[float] | None) -> list[float]:
    # The browser states places in percent of the picture: what comes back may differ in the last digits.
    return [] if values is None else [round(float(v), 3) for v in values]


class StepLog:
    """The steps of one server, in an SQLite file; in memory where there is no path. Safe between threads.

    Holds at most `most` steps and `most_bytes` of masks, none older than `days`; the oldest go first.
    """

    def __init__(
        self, path: Path | None = None, most: int = MOST_STEPS, most_bytes: int = MOST_BYTES, days: float = DAYS
    ):
        self.most, self.most_bytes, self.days = most, most_bytes, days
        self._lock = threading.Lock()
        self._since_sweep = 0
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path or ":memory:", check_same_thread=False, timeout=10)
        with self._lock, self._db:
            # A step that is lost with the power is answered again: it need not be waited for.
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.execute(
                "CREATE TABLE IF NOT EXISTS step (number INTEGER PRIMARY KEY, digest TEXT UNIQUE, subject TEXT,"
                " at REAL, prompt TEXT, height INTEGER, width INTEGER, counts BLOB, predicted_iou REAL, version TEXT)"
            )
            self._db.execute("CREATE INDEX IF NOT EXISTS step_subject ON step (subject)")

    def find(self, digests: Sequence[str]) -> dict[str, Step]:
        """The steps of these digests, as far as they are known."""
        marks = ",".join("?" * len(digests))
        with self._lock:
            rows = self._db.execute(f"SELECT * FROM step WHERE digest IN ({marks})", list(digests)).fetchall()  # noqa: S608
        return {row[1]: _step(row) for row in rows}

    def of_subject(self, subject: str) -> list[Step]:
        """All steps of one subject, oldest first."""
        with self._lock:
            rows = self._db.execute("SELECT * FROM step WHERE subject = ? ORDER BY number", [subject]).fetchall()
        return [_step(row) for row in rows]

    def add(self, steps: Sequence[Step]) -> None:
        """Keeps these steps; those that are known stay as they are."""
        rows = [
            (s.digest, s.subject, s.at, _prompt(s), *s.size, s.counts, s.predicted_iou, s.version)
            for s in steps
        ]  # fmt: skip
        with self._lock, self._db:
            self._db.executemany(
                "INSERT OR IGNORE INTO step (digest, subject, at, prompt, height, width, counts, predicted_iou,"
                " version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            self._since_sweep += len(rows)
            if self._since_sweep >= SWEEP:
                self._since_sweep = 0
                self._sweep()

    def _sweep(self) -> None:
        self._db.execute("DELETE FROM step WHERE at < ?", [time.time() - self.days * 86400])
        count, held = self._db.execute("SELECT count(*), coalesce(sum(length(counts)), 0) FROM step").fetchone()
        # By numbers: they rise, and the mean size says how many are too many.
        over = max(count - self.most, int((held - self.most_bytes) / max(held / max(count, 1), 1)) if held else 0)
        if over > 0:
            self._db.execute(
                "DELETE FROM step WHERE number IN (SELECT number FROM step ORDER BY number LIMIT ?)", [over]
            )

    def __len__(self) -> int:
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM step").fetchone()[0])

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._db.close()


def _prompt(step: Step) -> str:
    return json.dumps({"box": step.box, "clicks": [(c.x, c.y, c.positive) for c in step.clicks]})


def _step(row: tuple) -> Step:
    _, digest, subject, at, prompt, height, width, counts, predicted_iou, version = row
    said = json.loads(prompt)
    clicks = tuple(Click(float(x), float(y), bool(positive)) for x, y, positive in said["clicks"])
    box = None if said["box"] is None else tuple(float(v) for v in said["box"])
    return Step(digest, subject, at, box, clicks, (height, width), bytes(counts), predicted_iou, version)  # type: ignore[arg-type]


def new_step(digest: str, subject: str, prompt: Prompt, mask: np.ndarray, predicted_iou: float, version: str) -> Step:
    """The step of an answer that was just made."""
    rle = mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))
    size, counts = (int(mask.shape[0]), int(mask.shape[1])), bytes(rle["counts"])
    return Step(digest, subject, time.time(), prompt.box, prompt.clicks, size, counts, float(predicted_iou), version)
