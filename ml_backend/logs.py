"""Log lines: for people, or one JSON object a line, each with what it is about, and never too many of a kind.

What others wrote stands in many a line, so a line has a length, and of lines from one place there are so many a minute.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TextIO

from ml_backend.errors import without_passwords

LONGEST_MESSAGE, LONGEST_TRACE = 2_000, 8_000  # characters
LINES_A_MINUTE = 30  # from one place in the code

_of_process: dict[str, Any] = {}
_about: ContextVar[Mapping[str, Any]] = ContextVar("log_about", default=MappingProxyType({}))


@contextmanager
def log_about(**fields: Any) -> Iterator[None]:
    """Adds what the block is about to all lines that it logs: campaign, round, step, job, request.

    >>> with log_about(round=2, step="train"):
    ...     _about.get()
    {'round': 2, 'step': 'train'}
    """
    token = _about.set({**_about.get(), **fields})
    try:
        yield
    finally:
        _about.reset(token)


def say_about(**fields: Any) -> None:
    """The same to the end of the thread's present context, for who begins and ends in different functions."""
    _about.set({key: value for key, value in {**_about.get(), **fields}.items() if value is not None})


def process_about(**fields: Any) -> None:
    """Adds what this process is about to the lines of all its threads."""
    _of_process.update(fields)


def about() -> dict[str, Any]:
    """What lines that are logged here are about."""
    return {**_of_process, **_about.get()}


class Flood(logging.Filter):
    """Lets so many lines a minute pass from one place; the first of the next minute says how many were left out."""

    def __init__(self, lines: int = LINES_A_MINUTE, seconds: float = 60.0):
        super().__init__()
        self._lines, self._seconds = lines, seconds
        self._counts: dict[tuple[str, int], list[float]] = {}  # place: when it began, how many
        self._lock = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this line passes."""
        place = record.pathname, record.lineno
        now = time.monotonic()
        with self._lock:
            begun, count = self._counts.get(place, (now, 0))
            if now - begun >= self._seconds:
                record.left_out = max(0, int(count) - self._lines)
                begun, count = now, 0
            self._counts[place] = [begun, count + 1]
            return count < self._lines


class TextLines(logging.Formatter):
    """`2026-01-01 12:00:00,000 WARNING [round=1 step=sync] message`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and below it the traceback if there is one."""
        fields = " ".join(f"{key}={value}" for key, value in about().items())
        head = f"{self.formatTime(record)} {record.levelname}{f' [{fields}]' if fields else ''} {message_of(record)}"
        return head + (f"\n{trace}" if (trace := _trace(self, record)) else "")


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, what it is about, and the traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": stamp, "level": record.levelname, "logger": record.name, "message": message_of(record)}
        line |= {key: value for key, value in about().items() if key not in line}
        if trace := _trace(self, record):
            line["trace"] = trace
        return json.dumps(line, default=str)


def configure_logs(as_json: bool = False, level: int | str = logging.INFO, out: TextIO | None = None) -> None:
    """Sends the lines of this process to `out`, stderr by default; lines that others configured are replaced."""
    handler = logging.StreamHandler(out or sys.stderr)
    handler.setFormatter(JsonLines() if as_json else TextLines())
    handler.addFilter(Flood())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("httpx", "urllib3", "alembic", "label_studio_sdk"):
        logging.getLogger(name).setLevel(logging.WARNING)


def message_of(record: logging.LogRecord) -> str:
    """The message of a record in one line that a person can read."""
    try:
        text = record.getMessage()
    except Exception:  # a line must not break what it tells of
        text = str(record.msg)
    left_out = getattr(record, "left_out", 0)
    return _cut(" ".join(text.split()), LONGEST_MESSAGE) + (f" (and {left_out} lines like it)" if left_out else "")


def _trace(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if not record.exc_info:
        return ""
    text = formatter.formatException(record.exc_info)
    # Its end says what happened, its beginning where.
    middle = f"\n… {len(text) - LONGEST_TRACE} characters …\n"
    half = LONGEST_TRACE // 2
    return without_passwords(text if len(text) <= LONGEST_TRACE else text[:half] + middle + text[-half:])


def _cut(text: str, longest: int) -> str:
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:longest])
    return without_passwords(shown + (f" … ({len(text)} characters)" if len(text) > longest else ""))
