"""A campaign made of a backup, in a folder or at a URL: whole, or not at all.

What `backup` wrote is checked before anything is: its format, its passphrase, and that its database is whole. The place
is then claimed by settings that say that a campaign is being made there; files are put in their places and held against
their checksums, and all rows are added in one transaction. Last come the settings by which a campaign is found.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any

from sqlalchemy import DateTime, Engine, delete, func, insert, select, text
from sqlalchemy.exc import SQLAlchemyError

from campaign.settings import JobSettings
from campaign.store import models as m
from campaign.store.addresses import ADDRESSES, given_address, parted
from campaign.store.backup import FORMAT, MANIFEST, PORTION, SEALED, Report, checksum, tables, unseal
from campaign.store.database import HEAD, DatabaseUnavailable, open_database, reason_of
from campaign.store.objects import Objects, digest_of
from campaign.store.places import SECRETS_FILE, SETTINGS_FILE, Place, Prefix, cache_limit, place_of
from campaign.store.sessions import Sessions
from campaign.store.store import Store, check_shared
from ml_backend.buckets import is_url
from ml_backend.errors import InputError
from ml_backend.files import partial_file
from ml_backend.masks.fetched import fetch, file_of, present

_TOGETHER = 32  # files and images that are under way to an object store at once: no more of them are kept here
Row = dict[str, Any]


def restore(
    path: Path, place: str | Path, passphrase: str, addresses: Mapping[str, str] | None = None,
    moved: Mapping[str, str] | None = None, report: Report | None = None,
) -> Store:  # fmt: skip
    """The campaign of a backup, in a new folder or at a URL without objects, on an empty database.

    `addresses` are those of its database and queues, `database_url` and `redis_url`: in a folder it is on SQLite where
    no database is given; the queues are otherwise those that it had. `moved` says where images lie now, {old folder or
    URL: new one}; what lay in the campaign's folder, or beside it in `FOLDER.images`, is found by itself. At a URL
    images of this machine are copied below it, and those below the campaign's former URL. Where the backup has no files
    in it they are to lie at the place already.

    Raises InputError where the place holds a campaign or something else, the passphrase is another, the backup or a
    file is not whole, or the database has rows. Where it raises, the place and the database are as they were. A process
    that is killed leaves what is no campaign yet: it is refused, and so is another restore, with what is to be removed.
    """
    where = place_of(place)
    with tar_opened(path) as archive:
        _Restoration(_Backup(archive, path, passphrase), where, moved or {}, report).run(dict(addresses or {}))
    return Store.open(where.name)


def copy_database(source: Engine, url: str) -> None:
    """Copies all rows of a campaign's database to the empty database at another address."""
    target = open_database(url, Path())
    _check_empty(target)
    with source.connect() as old, target.begin() as new:
        for table in tables():
            if rows := [dict(row) for row in old.execute(select(table)).mappings()]:
                new.execute(insert(table), rows)
        _set_sequences(new)
    target.dispose()


def tar_opened(path: Path) -> tarfile.TarFile:
    """The archive at a path, in which all that a cut would take is looked for. Raises InputError where it is none."""
    try:
        archive = tarfile.open(path)  # noqa: SIM115
        archive.getmembers()
    except (OSError, tarfile.TarError) as error:
        raise InputError(path, "a backup of a campaign", error) from None
    return archive


