"""What commands print: tables for people, JSON for programs, progress on a terminal, log lines elsewhere."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from campaign.jobs.supervisor import Supervisor
    from ml_backend.detector import Progress


def emit(value: Any, as_json: bool, text: str | None = None) -> None:
    """Prints `value` as JSON, or `text` for people."""
    print(json.dumps(value, default=str, allow_nan=False) if as_json else text if text is not None else value)


def plain(value: object, style: str = "") -> Text:
    """A text to be shown as it is: what others named themselves is no markup, and moves no cursor."""
    from rich.text import Text

    return Text("".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in str(value)), style)


def table(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    """Prints names and values in two columns, at any width."""
    from rich.console import Console

    Console().print(two_columns(title, rows))


def two_columns(title: str, rows: Iterable[tuple[str, Any]]) -> Table:
    """Names and values in two columns, as a table of rich."""
    from rich.table import Table

    shown = Table(title=plain(title, "bold"), show_header=False, title_justify="left", title_style="bold")
    shown.add_column(no_wrap=True, style="cyan")
    shown.add_column(overflow="fold")
    for name, value in rows:
        shown.add_row(plain(name), plain(value))
    return shown


class Display:
    """Shows how a run goes: a live bar on a terminal, otherwise a line whenever something changed.

    Everything goes to stderr, so that --json leaves stdout to one JSON object.
    """

    def __init__(self, every: float = 10.0):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.console = Console(stderr=True)
        self._every = every
        self._last: tuple[str, float, int] = ("", 0.0, -1)
        self._looked = 0.0
        self._bars = None
        if self.console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description}", markup=False), BarColumn(bar_width=30), MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self.console,
            )  # fmt: skip
            self._bar = self._bars.add_task("starting", total=None)

    @contextmanager
    def live(self) -> Iterator[Display]:
        """Keeps the bar on the terminal for the block."""
        if self._bars is None:
            yield self
            return
        with self._bars:
            yield self

    def say(self, text: str) -> None:
        """Prints a line."""
        self.console.print(plain(text), soft_wrap=True)

    def ask(self, question: str) -> bool:
        """Whether the person at the terminal says yes; the bar makes room meanwhile."""
        from rich.prompt import Confirm

        if self._bars is None:
            return Confirm.ask(question, console=self.console, default=False)
        self._bars.stop()
        try:
            return Confirm.ask(question, console=self.console, default=False)
        finally:
            self._bars.start()

    def show(self, what: str, done: int, total: int) -> None:
        """Shows that `done` of `total` of something is finished; a total of 0 is not known."""
        if self._bars is not None:
            if what != self._last[0]:
                if self._last[0]:
                    self.say(f"✓ {self._last[0]}")
                self._bars.reset(self._bar, description=what, total=total or None, completed=done)
            self._bars.update(self._bar, total=total or None, completed=done)
            self._last = (what, 0.0, done)
            return
        now = time.monotonic()
        name, at, before = self._last
        if what != name or (now - at >= self._every and done != before):
            self.say(f"{time.strftime('%H:%M:%S')} {what}" + (f" {done}/{total}" if total else ""))
            self._last = (what, now, done)

    def __call__(self, run: Supervisor) -> None:
        """Shows a running campaign."""
        from campaign.records.stage import Stage
        from campaign.steps.rounds import progress_of, stage_progress

        now = time.monotonic()
        if now - self._looked < 2:
            return
        self._looked = now
        progress = progress_of(run.store)
        if progress is None:
            return
        what, done, total = stage_progress(run.store, progress)
        if progress.stage in (Stage.TRAIN, Stage.CLUSTER):
            for job, state in run.jobs():
                if state and progress.stage in job:
                    what, done, total = f"{what.split(',')[0]}, {state[0]}", state[1], state[2]
        self.show(f"round {progress.round_number}: {what}", done, total)


def steps_progress(display: Display, what: str) -> Progress:
    """A progress callback for library code: progress(step name, done, total)."""

    def progress(name: str, done: int, total: int) -> None:
        display.show(f"{what}: {name}", done, total)

    return progress


def warn(text: str) -> None:
    """Prints a warning line on stderr."""
    print(f"campaign: {text}", file=sys.stderr)
