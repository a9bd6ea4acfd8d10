"""The demo's Label Studio: the one that is installed, or one in an environment of its own beside the demo's folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from campaign.label_studio.server import find_command
from ml_backend.errors import InputError

VERSION = "1.23.2"
SIZE_MB, MINUTES = 1000, 5  # what the installation takes of the disk, and at most of the time on a usual line
COMPLETE = "complete"  # a file in the environment, once all is installed


def label_studio_command(out: Path, agree: Callable[[str], bool], show: Callable[[str, int, int], None]) -> Path:
    """The executable that starts Label Studio for a demo in the folder `out`.

    Where none is installed, and `agree` says yes to what that takes, Label Studio is installed into an environment of
    its own: it asks for exact versions of many packages, which then meet nobody else's. `show` is told of it. Raises
    InputError where that is not wanted, or fails.
    """
    try:
        return find_command()
    except InputError:
        if os.environ.get("LABEL_STUDIO_COMMAND"):
            raise
    home = environment(out)
    command = home / "bin" / "label-studio"
    if (home / COMPLETE).exists():
        return command
    wanted = (
        f"No Label Studio is installed here. Label Studio {VERSION} can be installed for the demo, into an environment "
        f"of its own: {home}, some {SIZE_MB} MB and up to {MINUTES} minutes, from the package index that pip uses."
    )
    if not agree(wanted):
        raise InputError(
            "Label Studio", "one that is installed (pip install 'label-studio-cluster-verification[demo]'), or --yes",
            "none",
        )  # fmt: skip
    _install(home, show)
    return command


def environment(out: Path) -> Path:
    """Where a demo in the folder `out` has its Label Studio: beside that, so that demos come and go and it stays."""
    out = out.resolve()
    return out.with_name(f"{out.name}-label-studio")


def _install(home: Path, show: Callable[[str, int, int], None]) -> None:
    """Makes the environment and installs Label Studio; one that was cut off is gone on with."""
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.prefix) / "bin"))
    python = home / "bin" / "python"
    pip = [uv, "pip", "install", "--python", str(python)] if uv else [str(python), "-m", "pip", "install"]
    steps = [[*pip, "--quiet", f"label-studio=={VERSION}"]]
    if not python.exists():
        make = [uv, "venv", "--python", sys.executable] if uv else [sys.executable, "-m", "venv"]
        steps.insert(0, [*make, str(home)])
    home.parent.mkdir(parents=True, exist_ok=True)
    log = home.with_name(f"{home.name}.log")
    started = time.monotonic()
    with log.open("wb") as out:
        for step in steps:
            process = subprocess.Popen(step, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
            try:
                while process.poll() is None:
                    show("installing Label Studio, seconds", round(time.monotonic() - started), 0)
                    time.sleep(0.5)
            finally:
                process.kill()
                process.wait()
            if process.returncode:
                last = (log.read_text(errors="replace").strip().splitlines() or ["nothing said"])[-1]
                raise InputError("Label Studio", f"to be installed (see {log})", last)
    log.unlink()
    (home / COMPLETE).touch()
