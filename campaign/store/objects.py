"""The files of a campaign that all its machines share: where they lie, and how one becomes another.

In a folder a file is where it was written. At a URL it is an object under a name of its own, and a row of the database
says which object a file is: that row is the moment at which a file is there, whole, for everybody. An upload that was
interrupted leaves an object that no row names, and of two machines that write one file the last row stands. A
machine's folder is a cache of these objects, which are held against the length and checksum in their rows.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from secrets import token_hex
from typing import IO, Any, TypeVar

from sqlalchemy import Executable, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from campaign.store import models as m
from campaign.store.places import IMAGES
from campaign.store.sessions import Sessions, portions
from ml_backend.buckets import Bucket, is_url
from ml_backend.caches import CacheFolder
from ml_backend.errors import InputError
from ml_backend.files import feed, write_whole

TRANSFERS = 8  # at a time
_TRIES = 3  # of a file that is replaced while it is fetched
_UNPUBLISHED = 600  # seconds after which a file that was written here will not be published any more
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


class Files:
    """Part of `Store`: the files of a campaign in a folder. They are where they were written."""

    # Whether parts of files are read from elsewhere, so that they should bear checksums of their own.
    apart = False

    def __init__(self, sessions: Sessions):
        self._sessions = sessions

    def local(self, path: Path) -> Path:
        """The path, where the file is now if there is one. Raises InputError where it cannot be had whole."""
        return path

    def each(self, paths: Iterable[Path], beside: Callable[[Path], Path] | None = None) -> Iterator[Path]:
        """The paths one after the other, where the files are then, and those that `beside` names of each.

        Some are fetched at a time: all together they may be more than a machine keeps.
        """
        return iter(paths)

    def folder(self, path: Path) -> Path:
        """The path of a folder, where all files below it are now."""
        return path

    @contextmanager
    def opened(self, path: Path) -> Iterator[Path | IO[bytes]]:
        """A file of which parts are to be read: its path, or where it is not here what asks for each part."""
        yield path

    def parallel(self, work: Callable[[_Given], _Made], given: Iterable[_Given]) -> list[_Made]:
        """What work makes of each, in order; side by side where it has to be fetched."""
        return list(map(work, given))

    def there(self, paths: Iterable[Path]) -> set[Path]:
        """Those of the paths at which there are files."""
        return {path for path in paths if path.exists()}

    def has(self, path: Path) -> bool:
        """Whether there is a file."""
        return bool(self.there([path]))

    def listed(self, folder: Path, pattern: str = "*") -> list[Path]:
        """The paths of the files in a folder, or of those whose names are like a pattern, by name."""
        return sorted(path for path in folder.glob(pattern) if path.is_file())

    def below(self, folder: Path) -> list[Path]:
        """The paths of all files in a folder and the folders in it, by name."""
        return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())

    def sizes(self, folder: Path, pattern: str = "*") -> dict[str, int]:
        """{name: bytes} of the files in a folder."""
        return {path.name: path.stat().st_size for path in self.listed(folder, pattern)}

    def times(self, folder: Path) -> dict[str, float]:
        """{name: seconds since 1970 at which it was written} of the files in a folder."""
        return {path.name: path.stat().st_mtime for path in self.listed(folder)}

    def newest(self, folder: Path, pattern: str) -> Path | None:
        """The path of the file that was written last, None where there is none."""
        made = sorted(folder.glob(pattern), key=lambda path: path.stat().st_mtime)
        return made[-1] if made else None

    @contextmanager
    def published(self, *_paths: Path, within: Session | None = None) -> Iterator[Session]:
        """A transaction, or a part of one, in which files that were written become those that everybody sees."""
        with self._sessions() if within is None else nullcontext(within) as session:
            yield session

    def publish(self, *paths: Path) -> None:
        """Makes files that were written those that everybody sees, all or none."""

    def write(self, path: Path, fill: Callable[[Path], object], durable: bool = True) -> None:
        """Lets `fill` write a file, which everybody sees then, see `write_whole`."""
        write_whole(path, fill, durable)
        self.publish(path)

    def remove(self, paths: Iterable[Path]) -> None:
        """Removes files; those that are not there are no matter."""
        for path in paths:
            path.unlink(missing_ok=True)

    def drop(self, folder: Path) -> None:
        """Removes a folder with all that is in it."""
        shutil.rmtree(folder, ignore_errors=True)

    def shared(self, images: Sequence[str], _first: int) -> list[str]:
        """Where images, at URLs or in files, are for all machines; they are numbered from `first` on."""
        return list(images)

    def rows(self) -> list[m.Object]:
        """What the database says of the files of a campaign at a URL, by name; of those in a folder nothing."""
        return []

    def broken(self) -> list[tuple[str, str]]:
        """(object, what is wrong with it) of the files that are not as the database says, as far as a listing tells."""
        return []


class Objects(Files):
    """Part of `Store`: the files of a campaign at a URL; `root` is the folder that this machine has for them."""

    apart = True

    def __init__(self, sessions: Sessions, root: Path, bucket: Bucket, limit: int):
        super().__init__(sessions)
        self._root, self.bucket = root, bucket
        self._cache = CacheFolder(root, limit, self._losable)

    def local(self, path: Path) -> Path:
        """See `Files`. Raises Unavailable, too, where the object store does not answer."""
        self._fetch([path])
        return path

    def each(self, paths: Iterable[Path], beside: Callable[[Path], Path] | None = None) -> Iterator[Path]:
        """See `Files`."""
        left = iter(paths)
        while part := list(islice(left, 2 * TRANSFERS)):
            self._fetch([*part, *(map(beside, part) if beside else ())])
            yield from part

    def folder(self, path: Path) -> Path:
        """See `Files`."""
        self._fetch([self._root / row.name for row in self._below(path)])
        return path

    @contextmanager
    def opened(self, path: Path) -> Iterator[Path | IO[bytes]]:
        """See `Files`. Of a file that is not here only the length is held against its row."""
        row = self._row(path)
        if _is(path, row):
            self._cache.use(path)
            yield path
            return
        try:
            with self.bucket.opened(row.object) as file:
                if (size := file.seek(0, os.SEEK_END)) != row.bytes:
                    raise InputError(f"{self.bucket.url}/{row.object}", f"{row.bytes} bytes", f"{size}")
                yield file
        except FileNotFoundError:
            raise InputError(f"{self.bucket.url}/{row.object}", f"an object of {row.bytes} bytes", "none") from None

    def parallel(self, work: Callable[[_Given], _Made], given: Iterable[_Given]) -> list[_Made]:
        """See `Files`."""
        with ThreadPoolExecutor(TRANSFERS) as pool:
            return list(pool.map(work, given))

    def there(self, paths: Iterable[Path]) -> set[Path]:
        """See `Files`."""
        names = {self._name(path): path for path in paths}
        return {names[name] for name in self._rows(list(names))}

    def listed(self, folder: Path, pattern: str = "*") -> list[Path]:
        """See `Files`."""
        return [self._root / row.name for row in self._in(folder, pattern)]

    def below(self, folder: Path) -> list[Path]:
        """See `Files`."""
        return [self._root / row.name for row in self._below(folder)]

    def sizes(self, folder: Path, pattern: str = "*") -> dict[str, int]:
        """See `Files`."""
        return {Path(row.name).name: row.bytes for row in self._in(folder, pattern)}

    def times(self, folder: Path) -> dict[str, float]:
        """See `Files`."""
        return {Path(row.name).name: _written(row) / 10**9 for row in self._in(folder, "*")}

    def newest(self, folder: Path, pattern: str) -> Path | None:
        """See `Files`."""
        newest = max(self._in(folder, pattern), key=_written, default=None)
        return None if newest is None else self._root / newest.name

    @contextmanager
    def published(self, *paths: Path, within: Session | None = None) -> Iterator[Session]:
        """See `Files`. They are uploaded first, under names of their own."""
        before = self._rows([self._name(path) for path in paths])
        try:
            rows = _side_by_side(self._upload, [(path, before.get(self._name(path))) for path in paths])
            with self._sessions() if within is None else nullcontext(within) as session:
                # One order for all, or two would wait for each other.
                for number in sorted(range(len(rows)), key=lambda number: rows[number].name):
                    row: m.Object = rows[number]
                    if row is before.get(row.name):
                        now = session.scalar(select(m.Object.digest).where(m.Object.name == row.name))
                        if now == row.digest:
                            continue
                        # Another machine has replaced or removed it since, and its object with it.
                        rows[number] = row = self._upload(paths[number], None)
                    session.execute(_upsert(session, row))
                yield session
        except BaseException:
            for path in paths:  # who reads need not wait for it
                with suppress(OSError):
                    os.utime(path, ns=(time.time_ns(), 0))
            raise
        for row, path in zip(rows, paths, strict=True):
            _mark(path, row)
            self._cache.add(path)
            old = before.get(row.name)
            if old is not None and old.object != row.object and within is None:
                self.bucket.remove([old.object])  # who fetches it just now looks again what the file is

    def publish(self, *paths: Path) -> None:
        """See `Files`."""
        with self.published(*paths):
            pass

    def remove(self, paths: Iterable[Path]) -> None:
        """See `Files`."""
        self._forget(list(self._rows([self._name(path) for path in paths]).values()))

    def drop(self, folder: Path) -> None:
        """See `Files`."""
        self._forget(self._below(folder))
        super().drop(folder)

    def shared(self, images: Sequence[str], first: int) -> list[str]:
        """See `Files`. Those of this machine are copied below the campaign's URL."""
        places = [self.copy_of(number, image) for number, image in enumerate(images, first)]
        self.copy([(Path(image), place) for image, place in zip(images, places, strict=True) if image != place])
        return places

    def rows(self) -> list[m.Object]:
        """See `Files`."""
        return self._below(self._root)

    def copy(self, images: Sequence[tuple[Path, str]]) -> None:
        """Uploads images of this machine, each to a URL below the campaign's."""
        _side_by_side(self.bucket.upload, [(path, place.removeprefix(f"{self.bucket.url}/")) for path, place in images])

    def upload(self, paths: Sequence[Path]) -> list[m.Object]:
        """Uploads files under names of their own; returns the rows to be added so that they are there."""
        return _side_by_side(self._upload, [(path, None) for path in paths])

    def copy_of(self, number: int, image: str) -> str:
        """Where the image of this number is for all machines: the URL itself, of a file that of its copy."""
        return image if is_url(image) else f"{self.bucket.url}/{IMAGES}/{number:09d}-{Path(image).name}"

    def broken(self) -> list[tuple[str, str]]:
        """See `Files`."""
        sizes = self.bucket.sizes()
        wrong = []
        for row in self.rows():
            size = sizes.get(row.object)
            if size != row.bytes:
                wrong.append((row.object, "is missing" if size is None else f"has {size} bytes instead of {row.bytes}"))
        return wrong

    def _row(self, path: Path) -> m.Object:
        return self._named([self._name(path)])[self._name(path)]

    def _named(self, names: Sequence[str]) -> dict[str, m.Object]:
        """The rows of files that have to be there."""
        rows = self._rows(names)
        if missing := next((name for name in names if name not in rows), None):
            raise InputError(f"{self.bucket.url} {missing}", "a file that the database names", "none of that name")
        return rows

    def _fetch(self, paths: Sequence[Path]) -> None:
        wanted = {self._name(path): path for path in paths}
        rows = self._named(list(wanted))
        _side_by_side(self._have, [(rows[name], path) for name, path in wanted.items()])

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root).as_posix()

    def _rows(self, names: Sequence[str]) -> dict[str, m.Object]:
        with self._sessions() as session:
            return {
                row.name: row
                for part in portions(sorted(set(names)))
                for row in session.scalars(select(m.Object).where(m.Object.name.in_(part)))
            }

    def _below(self, folder: Path) -> list[m.Object]:
        query = select(m.Object).order_by(m.Object.name)
        if folder != self._root:
            # Escaped by PostgreSQL's own sign, for which it uses the index.
            begin = self._name(folder).replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
            query = query.where(m.Object.name.like(f"{begin}/%", escape="\\"))
        with self._sessions() as session:
            return list(session.scalars(query))

    def _in(self, folder: Path, pattern: str) -> list[m.Object]:
        depth = len(folder.relative_to(self._root).parts) + 1
        paths = ((Path(row.name), row) for row in self._below(folder))
        return [row for path, row in paths if len(path.parts) == depth and fnmatchcase(path.name, pattern)]

    def _have(self, row: m.Object, path: Path) -> None:
        """Fetches a file that is not here as its row says, and notes that it is used."""
        for left in reversed(range(_TRIES)):
            if _is(path, row) or _is_being_written(path, row):
                break
            try:
                self._download(row, path)
                self._cache.add(path)
                break
            except InputError:
                newer = self._rows([row.name]).get(row.name)
                if not left or newer is None or newer.object == row.object:
                    raise
                row = newer
        self._cache.use(path)

    def _download(self, row: m.Object, path: Path) -> None:
        thing = f"{self.bucket.url}/{row.object}"

        def fill(partial: Path) -> None:
            try:
                self.bucket.download(row.object, partial)
            except FileNotFoundError:
                raise InputError(thing, f"the object of {row.bytes} bytes that the database names", "none") from None
            size = partial.stat().st_size
            if size != row.bytes:
                raise InputError(thing, f"{row.bytes} bytes, as the database says", f"{size}")
            if digest_of(partial) != row.digest:
                raise InputError(thing, "the content that was put there", "another of the same length")
            _mark(partial, row)

        write_whole(path, fill, durable=False)

    def _upload(self, path: Path, before: m.Object | None) -> m.Object:
        """The row that a file is to have: the one of `before` where it is the same."""
        name, digest = self._name(path), digest_of(path)
        if before is not None and before.digest == digest:
            return before
        # A name of its own, also for what was there before: another machine may just be removing that.
        row = m.Object(
            name=name, object=f"{name}.{token_hex(16)}", bytes=path.stat().st_size, digest=digest, committed_at=m.now()
        )
        self.bucket.upload(path, row.object)
        return row

    def _forget(self, rows: Sequence[m.Object]) -> None:
        if not rows:
            return
        with self._sessions() as session:
            for part in portions([row.name for row in rows]):
                session.execute(delete(m.Object).where(m.Object.name.in_(part)))
        self.bucket.remove([row.object for row in rows])
        for row in rows:
            (self._root / row.name).unlink(missing_ok=True)

    def _losable(self, paths: list[Path]) -> Collection[Path]:
        """Those of the cache's files that the object store has as they are."""
        rows = self._rows([self._name(path) for path in paths])
        return {path for path in paths if (row := rows.get(self._name(path))) is not None and _is(path, row)}


