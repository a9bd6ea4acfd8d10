"""A share of the machine's memory that threads take in turn, so that many large images do not come at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LEAST = 1 << 30


class Budget:
    """`limit` bytes that threads share. Who asks for more than there are gets all of them, alone."""

    def __init__(self, limit: int):
        self.limit = limit
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Waits until `size` bytes are free and holds them for as long as the block runs."""
        size = min(size, self.limit)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + size <= self.limit)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()


def machine_share(share: float = 0.25) -> int:
    """Bytes: that share of the memory that this process may use, a container's limit included, at least `LEAST`."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            memory = min(memory, int(Path(name).read_text()))
        except (OSError, ValueError):  # no container, or one without a limit
            continue
    return max(int(memory * share), LEAST)
