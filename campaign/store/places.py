"""Where a campaign lives: in a folder, or at a URL of an object store, with a folder of each machine for its files.

What lies there by a fixed name is little: settings and secrets. All else is named by the database, see `objects`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from platformdirs import user_cache_path

from campaign.store.locks import file_lock
from ml_backend.buckets import Bucket, is_url
from ml_backend.errors import InputError, Unavailable
from ml_backend.files import PARTIAL, write_whole

SETTINGS_FILE = "campaign.json"
SECRETS_FILE = "secrets.json"
_WHAT = {SETTINGS_FILE: "the settings of a campaign", SECRETS_FILE: "the secrets of a campaign"}
_LEFT = re.compile(rf"\.init\.lock|{PARTIAL.pattern}")  # by whoever was killed as it claimed a folder
IMAGES = "images"  # copies of images that no other machine would reach
CACHE = "CAMPAIGN_CACHE"
CACHE_LIMIT = "CAMPAIGN_CACHE_GIB"
SECRETS_SECONDS = 30.0  # for which those of a campaign at a URL are kept
_MADE = "made"  # false in the settings of a campaign as long as it is being made


class Place(Protocol):
    """Where a campaign lives. `name` is what commands, jobs and messages call it, `folder` where its files are here."""

    name: str
    folder: Path

    def read(self, name: str) -> dict[str, Any] | None:
        """The settings or the secrets, None where there are none. Raises InputError where they are something else."""
        ...

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Puts settings or secrets there, whole or not at all. Only the owner of a folder reads its secrets."""
        ...

    def secrets(self) -> dict[str, Any]:
        """The secrets, perhaps as they were some seconds ago."""
        ...

    def prepare(self) -> None:
        """Has the folder be there. Raises InputError where it cannot be made."""
        ...

    def claimed(self, key: str, filled: bool = False) -> Any:
        """A context in which a campaign is made here. What it leaves where it fails is removed.

        Raises InputError where a campaign is here already or, unless it is to be `filled`, something else is, or where
        another process makes one.
        """
        ...


def place_of(place: str | Path) -> Place:
    """The place that a path or a URL names."""
    return Prefix(str(place)) if is_url(place) else Folder(Path(place))


class Folder:
    """A folder that holds all of a campaign."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.name = str(self.folder)

    def read(self, name: str) -> dict[str, Any] | None:
        """See `Place`."""
        path = self.folder / name
        try:
            return _parsed(path, name, path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(path, _WHAT[name], error.strerror or error) from None

    def write(self, name: str, content: dict[str, Any]) -> None:
        """See `Place`."""

        def fill(partial: Path) -> None:
            if name == SECRETS_FILE:
                partial.touch(mode=0o600)
            partial.write_text(json.dumps(content, indent=2) + "\n")

        write_whole(self.folder / name, fill)

    def secrets(self) -> dict[str, Any]:
        """See `Place`."""
        return self.read(SECRETS_FILE) or {}

    def prepare(self) -> None:
        """See `Place`: whoever opens a campaign in a folder has one."""

    @contextmanager
    def claimed(self, key: str, filled: bool = False) -> Iterator[None]:
        """See `Place`."""
        folder, fresh, found = self.folder, not self.folder.exists(), self.read(SETTINGS_FILE)
        if found is not None and not is_being_made(found):
            raise InputError(folder, "a folder without a campaign", taken(found))
        before = set() if fresh else {path for path in folder.iterdir() if not _LEFT.fullmatch(path.name)}
        if before and not filled and found is None:
            raise InputError(folder, "an empty or new folder", "a folder that holds other files")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with file_lock(folder / ".init.lock", wait=False, thing=str(folder)):
                if found is not None:
                    raise InputError(folder, "a folder without a campaign", taken(found, filled))
                try:
                    self.write(SETTINGS_FILE, {_MADE: False, "key": key})
                    yield
                except BaseException:
                    _clear(folder, before, remove=fresh)
                    raise
        except OSError as error:
            raise InputError(folder, "a folder that can be written", error.strerror or str(error)) from None


class Prefix:
    """All objects below a URL of an object store, and a folder of this machine where they are worked on and cached."""

    def __init__(self, url: str):
        self.bucket = Bucket(url)
        self.name = self.bucket.url
        self.folder = cache_folder() / _folder_name(self.name)
        self._secrets: dict[str, Any] = {}
        self._secrets_at = -SECRETS_SECONDS

    def read(self, name: str) -> dict[str, Any] | None:
        """See `Place`."""
        text = self.bucket.read(name)
        return None if text is None else _parsed(f"{self.name}/{name}", name, text)

    def write(self, name: str, content: dict[str, Any]) -> None:
        """See `Place`."""
        self.bucket.write(name, _text(content))
        self._secrets_at = -SECRETS_SECONDS

    def secrets(self) -> dict[str, Any]:
        """See `Place`: servers ask for them at every request."""
        if time.monotonic() - self._secrets_at >= SECRETS_SECONDS:
            self._secrets, self._secrets_at = self.read(SECRETS_FILE) or {}, time.monotonic()
        return self._secrets

    def prepare(self) -> None:
        """See `Place`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = f"a folder that can be made (${CACHE} names another)"
            raise InputError(self.folder, hint, error.strerror or error) from None

    @contextmanager
    def claimed(self, key: str, filled: bool = False) -> Iterator[None]:
        """See `Place`."""
        if (found := self.read(SETTINGS_FILE)) is not None:
            raise InputError(self.name, "a URL without a campaign", taken(found, filled))
        for above in _above(self.name):
            with suppress(Unavailable):  # these credentials may be good for less than all of the bucket
                if Bucket(above).has(SETTINGS_FILE):
                    raise InputError(self.name, "a URL that lies in no campaign", f"one in the campaign {above}")
        if not filled and not self.bucket.is_empty():
            raise InputError(self.name, "a URL without objects", "one that holds other objects")
        if not self.bucket.create(SETTINGS_FILE, _text({_MADE: False, "key": key})):
            raise InputError(self.name, "a URL without a campaign", "one that another process is making one at")
        try:
            yield
        except BaseException as error:
            if filled:
                self.bucket.remove([SETTINGS_FILE, SECRETS_FILE])
            else:
                self.bucket.clear()
            shutil.rmtree(self.folder, ignore_errors=True)
            if isinstance(error, OSError):
                raise InputError(self.folder, "a folder that can be written", error.strerror or error) from None
            raise


