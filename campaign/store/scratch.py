"""Arrays on disk that need not fit memory, in files that are gone when they are no longer used."""

from __future__ import annotations

import os
import tempfile
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
