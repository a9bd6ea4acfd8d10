"""Images of Label Studio tasks as files: the SDK's loader behind a disk cache with a byte limit."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import threading
from pathlib import Path
from urllib.parse import quote, urlparse

import requests

from ml_backend.caches import KEPT_SHARE, Held, longest_unused
from ml_backend.errors import FetchError, InputError, Unavailable
from ml_backend.masks.fetched import BY_URL, cache_folder, cache_limit, file_of, present, size_of
from ml_backend.server.addresses import ImageHosts
from ml_backend.server.downloads import LimitedSession, is_plain_path

log = logging.getLogger(__name__)

MAX_IMAGE_BYTES = 256 << 20
FETCH_SECONDS = 60.0
# Answers that speak of permissions and of a busy server, and nothing of the image.
_PASSING = (401, 403, 407, 408, 425, 429)
_PARTIAL = ".part"
AZURE = "azure-blob://"
_BUCKETS = ("s3://", "gs://", "az://", AZURE)
MAX_NAME = 255  # bytes of a part of a path


class ImageFiles:
    """Fetches the images of tasks: uploads, local files, cloud storage, buckets, http.

    folder: where they are cached. limit: bytes kept there, the longest unused go first. max_bytes: the largest image
    that is fetched. Safe between threads and processes that share the folder.
    """

    def __init__(self, folder: str | Path, limit: int = 4 << 30, max_bytes: int = MAX_IMAGE_BYTES):
        self.folder = Path(folder)
        self.limit = limit
        self.max_bytes = max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()
        self._bytes: int | None = None

    def get(
        self,
        url: str,
        *,
        hostname: str = "",
        token: str = "",
        task_id: int | None = None,
        seconds: float = FETCH_SECONDS,
    ) -> Path:
        """The file of the image at `url` of a task of the Label Studio at `hostname`.

        One in a bucket of $CAMPAIGN_IMAGE_BUCKETS is read from there, through the cache of such images
        (`ml_backend.masks.fetched`), by this machine's credentials; others in cloud storage are asked of Label Studio.
        Only what `url` names inside Label Studio or on the web is read: never a path of this machine, unless it is a
        local file below LOCAL_FILES_DOCUMENT_ROOT; and only from hosts that `ImageHosts` lets pass. It may take so
        many seconds. Raises FetchError where it cannot be had just now, InputError where it never can.
        """
        if not isinstance(url, str) or not url.strip():
            raise InputError("image", "an address", repr(url))
        if (own := bucket_url(url)) is not None:
            return self._from_bucket(own)
        try:
            # A Label Studio under a path names its own files with it, and is asked under it.
            prefix = urlparse(hostname).path.rstrip("/")
            url = url.removeprefix(prefix) if prefix and url.startswith(f"{prefix}/") else url
            scheme, path = urlparse(url).scheme, urlparse(url).path
        except ValueError as error:
            raise InputError("image", "an address", error) from None
        inside = url.startswith(("/data/", "data/", "/upload", "upload", "/storage-data/", "storage-data/"))
        if not inside and scheme not in ("http", "https", "s3", "gs", "azure-blob"):
            raise InputError("image", "an address in Label Studio, cloud storage or on the web", _shown(url))
        if inside and not is_plain_path(path):
            raise InputError("image", "an address in Label Studio without steps upwards", _shown(url))
        folder = self.folder / hashlib.blake2b(_bytes(f"{hostname}\n{url}"), digest_size=10).hexdigest()
        with self._lock:
            lock = self._locks.setdefault(folder.name, threading.Lock())
        try:
            with lock:
                return self._held(folder) or self._fetch(url, folder, hostname, token, task_id, seconds)
        finally:
            with self._lock:
                self._locks.pop(folder.name, None)

    def _from_bucket(self, url: str) -> Path:
        path = file_of(url)
        try:
            if not path.exists() and (size := size_of(path) or 0) > self.max_bytes:
                raise InputError("image", f"at most {self.max_bytes} bytes", f"{size} bytes")
            return present(path)
        except Unavailable as error:
            raise FetchError(error.thing, error.expected, error.got) from None

    def _held(self, folder: Path) -> Path | None:
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                os.utime(folder)
                return path
        return None

    def _fetch(self, url: str, folder: Path, hostname: str, token: str, task_id: int | None, seconds: float) -> Path:
        from label_studio_sdk._extensions.label_studio_tools.core.utils import io

        # A folder of its own until all of the image is there: a killed fetch leaves no half image behind.
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.{threading.get_ident()}{_PARTIAL}")
        partial.mkdir(parents=True, exist_ok=True)
        try:
            hosts = ImageHosts(hostname or os.environ.get("LABEL_STUDIO_URL", ""))
            with LimitedSession(self.max_bytes, seconds, hosts) as session, io.http_session(session):
                fetched = Path(
                    io.get_local_path(
                        url,
                        cache_dir=str(partial),
                        hostname=hostname or None,
                        access_token=token or None,
                        task_id=task_id,
                    )
                )
            size = fetched.stat().st_size
            if size > self.max_bytes:
                raise InputError("image", f"at most {self.max_bytes} bytes", f"{size} bytes")
            if fetched.parent != partial:
                return fetched
            with contextlib.suppress(OSError):
                partial.rename(folder)
            self._count(size, folder.name)
            return folder / fetched.name
        except InputError:
            raise
        except requests.RequestException as error:
            raise _failure(url, error) from None
        except OSError as error:
            # The loader says so too where it has no Label Studio to ask; the rest is this machine's disk.
            kind = InputError if error.errno == errno.ENAMETOOLONG else FetchError
            raise kind(f"image {_shown(url)}", "an image that can be fetched", type(error).__name__) from None
        except Exception as error:  # the loader raises plain Exceptions
            raise InputError(f"image {_shown(url)}", "an image that can be fetched", type(error).__name__) from None
        finally:
            self._drop(partial)

    def _count(self, size: int, keep: str) -> None:
        """Looks through the folder only when the limit may have been passed, not at each image."""
        with self._lock:
            self._bytes = None if self._bytes is None else self._bytes + size
            if self._bytes is None or self._bytes > self.limit:
                self._bytes = self._shrink(keep)

    def _drop(self, folder: Path) -> None:
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()

    def _shrink(self, keep: str) -> int:
        """Drops the longest unused images until the rest is within the limit; returns the bytes that are left."""
        held: list[Held] = []
        with contextlib.suppress(OSError):
            for folder in self.folder.iterdir():
                with contextlib.suppress(OSError):
                    size = sum(p.stat().st_size for p in folder.iterdir())
                    held.append(Held(folder.stat().st_mtime, size, folder))
        total = sum(one.size for one in held)
        for one in longest_unused(
            (one for one in held if one.path.name not in (keep, BY_URL)), total - self.limit * KEPT_SHARE
        ):
            self._drop(one.path)
            total -= one.size
        return total


def bucket_url(address: str) -> str | None:
    """The URL at which fsspec opens an image that lies in a bucket of $CAMPAIGN_IMAGE_BUCKETS, None for others.

    Whoever may write tasks would else have any object read that this machine's credentials reach. Label Studio says
    azure-blob:// where fsspec says az://. Raises InputError for one of these buckets that names no object plainly.
    """
    allowed = os.environ.get("CAMPAIGN_IMAGE_BUCKETS", "")
    if not allowed or not address.startswith(_BUCKETS):
        return None
    url = _as_fsspec(address)
    roots = (_as_fsspec(root.strip()).rstrip("/") + "/" for root in allowed.split(",") if root.strip())
    if not any(url.startswith(root) for root in roots):
        return None
    parts = url.split("/")[2:]
    # fsspec takes what follows "::" for another URL, and the cache has a folder for every part of the name.
    if "::" in url or not parts[-1] or any(p in (".", "..") or len(quote(p, safe=" ")) > MAX_NAME for p in parts):
        raise InputError("image", "the plain name of an object in its bucket", _shown(address))
    return url


def _as_fsspec(address: str) -> str:
    return f"az://{address[len(AZURE) :]}" if address.startswith(AZURE) else address


def _failure(url: str, error: requests.RequestException) -> InputError:
    """What the failure of a request says of the image, or of how it was asked for."""
    status = getattr(error.response, "status_code", None)
    malformed = isinstance(error, requests.exceptions.InvalidURL | requests.exceptions.MissingSchema)
    never = malformed or (status is not None and 400 <= status < 500 and status not in _PASSING)
    kind = InputError if never else FetchError
    return kind(f"image {_shown(url)}", "an answer", status or type(error).__name__)


def _bytes(text: str) -> bytes:
    # JSON can carry halves of characters, which UTF-8 alone refuses.
    return text.encode("utf-8", "surrogatepass")


def _shown(url: str) -> str:
    """An address fit for a log: what is signed or secret in its query is left out."""
    return url.split("?")[0][:200].encode("utf-8", "backslashreplace").decode()


def image_cache() -> ImageFiles:
    """The cache in CAMPAIGN_IMAGE_CACHE or the user's cache folder, of at most CAMPAIGN_IMAGE_CACHE_BYTES (4 GiB)."""
    return ImageFiles(cache_folder(), cache_limit())
