"""Files written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ml_backend.errors import InputError, Unavailable

# A disk that is full or failing, or over its quota: somebody will see to it.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


# Names of files that are being written, and of those that were when their process was killed.
PARTIAL = re.compile(r"\..+\.\d+\.\d+\.partial(\..*)?")


@contextmanager
def partial_file(path: str | Path, durable: bool = True) -> Iterator[Path]:
    """A path beside `path` to write a file to; it takes the name `path` where the block ends well, and is gone else.

    `durable` waits until the disk has it: what can be made again needs no such wait. Raises InputError where the disk
    refuses, Unavailable where that is for want of room; `path` is then as it was.
    """
    path = Path(path)
    # The suffix stays last: np.save and others add theirs to a name without it.
    partial = path.with_name(f".{path.stem}.{os.getpid()}.{threading.get_ident()}.partial{path.suffix}")
    try:
        yield partial
        if durable:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise refusal(path, "a file that can be written", error) from None
    finally:
        if partial.parent.is_dir():
            partial.unlink(missing_ok=True)


def refusal(thing: object, expected: str, error: OSError) -> InputError:
    """What to raise where the disk refuses: Unavailable where that is for want of room."""
    kind = Unavailable if error.errno in NO_ROOM else InputError
    return kind(thing, expected, error.strerror or str(error))


def feed(digest: Any, path: Path) -> None:
    """Feeds the content of a file to a digest of hashlib."""
    with path.open("rb") as file:
        while part := file.read(1 << 20):
            digest.update(part)


def write_whole(path: str | Path, write: Callable[[Path], object], durable: bool = True) -> None:
    """Lets `write` fill a file that becomes `path`, see `partial_file`; missing folders are made."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(path.parent, "a folder that can be made", error.strerror or str(error)) from None
    with partial_file(path, durable) as partial:
        write(partial)


@contextmanager
def whole_file(path: str | Path) -> Iterator[IO[str]]:
    """A text file to write to that becomes `path`, see `partial_file`."""
    with partial_file(path) as partial, partial.open("w", encoding="utf-8", newline="\n") as file:
        yield file