class _Backup:
    """A backup that is read. Raises InputError where it is none, or of another release, or sealed otherwise."""

    def __init__(self, archive: tarfile.TarFile, path: Path, passphrase: str):
        self._archive, self.path = archive, path
        self.manifest = self._document(MANIFEST)
        found = (self.manifest.get("format"), self.manifest.get("schema"))
        if found != (FORMAT, HEAD):
            raise InputError(path, f"format {FORMAT}, schema {HEAD}", f"{found[0]}, {found[1]}")
        self.secrets: dict[str, str] = json.loads(unseal(self.opened(SEALED).read(), passphrase))
        self.settings = self._document(SETTINGS_FILE)
        self.place: str = self.manifest["folder"]
        self.key: str = self.manifest["key"]
        self.has_files: bool = self.manifest["with_objects"]
        self.files: dict[str, Row] = self.manifest["objects"]

    def opened(self, name: str) -> IO[bytes]:
        """A file of it."""
        try:
            file = self._archive.extractfile(name)
        except KeyError:
            file = None
        if file is None:
            raise InputError(self.path, f"a backup of a campaign, with {name}", "none")
        return file

    def rows(self, table: Any) -> Iterator[Row]:
        """The rows of a table, as they were."""
        for line in self.opened(f"database/{table.name}.jsonl"):
            row = json.loads(line)
            for column in table.columns:
                if row.get(column.name) is not None and isinstance(column.type, DateTime):
                    row[column.name] = datetime.fromisoformat(row[column.name])
            yield row

    def extract(self, name: str, target: Path) -> None:
        """Writes a file of the campaign to a path, whole or not at all."""
        file = self.opened(f"objects/{name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(target) as partial, partial.open("wb") as out:
            while part := file.read(1 << 20):
                out.write(part)

    def check(self, name: str, target: Path) -> None:
        """Raises InputError where a path is not the file that the backup names."""
        known = self.files[name]
        expected = f"the file of {known['bytes']} bytes that the backup names"
        if not target.exists():
            raise InputError(target, expected, "none")
        right = checksum(target) == known["sha256"] if "sha256" in known else digest_of(target) == known["digest"]
        if not right:
            raise InputError(target, expected, "another")

    def _document(self, name: str) -> Row:
        try:
            content = json.loads(self.opened(name).read())
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise InputError(self.path, f"a backup of a campaign, with {name}", "another content")
        return content


class _Restoration:
    """One backup on its way to one place."""

    def __init__(self, backup: _Backup, where: Place, moved: Mapping[str, str], report: Report | None):
        self.backup, self.where, self._report = backup, where, report
        self._places = dict(moved)
        if is_url(backup.place) and isinstance(where, Prefix) and not backup.has_files:
            self._places |= {backup.place: where.name}  # its images, too, are copied by other means
        elif not is_url(backup.place) and not isinstance(where, Prefix):
            self._places = {backup.place + ".images": f"{where.name}.images", backup.place: where.name} | dict(moved)

    def run(self, addresses: dict[str, str]) -> None:
        """Makes the campaign."""
        backup, where = self.backup, self.where
        content, secrets = self._documents(addresses)
        if isinstance(where, Prefix) and not backup.has_files and not is_url(backup.place):
            raise InputError(backup.path, "a backup with its files in it, for a campaign at a URL", "a list of them")
        with where.claimed(backup.key, filled=not backup.has_files):
            where.prepare()
            url = addresses.get("database_url")
            engine = open_database(url, where.folder)
            try:
                _check_empty(engine, backup.key)
                self._fill(engine, content, secrets)
            except SQLAlchemyError as error:
                shown = engine.url.render_as_string(hide_password=True)
                raise DatabaseUnavailable(f"database {shown}", "to take the rows", reason_of(error)) from None
            finally:
                engine.dispose()

    def _fill(self, engine: Engine, content: Row, secrets: dict[str, str]) -> None:
        if isinstance(self.where, Prefix):
            sessions = Sessions(engine, f"database of {self.where.name}")
            objects = Objects(sessions, self.where.folder, self.where.bucket, cache_limit())
            named = self._put(objects) if self.backup.has_files else self._named(self.where)
            at = self._images(objects)
        else:
            named, at = [], lambda _number, image: image
            for done, name in enumerate(self.backup.files, 1):
                if self.backup.has_files:
                    self.backup.extract(name, self._target(name))
                self.backup.check(name, self._target(name))
                self._tell("files", done, len(self.backup.files))
        self.where.write(SECRETS_FILE, secrets)
        with engine.begin() as connection:
            for table in tables():
                rows = self.backup.rows(table)
                while portion := list(islice(rows, PORTION)):
                    connection.execute(insert(table), [self._moved(table.name, row, at) for row in portion])
            for start in range(0, len(named), PORTION):
                connection.execute(insert(m.Object.__table__), named[start : start + PORTION])  # type: ignore[arg-type]
            _set_sequences(connection)
        try:
            self.where.write(SETTINGS_FILE, content)
        except BaseException:
            with engine.begin() as connection:
                for table in reversed(m.Base.metadata.sorted_tables):
                    connection.execute(delete(table))
            raise

    def _documents(self, addresses: dict[str, str]) -> tuple[Row, dict[str, str]]:
        """(settings, secrets) as they are to be."""
        for name, url in addresses.items():
            if given_address(name) not in (None, url):
                hint = f"the one in ${ADDRESSES[name]} or $CAMPAIGN_SECRETS, which goes before it"
                raise InputError(f"restore --{name.replace('_', '-')}", hint, "another one")
        content, secrets = self.backup.settings, dict(self.backup.secrets)
        jobs = content["settings"]["jobs"] | {"database_url": None} | addresses
        for name in {"database_url", *addresses}:
            secrets.pop(name, None)
        public, whole = parted(JobSettings.model_validate(jobs))
        check_shared(self.where, public)
        content["settings"]["jobs"] |= {name: getattr(public, name) for name in ("database_url", "redis_url")}
        return content, secrets | whole

    # Files

    def _target(self, name: str) -> Path:
        target = self.where.folder / name
        if not target.resolve().is_relative_to(self.where.folder):
            raise InputError(self.backup.path, "files of a campaign's folder", name)
        return target

    def _put(self, objects: Objects) -> list[Row]:
        """Uploads the files of the backup; returns the rows that name them."""
        named: list[Row] = []
        left = iter(self.backup.files)
        while part := list(islice(left, _TOGETHER)):
            paths = [self._target(name) for name in part]
            for name, path in zip(part, paths, strict=True):
                self.backup.extract(name, path)
                self.backup.check(name, path)
            named += [
                {"name": r.name, "object": r.object, "bytes": r.bytes, "digest": r.digest}
                for r in objects.upload(paths)
            ]
            for path in paths:
                path.unlink()
            self._tell("files", len(named), len(self.backup.files))
        return named

    def _named(self, where: Prefix) -> list[Row]:
        """The rows of objects that lie there already."""
        sizes = where.bucket.sizes()
        for known in self.backup.files.values():
            if (size := sizes.get(known["object"])) != known["bytes"]:
                got = "none" if size is None else f"one of {size} bytes"
                raise InputError(f"{where.name}/{known['object']}", f"an object of {known['bytes']} bytes", got)
        return [{"name": name, **known} for name, known in self.backup.files.items()]

    # Rows

    def _images(self, objects: Objects) -> Callable[[int, str], str]:
        """Copies images to where all machines reach them; returns what says where that is, of a number and a place."""
        former = self.backup.place + "/"

        def is_former(place: str) -> bool:
            return is_url(former) and self.backup.has_files and place.startswith(former)

        def at(number: int, place: str) -> str:
            return self.where.name + place[len(former) - 1 :] if is_former(place) else objects.copy_of(number, place)

        rows, total, done = self.backup.rows(m.Image.__table__), self.backup.manifest["rows"]["image"], 0
        while part := list(islice(rows, _TOGETHER)):
            places = [(row["id"], self._now(row["path"])) for row in part]
            fetch(file_of(place) for _, place in places if is_former(place))
            copies = [(_here(place), at(number, place)) for number, place in places if at(number, place) != place]
            objects.copy(copies)
            done += len(part)
            self._tell("images", done, total)
        return at

    def _moved(self, table: str, row: Row, at: Callable[[int, str], str]) -> Row:
        """A row, with the paths in it as they are now."""
        if table == m.Image.__tablename__:
            row["path"] = at(row["id"], self._now(row["path"]))
        elif table == m.Round.__tablename__ and row["checkpoint"] is not None:
            path = row["checkpoint"]
            if isinstance(self.where, Prefix) and path.startswith(self.backup.place + "/"):
                row["checkpoint"] = path.removeprefix(self.backup.place + "/")
            else:
                row["checkpoint"] = self._now(path)
        return row

    def _now(self, path: str) -> str:
        """Where that lies now which lay at a path: what is said of the nearest folder counts."""
        above = (o for o in self._places if path == o or path.startswith(o.rstrip("/") + "/"))
        old = max(above, key=lambda o: len(o.rstrip("/")), default=None)
        return path if old is None else self._places[old].rstrip("/") + path[len(old.rstrip("/")) :]

    def _tell(self, what: str, done: int, total: int) -> None:
        if self._report:
            self._report(what, done, total)


def _here(place: str) -> Path:
    """The file of an image, on this machine. Raises InputError where there is none."""
    path = present(file_of(place))
    if not path.is_file():
        raise InputError(path, "an image file, to be copied to the URL (see --moved)", "none")
    return path


def _check_empty(engine: Engine, key: str | None = None) -> None:
    """Raises InputError where a database has rows; `key` is that of the campaign whose rows are to come."""
    with engine.connect() as connection:
        rows = {row.name: row.value for row in connection.execute(select(m.Meta.name, m.Meta.value))}
    if rows:
        name = rows.get("campaign", {}).get("name")
        got = "one with rows" if name is None else f"one of campaign {name!r}"
        if key is not None and rows.get("campaign", {}).get("key") == key:
            got += ", its own or of a `restore` that was ended before it was done: then empty it"
        raise InputError(engine.url.render_as_string(hide_password=True), "an empty database", got)


def _set_sequences(connection: Any) -> None:
    """PostgreSQL counts ids apart from the rows."""
    if connection.dialect.name != "postgresql":
        return
    for table in tables():
        for column in table.primary_key:
            name = connection.execute(
                text("SELECT pg_get_serial_sequence(:t, :c)"), {"t": f'"{table.name}"', "c": column.name}
            ).scalar()
            if name:
                newest = connection.execute(select(func.max(column))).scalar() or 1
                connection.execute(text("SELECT setval(:s, :n)"), {"s": name, "n": newest})
