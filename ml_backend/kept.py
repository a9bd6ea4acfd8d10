"""What is made at some cost and kept in memory, under a limit of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Something of which it is known how many bytes it holds."""

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...


Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value", bound=Sized)


class Kept(Generic[Key, Value]):
    """Values by key, the least recently used dropped beyond `limit` bytes; the newest stays however large.

    Safe between threads. Several that ask for the same one at once wait while it is made once.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._making: dict[Key, threading.Lock] = {}

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of a key; `make` is called where it is not there."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                if key in self._values:
                    return self._values[key]
            try:
                value = make()
            except BaseException:
                with self._lock:
                    self._making.pop(key, None)
                raise
            # At once with the end of the making: who comes in between would make it again.
            with self._lock:
                self._making.pop(key, None)
                self._values[key] = value
                self._bytes += value.nbytes
                while self._bytes > self.limit and len(self._values) > 1:
                    self._bytes -= self._values.popitem(last=False)[1].nbytes
            return value

    def __contains__(self, key: Key) -> bool:
        """Whether the value of a key is there."""
        with self._lock:
            return key in self._values

    @property
    def nbytes(self) -> int:
        """Bytes that are held."""
        with self._lock:
            return self._bytes
