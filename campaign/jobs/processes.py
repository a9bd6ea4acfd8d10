"""Child processes: they never outlive their parent, and each has a log."""

from __future__ import annotations

import ctypes
import signal
import sys
from pathlib import Path

from campaign.store import Store

_PR_SET_PDEATHSIG = 1


class Stopped(BaseException):
    """A step that leaves off at a safe point, because its worker is to end. It is done again, from there."""


class _Stop:
    asked = False


def ask_to_stop(_signum: int = 0, _frame: object = None) -> None:
    """Has the step that this process runs leave off at its next safe point; a signal's handler."""
    _Stop.asked = True


def is_asked_to_stop() -> bool:
    """Whether the step that this process runs is to leave off."""
    return _Stop.asked


def safe_point() -> None:
    """Where a step may leave off: nothing is half done here. Raises Stopped where its worker is to end."""
    if _Stop.asked:
        raise Stopped


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Asks Linux to end this process when its parent dies, however that dies. Elsewhere it does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signum))


def log_file(store: Store, name: str) -> Path:
    """Where a process of the campaign writes its log."""
    folder = store.folder / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.log"