def taken(settings: dict[str, Any], filled: bool = False) -> str:
    """What to say of a place that has settings; one that was `filled` before it was claimed keeps its files."""
    if not is_being_made(settings):
        return "one that holds a campaign already"
    what = f"its {SETTINGS_FILE}" if filled else "it"
    return f"one whose `campaign init` or `restore` runs, or was ended before it was done: then remove {what}"


def is_being_made(content: dict[str, Any]) -> bool:
    """Whether these are the settings of a campaign that is not whole yet."""
    return content.get(_MADE) is False


def cache_folder() -> Path:
    """Where campaigns at URLs have their folders on this machine: $CAMPAIGN_CACHE, or below the user's cache folder."""
    named = os.environ.get(CACHE)
    return Path(named).resolve() if named else user_cache_path("label-studio-cluster-verification") / "campaigns"


def cache_limit() -> int:
    """Bytes that such a folder may hold of what the object store has too: $CAMPAIGN_CACHE_GIB, 50 where it is unset."""
    text = os.environ.get(CACHE_LIMIT) or "50"
    try:
        limit = float(text)
    except ValueError:
        limit = 0.0
    if not 0 < limit < float("inf"):
        raise InputError(f"${CACHE_LIMIT}", "a number above 0", text)
    return int(limit * 2**30)


def _folder_name(url: str) -> str:
    """A name that tells people which campaign it is of, and is another for each URL."""
    words = re.sub(r"[^A-Za-z0-9]+", "-", url).strip("-")[-40:].strip("-")
    return f"{words}-{hashlib.blake2b(url.encode(), digest_size=6).hexdigest()}"


def _above(url: str) -> Iterator[str]:
    """The URLs that this one lies below, the nearest first, up to the bucket."""
    scheme, _, path = url.partition("://")
    while (path := path.rpartition("/")[0]).strip("/"):
        yield f"{scheme}://{path}"


def _text(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _parsed(thing: object, name: str, text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InputError(thing, _WHAT[name], type(error).__name__) from None
    if not isinstance(content, dict):
        raise InputError(thing, _WHAT[name], type(content).__name__)
    return content


def _clear(folder: Path, before: Collection[Path], remove: bool) -> None:
    """Takes back what was written; what was there before stays."""
    if remove:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir() if folder.is_dir() else ():
        if path not in before:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
