"""Images that lie in an object store: where each is on this machine, and fetching it when it is read.

An image's record has a path of this machine, also where its file is at s3://bucket/a.jpg. That path names the URL, lies
in a cache with a byte limit, and the file is fetched to it as it is read.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote

from platformdirs import user_cache_path

from ml_backend.buckets import Bucket, is_url
from ml_backend.caches import CacheFolder
from ml_backend.errors import InputError
from ml_backend.files import write_whole

FETCHES = 16  # at a time: an object store answers several as fast as one
BY_URL = "by-url"  # below the folder of the cache
_Said = TypeVar("_Said")
_LIMIT = "CAMPAIGN_IMAGE_CACHE_BYTES"
_EMPTY = "%"  # a part of a path without a name, which no name is quoted to


def cache_folder() -> Path:
    """Where images are cached: $CAMPAIGN_IMAGE_CACHE, or below the user's cache folder."""
    return _folder(os.environ.get("CAMPAIGN_IMAGE_CACHE"))


def cache_limit() -> int:
    """The bytes that are kept there, $CAMPAIGN_IMAGE_CACHE_BYTES: 4 GiB where it is unset.

    Raises InputError where that is no number.
    """
    text = os.environ.get(_LIMIT) or str(4 << 30)
    if not text.isdecimal():
        raise InputError(f"${_LIMIT}", "a number of bytes", text)
    return int(text)


def file_of(place: str) -> Path:
    """Where an image is on this machine: the path itself, or of a URL the file that it is fetched to."""
    if not is_url(place):
        return Path(place)
    scheme, rest = place.split("://", 1)
    return cache_folder().joinpath(BY_URL, scheme, *(quote(part, safe=" ") or _EMPTY for part in rest.split("/")))


def place_of(path: str | Path) -> str:
    """What `file_of` made a path of: the URL, or the path in full.

    >>> place_of(file_of("s3://bucket/a//b c%.jpg"))
    's3://bucket/a//b c%.jpg'
    """
    url = _url_of(Path(path))
    return url if url is not None else str(Path(path).resolve())


def is_fetched(path: Path) -> bool:
    """Whether the file of a path, or of all that is below it, is fetched from an object store."""
    return _url_of(path) is not None


def present(path: str | Path) -> Path:
    """The path of an image, whose file is there now if it can be had.

    Raises InputError where the object store has none, Unavailable where it does not answer.
    """
    path = Path(path)
    url = _url_of(path)
    if url is None:
        return path
    cache = _cache(cache_folder(), cache_limit())
    with _fetching(path):
        if not path.exists():
            write_whole(path, partial(_download, url), durable=False)
            cache.add(path)
    cache.use(path)
    return path


def size_of(path: Path) -> int | None:
    """The bytes of the object that is fetched to a path; None where nothing is. Raises like `present`."""
    url = _url_of(path)
    return None if url is None else _asked(url, Bucket.size)


def beginning(path: str | Path, length: int) -> bytes | None:
    """The first bytes of an image that would be fetched; None of one that is here. Raises like `present`."""
    path = Path(path)
    url = _url_of(path)
    if url is None or path.exists():
        return None
    return _asked(url, partial(Bucket.head, length=length))


def fetch(paths: Iterable[Path]) -> None:
    """Fetches the images at these paths that are not there yet, several at a time. Raises like `present`."""
    wanted = [path for path in paths if _url_of(path) is not None]
    if wanted:
        with ThreadPoolExecutor(FETCHES) as pool:
            for _ in pool.map(present, wanted):
                pass


def are_there(places: Iterable[str]) -> Iterator[tuple[str, bool]]:
    """Each of the places of images, URLs or paths, and whether there is a file."""
    left = iter(places)
    with ThreadPoolExecutor(FETCHES) as pool:
        while part := list(islice(left, 1000)):
            far = [place for place in part if is_url(place)]
            known = dict(zip(far, pool.map(_is_there, far), strict=True))
            yield from ((place, known[place] if place in known else Path(place).exists()) for place in part)


def _is_there(url: str) -> bool:
    folder, name = url.rsplit("/", 1)
    return Bucket(folder).has(name)


def _download(url: str, file: Path) -> None:
    _asked(url, partial(Bucket.download, file=file))


def _asked(url: str, ask: Callable[[Bucket, str], _Said]) -> _Said:
    """What the object store says of the object of a URL."""
    folder, name = url.rsplit("/", 1)
    try:
        return ask(Bucket(folder), name)
    except FileNotFoundError:
        raise InputError(url, "an image file", "no such object") from None


def _url_of(path: Path) -> str | None:
    root = cache_folder() / BY_URL
    # Most paths are of this machine, and there may be millions.
    if not str(path).startswith(str(root)) or not path.is_relative_to(root):
        return None
    scheme, *parts = path.relative_to(root).parts
    return f"{scheme}://" + "/".join("" if part == _EMPTY else unquote(part) for part in parts)


@lru_cache(maxsize=4)
def _folder(named: str | None) -> Path:
    return Path(named) if named else user_cache_path("label-studio-cluster-verification") / "images"


@lru_cache(maxsize=4)
def _cache(folder: Path, limit: int) -> CacheFolder:
    return CacheFolder(folder / BY_URL, limit)


_locks = [threading.Lock() for _ in range(64)]


def _fetching(path: Path) -> threading.Lock:
    """One of few locks, by the path: an image that several threads want is fetched once."""
    return _locks[hash(path) % len(_locks)]
