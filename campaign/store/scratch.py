"""What lies on disk only as long as somebody uses it: arrays that need not fit memory, and folders."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path

import numpy as np

from ml_backend.files import refusal


def scratch_array(folder: Path, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    """An array of zeros on the disk of a folder, which is made if need be.

    Its room is taken now, for later a write through memory would end the process. Raises Unavailable where there is not
    so much, InputError where the disk refuses for another reason.
    """
    length = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if not length:
        return np.zeros(shape, dtype)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, length)
            else:
                file.truncate(length)
            return np.memmap(file, dtype, "r+", shape=shape)
    except OSError as error:
        raise refusal(folder, f"room for {length} bytes", error) from None


class ScratchFolder:
    """A folder among the system's temporary files, at `path`, which goes with this object or with the process.

    What a process left that was killed goes when another makes a folder of that prefix: the operating system frees the
    lock on a folder as its owner dies.
    """

    def __init__(self, prefix: str):
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            _remove_unlocked(left)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=prefix))
            held = os.open(self.path, os.O_RDONLY)
            fcntl.flock(held, fcntl.LOCK_EX)
            if self.path.exists():  # nobody took it for one that was left, before it was locked
                break
            os.close(held)
        weakref.finalize(self, _end, self.path, held)


def _remove_unlocked(folder: Path) -> None:
    with suppress(OSError):  # of another user, or gone
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(held)


def _end(folder: Path, held: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    os.close(held)
