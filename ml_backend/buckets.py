"""Object stores through fsspec: whatever it opens by a URL, with errors of one line.

Credentials come from the environment and nowhere else, as fsspec and the package of each store read them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ml_backend.errors import InputError, Unavailable

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.*")
PORTION = 1000  # objects that S3 lists at a time, at most
# What to install for the stores that fsspec does not open by itself.
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az", "abfss": "az", "adl": "az"}


def is_url(text: object) -> bool:
    """Whether a text is a URL, such as s3://bucket/folder, and no path of this machine."""
    return isinstance(text, str) and _URL.fullmatch(text) is not None


class Bucket:
    """The objects below a URL. Safe between threads, and after a fork.

    Every method raises Unavailable where the store does not answer, or not with these credentials, and InputError where
    fsspec cannot open such a URL.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """The content of an object, None where there is none."""
        with suppress(FileNotFoundError), self._asked(name) as (files, path):
            content: bytes = files.cat_file(path)
            return content
        return None

    def write(self, name: str, content: bytes) -> None:
        """Puts an object there, in place of one of that name."""
        with self._writing(name) as (files, path):
            files.pipe_file(path, content)

    def create(self, name: str, content: bytes) -> bool:
        """Puts an object there unless there is one of that name; returns whether it did.

        Of several that try at once one succeeds, where the store has conditional writes.
        """
        with self._writing(name) as (files, path):
            try:
                files.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
        return True

    def upload(self, file: Path, name: str) -> None:
        """Puts a file there as an object, in place of one of that name."""
        with self._writing(name) as (files, path):
            files.put_file(str(file), path)

    def download(self, name: str, file: Path) -> None:
        """Fetches an object to a file, which is not whole where it raises. FileNotFoundError where there is none."""
        with self._asked(name) as (files, path):
            files.get_file(path, str(file))

    def head(self, name: str, length: int) -> bytes:
        """The first bytes of an object, at most so many. FileNotFoundError where there is none."""
        with self._asked(name) as (files, path):
            found: bytes = files.cat_file(path, start=0, end=min(length, int(files.size(path))))
            return found

    def size(self, name: str) -> int:
        """How many bytes an object has. FileNotFoundError where there is none."""
        with self._asked(name) as (files, path):
            return int(files.size(path))

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """An object to be read in parts, each of which is asked for. Raises FileNotFoundError where there is none."""
        with self._asked(name) as (files, path), files.open(path, "rb", cache_type="none") as file:
            yield file

    def has(self, name: str) -> bool:
        """Whether there is an object of that name."""
        with self._asked(name) as (files, path):
            return bool(files.isfile(path))

    def names(self) -> list[str]:
        """The names of all objects."""
        return list(self.sizes())

    def sizes(self) -> dict[str, int]:
        """{name: bytes} of all objects."""
        with suppress(FileNotFoundError), self._asked() as (files, path):
            found = files.find(path, detail=True)
            return {name[len(path) :].lstrip("/"): int(one["size"]) for name, one in found.items()}
        return {}

    def listed(self) -> Iterator[dict[str, int]]:
        """{name: bytes} of all objects, in portions: of S3 `PORTION` at a time, of other stores a folder at a time."""
        with suppress(FileNotFoundError), self._asked() as (files, path):
            for part in _pages(files, path) if hasattr(files, "call_s3") else _folders(files, path):
                yield {name[len(path) :].lstrip("/"): size for name, size in part.items()}

    def modified(self, name: str) -> float:
        """When an object was put there, in seconds since 1970. Raises FileNotFoundError where there is none."""
        with self._asked(name) as (files, path):
            at: datetime = files.modified(path)
        return (at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp()

    def is_empty(self) -> bool:
        """Whether there is no object below the URL."""
        with suppress(FileNotFoundError), self._asked() as (files, path):
            return not any(names for _, _, names in files.walk(path))
        return True

    def remove(self, names: Sequence[str]) -> None:
        """Removes objects; those that are not there are no matter."""
        if not names:
            return
        with self._asked() as (files, path), suppress(FileNotFoundError):
            if len(names) > 1:
                files.rm([f"{path}/{name}" for name in names])
            else:
                files.rm_file(f"{path}/{names[0]}")

    def clear(self) -> None:
        """Removes all objects below the URL."""
        self.remove(self.names())

    @contextmanager
    def _asked(self, name: str = "") -> Iterator[tuple[AbstractFileSystem, str]]:
        """(file system, path) of an object. What is missing is left to the caller; all else is said in one line."""
        thing = f"{self.url}/{name}" if name else self.url
        try:
            files, path = _opened(self.url)
            yield files, f"{path.rstrip('/')}/{name}" if name else path.rstrip("/")
        except (FileNotFoundError, InputError):
            raise
        except PermissionError as error:
            raise Unavailable(thing, "credentials in the environment that may do this", _said(error)) from None
        except Exception as error:  # the packages of the stores have errors of their own
            raise Unavailable(thing, "an object store that answers", _said(error)) from None

    @contextmanager
    def _writing(self, name: str) -> Iterator[tuple[AbstractFileSystem, str]]:
        try:
            with self._asked(name) as opened:
                yield opened
        except FileNotFoundError as error:
            raise Unavailable(f"{self.url}/{name}", "a bucket to write to", _said(error)) from None


def _opened(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL and the path in it. One for each process and set of options is kept by fsspec."""
    import fsspec

    scheme = url.split("://")[0].lower()
    # What others write must be seen: listings are not kept.
    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme == "file":
        options = {"auto_mkdir": True}
    try:
        files, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        hint = f"the extra {extra} to be installed" if extra else f"the package that opens {scheme}:// to be installed"
        raise InputError(url, hint, _said(error)) from None
    except ValueError as error:
        raise InputError(url, "the URL of an object store", _said(error)) from None
    return files, path


def _pages(files: Any, path: str) -> Iterator[dict[str, int]]:
    """{path: bytes} as S3 lists them; s3fs itself makes one list of all."""
    bucket, key, _ = files.split_path(path)
    more: dict[str, str] = {}
    while True:
        page = files.call_s3(
            "list_objects_v2", Bucket=bucket, Prefix=f"{key}/" if key else "", MaxKeys=PORTION, **files.req_kw, **more
        )
        yield {f"{bucket}/{one['Key']}": int(one["Size"]) for one in page.get("Contents", [])}
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _folders(files: AbstractFileSystem, path: str) -> Iterator[dict[str, int]]:
    """{path: bytes} of one folder after the other. One that is gone by then has nothing."""

    def failed(error: Exception) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for _, _, found in files.walk(path, detail=True, on_error=failed):
        yield {one["name"]: int(one["size"]) for one in found.values()}


def _said(error: BaseException) -> str:
    """What an error says, in a line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
