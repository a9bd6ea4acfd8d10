"""A lock that is given in the order it was asked for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """One thread at a time, first come first served.

    With a plain lock, who lets it go and asks again at once has it again, and the others wait as long as that lasts.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._line: deque[threading.Event] = deque()
        self._taken = False

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._line)

    @contextmanager
    def turn(self, seconds: float | None = None) -> Iterator[bool]:
        """Waits for its turn, `seconds` at most; yields whether it came."""
        came = self._take(seconds)
        try:
            yield came
        finally:
            if came:
                self._let_go()

    def _take(self, seconds: float | None) -> bool:
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            turn = threading.Event()
            self._line.append(turn)
        if turn.wait(seconds):
            return True
        with self._lock:
            if turn.is_set():  # just now
                return True
            self._line.remove(turn)
            return False

    def _let_go(self) -> None:
        with self._lock:
            if self._line:
                self._line.popleft().set()
            else:
                self._taken = False
