"""Encoded pictures, each encoded once and kept under a limit of memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ml_backend.interactive.segmenter import Encoding, Segmenter
from ml_backend.kept import Kept

BYTES = 1 << 30


class Encodings:
    """Encodings by what names the picture, the least used dropped first. Safe between threads.

    Several that ask for the same picture wait for one encoding. `limit` is in bytes; the newest stays however large.
    """

    def __init__(self, limit: int = BYTES):
        self.limit = limit
        self._kept: Kept[str, Encoding] = Kept(limit)

    def get(self, key: str, picture: Callable[[], np.ndarray], segmenter: Segmenter) -> Encoding:
        """The encoding of the picture that `key` names; `picture` is called where it is not there."""
        return self._kept.get(_name(key, segmenter), lambda: segmenter.encode(picture()))

    def has(self, key: str, segmenter: Segmenter) -> bool:
        """Whether the picture that `key` names is encoded."""
        return _name(key, segmenter) in self._kept

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        return self._kept.nbytes


def _name(key: str, segmenter: Segmenter) -> str:
    return f"{segmenter.version} {key}"