def _upsert(session: Session, row: m.Object) -> Executable:
    """Adds or replaces a row. Another machine may be adding one of that name."""
    dialect: Any = {"postgresql": postgresql, "sqlite": sqlite}[session.get_bind().dialect.name]
    values = {name: getattr(row, name) for name in ("object", "bytes", "digest", "committed_at")}
    added = dialect.insert(m.Object).values(name=row.name, **values)
    changed: Executable = added.on_conflict_do_update(index_elements=["name"], set_=values)
    return changed


def _side_by_side(work: Callable, arguments: list[tuple]) -> list:
    if len(arguments) < 2:
        return [work(*one) for one in arguments]
    with ThreadPoolExecutor(TRANSFERS) as pool:
        return list(pool.map(lambda one: work(*one), arguments))


def digest_of(path: Path) -> str:
    """BLAKE2b of a file's content, 16 bytes in hex."""
    digest = hashlib.blake2b(digest_size=16)
    feed(digest, path)
    return digest.hexdigest()


# A file's time of change says which object it is: no file beside it need be kept in step, and what is worked out anew
# when a file has changed is so once, on whichever machine.


def _written(row: m.Object) -> int:
    at = row.committed_at
    at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)  # SQLite keeps no time zone
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000


def _mark(path: Path, row: m.Object) -> None:
    os.utime(path, ns=(time.time_ns(), _written(row)))


def _is_being_written(path: Path, row: m.Object) -> bool:
    """Whether a file was just written here and is about to be published: nothing may be put in its place."""
    try:
        written = path.stat().st_mtime_ns
    except OSError:
        return False
    return written > _written(row) and time.time_ns() - written < _UNPUBLISHED * 10**9


def _is(path: Path, row: m.Object) -> bool:
    try:
        stat = path.stat()
    except OSError:
        return False
    return stat.st_size == row.bytes and stat.st_mtime_ns == _written(row)
