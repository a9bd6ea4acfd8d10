"""Folders of what can be had again, under a limit of bytes: what was not used for longest goes first."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

# After the limit was passed so much of it is kept, so that the next file does not pass it at once.
KEPT_SHARE = 0.9
# Seconds for which a file that was asked for stays: from being found to being opened.
IN_USE = 60.0
_COUNT = ".bytes"  # a file in such a folder: how much it holds, or a little less than that


class Held(NamedTuple):
    """One thing that a cache holds: when it was last used, its bytes, where it is."""

    used: float
    size: int
    path: Path


def longest_unused(held: Iterable[Held], excess: float) -> list[Held]:
    """Those to drop so that at least `excess` bytes go, the longest unused first."""
    dropped = []
    for one in sorted(held):
        if excess <= 0:
            break
        dropped.append(one)
        excess -= one.size
    return dropped


class CacheFolder:
    """A folder whose files are dropped where there are more than `limit` bytes of them.

    Files that were used just now stay, and those that `losable`, asked for many at once, does not return. Safe between
    threads and processes; whoever has a file open keeps what he reads.
    """

    def __init__(self, folder: Path, limit: int, losable: Callable[[list[Path]], Collection[Path]] | None = None):
        self.folder, self.limit = folder, limit
        self._losable = losable

    def use(self, path: Path) -> None:
        """Notes that a file is used now. Its time of change stays."""
        with suppress(OSError):
            os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))

    def add(self, path: Path) -> None:
        """Counts a new file, and drops others where they are too many. Looks through the folder only then."""
        # The count outlives this process: many that each add a file or two would all look through the folder.
        with (self.folder / _COUNT).open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            known = file.read().strip()
            total = int(known) + path.stat().st_size if known.isdigit() else None
            if total is None or total > self.limit:
                total = self._shrink()
            file.truncate(0)
            # Where little can go just now, it is looked for again when there is a tenth more, not at every file.
            file.write(str(min(total, int(self.limit * KEPT_SHARE))))

    def _shrink(self) -> int:
        """Returns the bytes that are left."""
        held = list(self._held())
        total = sum(one.size for one in held)
        if total <= self.limit:
            return total
        unused = [one for one in held if time.time() - one.used >= IN_USE]
        if self._losable is not None:
            losable = set(self._losable([one.path for one in unused]))
            unused = [one for one in unused if one.path in losable]
        for one in longest_unused(unused, total - self.limit * KEPT_SHARE):
            one.path.unlink(missing_ok=True)
            total -= one.size
        return total

    def _held(self) -> Iterator[Held]:
        for folder, _, names in os.walk(self.folder):
            for name in names:
                if name == _COUNT:
                    continue
                path = Path(folder, name)
                with suppress(OSError):
                    stat = path.stat()
                    yield Held(stat.st_atime, stat.st_size, path)
