"""Child processes: they never outlive their parent, and each has a log."""

from __future__ import annotations

import ctypes
import signal
import sys
from pathlib import Path

from campaign.store import Store

_PR_SET_PDEATHSIG = 1


def die_with_parent(signum: int = signal.SIGKILL) -> None:
    """Asks Linux to end this process when its parent dies, however that dies. Elsewhere it does nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signum))


def log_file(store: Store, name: str) -> Path:
    """Where a process of the campaign writes its log."""
    folder = store.folder / "logs"
    folder.mkdir(exist_ok=True)
    return folder / f"{name}.log"
