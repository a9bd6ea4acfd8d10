"""What interrupted work left behind: objects, files and snapshots that nothing names, and that cost their bytes.

A process that is killed leaves what it was writing. At a URL that is an upload whose name was never stored, or what it
was about to replace; in a folder, and in the one that a machine has of a campaign at a URL, a file under the name that
it had while it was being written; anywhere a snapshot of a view that was not saved. What somebody is writing just now
looks the same, so it is age that tells them apart. Whatever has no name of the campaign's own making is left alone, and
so is what lies below another campaign's URL.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from campaign.store import models as m
from campaign.store.objects import TRANSFERS, Objects
from campaign.store.places import IMAGES, SETTINGS_FILE
from campaign.store.sessions import portions
from campaign.store.store import Store
from campaign.store.views import SNAPSHOTS
from ml_backend.files import PARTIAL

_UPLOAD = re.compile(r"(.+)\.[0-9a-f]{32}")  # the name of a file, and what makes the object's its own
_COPY = re.compile(rf"{IMAGES}/(\d{{9,}})-.+")  # of an image, with its number


@dataclass(frozen=True)
class Leftover:
    """Something that nothing names: where it lies (a path or a URL), its bytes, the seconds since it was written."""

    place: str
    bytes: int
    age: float


def leftovers(store: Store) -> list[Leftover]:
    """All that nothing names, the largest first; also what is being written just now.

    Objects are looked at in portions: what is held is what nothing names.

    Raises Unavailable where the object store or the database does not answer.
    """
    found = [*_objects(store), *_snapshots(store), *_partial_files(store)]
    return sorted(found, key=lambda one: (-one.bytes, one.place))


def remove_leftovers(store: Store, found: Iterable[Leftover], least_age: float) -> list[Leftover]:
    """Removes those that are older than `least_age` seconds and that nothing names still; returns what was removed.

    Under the campaign's lock, so that no pool grows and no turn is saved meanwhile. Only what takes longer than
    `least_age` from its upload to its name would be missed by who writes it.
    """
    old = {one.place: one for one in found if one.age > least_age}
    snapshots = f"{store.folder / SNAPSHOTS}/"
    begin, objects, gone = "", list[str](), list[str]()
    with store.locked():
        if isinstance(store.files, Objects):
            begin = f"{store.files.bucket.url}/"
            objects = [place.removeprefix(begin) for place in old if place.startswith(begin)]
            named = _named(store, store.files, objects)
            unnamed = [name for name in objects if name not in named]
            store.files.bucket.remove(unnamed)
            gone += [begin + name for name in unnamed]
        known = _named_snapshots(store)
        for place in old.keys() - {begin + name for name in objects}:
            path = Path(place)
            if PARTIAL.fullmatch(path.name):
                with suppress(FileNotFoundError):
                    if time.time() - path.stat().st_mtime > least_age:
                        path.unlink()
                        gone.append(place)
            elif place.startswith(snapshots) and path.name not in known:
                store.views.remove([path.name])
                gone.append(place)
    return [one for place, one in old.items() if place in set(gone)]


def total(found: Collection[Leftover]) -> dict[str, int]:
    """{"count", "bytes"} of them."""
    return {"count": len(found), "bytes": sum(one.bytes for one in found)}


def _objects(store: Store) -> list[Leftover]:
    if not isinstance(store.files, Objects):
        return []
    bucket, others, found = store.files.bucket, dict[str, bool](), list[Leftover]()

    def is_of_another(name: str) -> bool:
        """Whether an object lies below another campaign's URL."""
        parts = name.split("/")
        for above in ("/".join(parts[:n]) for n in range(1, len(parts))):
            if above not in others:
                others[above] = bucket.has(f"{above}/{SETTINGS_FILE}")
            if others[above]:
                return True
        return False

    def leftover(name: str, size: int) -> list[Leftover]:
        with suppress(FileNotFoundError):  # somebody else has just removed it
            return [Leftover(f"{bucket.url}/{name}", size, time.time() - bucket.modified(name))]
        return []

    with ThreadPoolExecutor(TRANSFERS) as pool:
        for part in bucket.listed():
            # Listed before the names are read: what gets its name in between has one.
            ours = [name for name in part if _UPLOAD.fullmatch(name) or _COPY.fullmatch(name)]
            named = _named(store, store.files, ours) if ours else set()
            unnamed = [name for name in ours if name not in named and not is_of_another(name)]
            for ones in pool.map(leftover, unnamed, [part[name] for name in unnamed]):
                found += ones
    return found


def _named(store: Store, files: Objects, objects: Sequence[str]) -> set[str]:
    """Those of the objects that are files or images of the campaign."""
    copies = [name for name in objects if name.startswith(f"{IMAGES}/")]
    uploads = [name for name in objects if not name.startswith(f"{IMAGES}/")]
    return _named_uploads(store, uploads) | _named_copies(store, copies, files.bucket.url)


def _named_uploads(store: Store, objects: Sequence[str]) -> set[str]:
    """Those of the objects that are files of the campaign."""
    found: set[str] = set()
    with store.session() as session:
        for part in portions(sorted({name.rpartition(".")[0] for name in objects})):
            found.update(session.scalars(select(m.Object.object).where(m.Object.name.in_(part))))
    return found


def _named_copies(store: Store, objects: Sequence[str], url: str) -> set[str]:
    """Those of the objects that are images of the campaign."""
    by_number = {int(match[1]): f"{url}/{name}" for name in objects if (match := _COPY.fullmatch(name))}
    found: set[str] = set()
    with store.session() as session:
        for numbers in portions(sorted(by_number)):
            found.update(session.scalars(select(m.Image.path).where(m.Image.id.in_(numbers))))
        # An image may have come from there under a number of its own.
        for places in portions(sorted({f"{url}/{name}" for name in objects} - found)):
            found.update(session.scalars(select(m.Image.path).where(m.Image.path.in_(places))))
    return {place.removeprefix(f"{url}/") for place in found}


def _snapshots(store: Store) -> list[Leftover]:
    folder = store.folder / SNAPSHOTS
    sizes, times = store.files.sizes(folder), store.files.times(folder)
    known = _named_snapshots(store)
    names = [name for name in sizes.keys() & times.keys() if name not in known and not PARTIAL.fullmatch(name)]
    return [Leftover(str(folder / name), sizes[name], time.time() - times[name]) for name in names]


def _named_snapshots(store: Store) -> set[str]:
    return {row.file for row in store.views.rows("") if row.file}


def _partial_files(store: Store) -> list[Leftover]:
    """Those of this machine."""
    found: list[Leftover] = []
    for folder in (store.folder, store.folder.with_name(f"{store.folder.name}.images")):
        for path in folder.rglob(".*"):
            with suppress(OSError):  # it has just got its name
                if PARTIAL.fullmatch(path.name) and path.is_file():
                    stat = path.stat()
                    found.append(Leftover(str(path), stat.st_size, time.time() - stat.st_mtime))
    return found
