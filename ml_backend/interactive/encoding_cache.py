"""Encoded pictures, each encoded once and kept under a limit of memory."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from ml_backend.interactive.segmenter import Encoding, Segmenter

BYTES = 1 << 30


class Encodings:
    """Encodings by what names the picture, the least used dropped first. Safe between threads.

    Several that ask for the same picture wait for one encoding. `limit` is in bytes; the newest stays however large.
    """

    def __init__(self, limit: int = BYTES):
        self.limit = limit
        self._kept: OrderedDict[str, Encoding] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}

    def get(self, key: str, picture: Callable[[], np.ndarray], segmenter: Segmenter) -> Encoding:
        """The encoding of the picture that `key` names; `picture` is called where it is not there."""
        full = f"{segmenter.version} {key}"
        with self._lock:
            if full in self._kept:
                self._kept.move_to_end(full)
                return self._kept[full]
            making = self._making.setdefault(full, threading.Lock())
        with making:
            with self._lock:
                if full in self._kept:
                    return self._kept[full]
            try:
                encoding = segmenter.encode(picture())
            finally:
                with self._lock:
                    self._making.pop(full, None)
            with self._lock:
                self._kept[full] = encoding
                self._bytes += encoding.nbytes
                while self._bytes > self.limit and len(self._kept) > 1:
                    self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return encoding

    def has(self, key: str, segmenter: Segmenter) -> bool:
        """Whether the picture that `key` names is encoded."""
        with self._lock:
            return f"{segmenter.version} {key}" in self._kept

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        with self._lock:
            return self._bytes
