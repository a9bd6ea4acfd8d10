"""A training that another machine can go on with: its checkpoints lie in the campaign as long as it is under way.

Of a campaign in a folder all machines have them anyway. At a URL the files in a training's folder are uploaded every
few minutes, and whoever takes the training up fetches them. The newest alone are kept, and none once it is done.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from functools import partial
from pathlib import Path

from campaign.store import Store
from ml_backend.detector import Progress
from ml_backend.errors import InputError
from ml_backend.files import write_whole

logger = logging.getLogger(__name__)

EVERY = 180.0  # seconds between two uploads: training waits as long as one takes


def carried(store: Store, output: Path, progress: Progress | None) -> Progress | None:
    """Prepares a training in the folder `output`; returns what it is to report its progress to.

    What another machine has uploaded lies there then, unless newer files do already. Once the training is
    done and stored, `leave` is to be called.
    """
    if not store.files.apart:
        return progress
    _take_up(store, output)
    began, seen = time.monotonic(), _state(output)

    def report(name: str, done: int, total: int) -> None:
        nonlocal began, seen
        if progress is not None:
            progress(name, done, total)
        if time.monotonic() - began < EVERY or (now := _state(output)) == seen:
            return
        try:
            _upload(store, output, now)
        except InputError as error:  # the training is worth more than a copy of it
            logger.warning("what another machine would go on with was not uploaded: %s", error)
        began, seen = time.monotonic(), now

    return report


def leave(store: Store, output: Path) -> None:
    """Removes what was uploaded of a training that is done."""
    if store.files.apart:
        store.files.drop(_kept(output))


def _kept(output: Path) -> Path:
    return output.with_name(f"{output.name}.unfinished")


def _take_up(store: Store, output: Path) -> None:
    """Copies what was uploaded into a training's folder, unless newer files lie there."""
    kept = _kept(output)
    times = store.files.times(kept)
    here = _state(output)
    if not times or int(max(times.values()) * 1e9) < max((at for at, _ in here.values()), default=0):
        return

    def copy(name: str, path: Path) -> None:
        shutil.copyfile(store.files.local(kept / name), path)
        # As old as what was uploaded: where this is ended half-way, all of it is copied again.
        os.utime(path, ns=(int(times[name] * 1e9),) * 2)

    for name in times:
        write_whole(output / name, partial(copy, name))
    logger.info("a training of another machine is taken up, as it was %.0f s ago", time.time() - max(times.values()))


def _upload(store: Store, output: Path, names: dict[str, tuple[int, int]]) -> None:
    """Uploads what lies in a training's folder, all of it or nothing."""
    kept = _kept(output)
    for name in names:  # copies, as the training may put others in the place of its files
        write_whole(kept / name, partial(shutil.copyfile, output / name), durable=False)
    store.files.publish(*(kept / name for name in names))
    store.files.remove(kept / name for name in store.files.times(kept).keys() - names.keys())


def _state(output: Path) -> dict[str, tuple[int, int]]:
    """{name: (time of change in ns, bytes)} of the files in a training's folder."""
    state = {}
    for path in output.glob("*"):
        if path.is_file() and not path.name.startswith("."):
            stat = path.stat()
            state[path.name] = stat.st_mtime_ns, stat.st_size
    return state
