"""Who is logged in, and who tries too often: kept by the server, so that a copied cookie ends when the session does."""

from __future__ import annotations

import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

IDLE_SECONDS = 8 * 3600.0  # without a request
LONGEST_SECONDS = 3 * 86400.0  # with them
MOST_SESSIONS = 100
TRIES, TRIES_SECONDS = 10, 60.0
MOST_PEERS = 10_000


class Sessions:
    """The sessions that are open. Those of an earlier process are not among them: a restart ends them all.

    now: the clock, in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._open: OrderedDict[str, tuple[float, float]] = OrderedDict()  # by id: when begun, when last seen
        self._lock = threading.Lock()

    def begin(self) -> str:
        """Opens a session; returns its id. Where there are too many the longest unused ends."""
        name = secrets.token_urlsafe(24)
        with self._lock:
            self._open[name] = (self._now(), self._now())
            while len(self._open) > MOST_SESSIONS:
                self._open.popitem(last=False)
        return name

    def is_open(self, name: object, used: bool = True) -> bool:
        """Whether this session is open; it then was just used, or, without `used`, is as old as it was."""
        with self._lock:
            if not isinstance(name, str) or name not in self._open:
                return False
            begun, seen = self._open.pop(name)
            now = self._now()
            if now - begun >= LONGEST_SECONDS or now - seen >= IDLE_SECONDS:
                return False
            self._open[name] = (begun, now if used else seen)
            return True

    def end(self, name: object) -> None:
        """Ends a session, if it is open."""
        with self._lock:
            self._open.pop(str(name), None)


class Throttle:
    """So many failures in so many seconds from one peer, and no further try until some of them are past."""

    def __init__(self, tries: int = TRIES, seconds: float = TRIES_SECONDS, now: Callable[[], float] = time.monotonic):
        self._tries, self._seconds, self._now = tries, seconds, now
        self._failures: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, peer: str) -> float:
        """Seconds until this peer may try again; 0 where it may now."""
        with self._lock:
            times = self._failures.get(peer, deque())
            while times and self._now() - times[0] >= self._seconds:
                times.popleft()
            return 0.0 if len(times) < self._tries else self._seconds - (self._now() - times[0])

    def failed(self, peer: str) -> None:
        """Counts a failure."""
        with self._lock:
            times = self._failures.setdefault(peer, deque(maxlen=self._tries))
            times.append(self._now())
            self._failures.move_to_end(peer)
            while len(self._failures) > MOST_PEERS:
                self._failures.popitem(last=False)
