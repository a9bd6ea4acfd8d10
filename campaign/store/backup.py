"""A campaign in one file: its database, settings and secrets, and what its folder holds, to go on elsewhere.

The database is written table by table as JSON, so that it can be restored to SQLite and PostgreSQL alike. Secrets are
encrypted by a passphrase (scrypt, RFC 7914, and Fernet). Products of steps are part of the file, or with `objects` off
only named, with their checksums: then they are to be copied by other means, and a restore checks that they are whole.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any

from sqlalchemy import DateTime, Engine, create_engine, func, insert, select, text

from campaign.store import models as m
from campaign.store.addresses import has_password, without_password
from campaign.store.database import HEAD, open_database
from campaign.store.places import SECRETS_FILE, SETTINGS_FILE
from campaign.store.store import Store
from ml_backend.buckets import is_url
from ml_backend.errors import InputError
from ml_backend.files import partial_file

FORMAT = 1
MANIFEST, SEALED = "backup.json", "secrets.sealed"
PORTION = 5000  # rows at a time
# What is worked out anew, or belongs to a process that runs.
LEFT_OUT = frozenset(
    {"clicks", "derived", "logs", "locks", "redis.json", "decide.lock", "run.lock", SECRETS_FILE, SETTINGS_FILE}
)
_WORK = 2**15  # of scrypt: a tenth of a second, 32 MiB

Report = Callable[[str, int, int], None]


def back_up(store: Store, path: Path, passphrase: str, objects: bool = True, report: Report | None = None) -> dict:
    """Writes a backup of a campaign to `path`, whole or not at all, also while it runs; returns its manifest.

    The database is read as of one moment. The folder is read after it, so that it holds all that the database names.
    """
    key = _seal_check(passphrase)
    with partial_file(path) as partial:
        partial.touch(mode=0o600)
        made = _fill(store, partial, passphrase, key, objects, report)
    return made


def _fill(store: Store, path: Path, passphrase: str, key: bytes, objects: bool, report: Report | None) -> dict:
    rows: dict[str, int] = {}
    with tarfile.open(path, "w") as archive:
        with _one_moment(store.engine) as connection:
            for table in _tables():
                query = select(table).order_by(*table.primary_key).execution_options(yield_per=PORTION)
                rows[table.name] = 0
                with tempfile.TemporaryFile(dir=path.parent) as lines:  # a table may be larger than memory
                    for row in connection.execute(query).mappings():
                        lines.write(json.dumps({k: _plain(v) for k, v in row.items()}).encode() + b"\n")
                        rows[table.name] += 1
                    _add_file(archive, f"database/{table.name}.jsonl", lines)
        settings, secrets = store.documents()
        _add(archive, SETTINGS_FILE, json.dumps(settings).encode())
        _add(archive, SEALED, _seal(json.dumps(secrets).encode(), passphrase, key))
        listed = {}
        files = [file for file in store.files.below(store.folder) if _is_product(file.relative_to(store.folder))]
        for done, file in enumerate(store.files.each(files)):
            name = file.relative_to(store.folder).as_posix()
            listed[name] = {"bytes": file.stat().st_size, "sha256": _checksum(file)}
            if objects:
                archive.add(file, f"objects/{name}", recursive=False)
            if report:
                report("files", done + 1, len(files))
        manifest = {
            "format": FORMAT, "schema": HEAD, "key": store.key, "name": store.settings.name,
            "folder": store.place, "rows": rows, "objects": listed, "with_objects": objects,
        }  # fmt: skip
        _add(archive, MANIFEST, json.dumps(manifest).encode())
    return manifest


def restore(
    path: Path, folder: Path, passphrase: str, database_url: str | None = None, moved: dict[str, str] | None = None,
    report: Report | None = None,
) -> Store:  # fmt: skip
    """The campaign of a backup, in a new `folder`, on SQLite or the empty database at `database_url`.

    `moved` names where images lie now, {old folder: new folder}; what lay in the campaign's folder, or beside it in
    `FOLDER.images`, is found by itself. Where the backup holds no objects they are to lie in the folder already.
    Raises InputError where the passphrase is another, the file or an object is not whole, or the database has rows.
    """
    try:
        with tarfile.open(path) as archive:
            return _restored(archive, path, folder.resolve(), passphrase, database_url, moved or {}, report)
    except (OSError, tarfile.TarError) as error:
        raise InputError(path, "a backup of a campaign", error) from None


def _restored(
    archive: tarfile.TarFile, path: Path, folder: Path, passphrase: str, url: str | None, moved: dict[str, str],
    report: Report | None,
) -> Store:  # fmt: skip
    manifest = _read_json(archive, MANIFEST, path)
    if manifest.get("format") != FORMAT or manifest.get("schema") != HEAD:
        raise InputError(path, f"format {FORMAT}, schema {HEAD}", f"{manifest.get('format')}, {manifest.get('schema')}")
    secrets = json.loads(_unseal(_read(archive, SEALED, path), passphrase))
    secrets.pop("database_url", None)
    secrets |= {"database_url": url} if url and has_password(url) else {}
    if (folder / SETTINGS_FILE).exists():
        raise InputError(folder, "a folder without a campaign", "one that holds a campaign already")
    if manifest["with_objects"] and folder.exists() and any(folder.iterdir()):
        raise InputError(folder, "an empty or new folder", "a folder that holds other files")
    folder.mkdir(parents=True, exist_ok=True)
    _restore_objects(archive, manifest, path, folder, report)
    content = _read_json(archive, SETTINGS_FILE, path)
    content["settings"]["jobs"]["database_url"] = url and without_password(url)
    places = moved
    if not is_url(manifest["folder"]):  # whose images are where they were, for whoever has its credentials
        places = {manifest["folder"] + ".images": f"{folder}.images", manifest["folder"]: str(folder)} | moved
    engine = open_database(url, folder)
    _check_empty(engine)
    with engine.begin() as connection:
        for table in _tables():
            lines = iter(_opened(archive, f"database/{table.name}.jsonl", path))
            while portion := list(islice(lines, PORTION)):
                connection.execute(insert(table), [_rich(table, json.loads(line), places) for line in portion])
        _set_sequences(connection)
    engine.dispose()
    with partial_file(folder / SECRETS_FILE) as partial:
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(secrets, indent=2) + "\n")
    with partial_file(folder / SETTINGS_FILE) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n")
    return Store.open(folder)


def _restore_objects(archive: tarfile.TarFile, manifest: dict, path: Path, folder: Path, report: Report | None) -> None:
    for done, (name, known) in enumerate(manifest["objects"].items()):
        target = folder / name
        if not target.resolve().is_relative_to(folder):
            raise InputError(path, "files of a campaign's folder", name)
        if manifest["with_objects"]:
            _write(archive, f"objects/{name}", target, path)
        if not target.exists() or _checksum(target) != known["sha256"]:
            raise InputError(target, f"the file of {known['bytes']} bytes that the backup names", "none or another")
        if report:
            report("files", done + 1, len(manifest["objects"]))


def copy_database(source: Engine, url: str) -> None:
    """Copies all rows of a campaign's database to the empty database at another address."""
    target = open_database(url, Path())
    _check_empty(target)
    with source.connect() as old, target.begin() as new:
        for table in _tables():
            if rows := [dict(row) for row in old.execute(select(table)).mappings()]:
                new.execute(insert(table), rows)
        _set_sequences(new)
    target.dispose()


def _tables() -> list[Any]:
    """All tables but those of views and objects, in an order in which rows may be added."""
    return [t for t in m.Base.metadata.sorted_tables if t.name not in (m.View.__tablename__, m.Object.__tablename__)]


@contextmanager
def _one_moment(engine: Engine) -> Iterator[Any]:
    """A connection that sees the database as it was at one moment."""
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
            yield connection
        return
    # The driver begins no transaction for reading by itself.
    own = create_engine(engine.url)
    with own.connect() as connection:
        connection.exec_driver_sql("BEGIN")
        yield connection
    own.dispose()


def _check_empty(engine: Engine) -> None:
    with engine.connect() as connection:
        if connection.execute(select(m.Meta.name).limit(1)).first() is not None:
            raise InputError(engine.url.render_as_string(hide_password=True), "an empty database", "one with rows")


def _set_sequences(connection: Any) -> None:
    """PostgreSQL counts ids apart from the rows."""
    if connection.dialect.name != "postgresql":
        return
    for table in _tables():
        for column in table.primary_key:
            name = connection.execute(
                text("SELECT pg_get_serial_sequence(:t, :c)"), {"t": f'"{table.name}"', "c": column.name}
            ).scalar()
            if name:
                newest = connection.execute(select(func.max(column))).scalar() or 1
                connection.execute(text("SELECT setval(:s, :n)"), {"s": name, "n": newest})


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _rich(table: Any, row: dict, places: dict[str, str]) -> dict:
    for column in table.columns:
        value = row.get(column.name)
        if value is not None and isinstance(column.type, DateTime):
            row[column.name] = datetime.fromisoformat(value)
        elif isinstance(value, str) and (table.name, column.name) in {("image", "path"), ("round", "checkpoint")}:
            old = next((o for o in places if value == o or value.startswith(o.rstrip("/") + "/")), None)
            row[column.name] = value if old is None else places[old].rstrip("/") + value[len(old.rstrip("/")) :]
    return row


def _is_product(file: Path) -> bool:
    """Whether a file of the campaign's folder is to be in its backup."""
    parts = file.parts
    return not (parts[0] in LEFT_OUT or parts[-1].startswith(".") or parts[0].startswith("campaign.db"))


def _checksum(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while part := content.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o600
    archive.addfile(entry, io.BytesIO(content))


def _add_file(archive: tarfile.TarFile, name: str, file: IO[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = file.tell(), 0o600
    file.seek(0)
    archive.addfile(entry, file)


def _read(archive: tarfile.TarFile, name: str, path: Path) -> bytes:
    return _opened(archive, name, path).read()


def _opened(archive: tarfile.TarFile, name: str, path: Path) -> IO[bytes]:
    try:
        file = archive.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise InputError(path, f"a backup of a campaign, with {name}", "none")
    return file


def _read_json(archive: tarfile.TarFile, name: str, path: Path) -> dict:
    try:
        content = json.loads(_read(archive, name, path))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(path, f"a backup of a campaign, with {name}", "another content")
    return content


def _write(archive: tarfile.TarFile, name: str, target: Path, path: Path) -> None:
    try:
        file = archive.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise InputError(path, f"a backup with {name}", "none")
    target.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(target) as partial, partial.open("wb") as out:
        while part := file.read(1 << 20):
            out.write(part)


# Secrets


def _seal_check(passphrase: str) -> bytes:
    if len(passphrase) < 8:
        raise InputError("passphrase", "at least 8 characters", f"{len(passphrase)}")
    return os.urandom(16)


def _seal(content: bytes, passphrase: str, salt: bytes) -> bytes:
    from cryptography.fernet import Fernet

    return salt + Fernet(_key(passphrase, salt)).encrypt(content)


def _unseal(sealed: bytes, passphrase: str) -> bytes:
    from cryptography.fernet import Fernet, InvalidToken

    try:
        return Fernet(_key(passphrase, sealed[:16])).decrypt(sealed[16:])
    except InvalidToken:
        raise InputError("passphrase", "the one that the backup was made with", "another one") from None


def _key(passphrase: str, salt: bytes) -> bytes:
    key = hashlib.scrypt(passphrase.encode(), salt=salt, n=_WORK, r=8, p=1, maxmem=64 * 2**20, dklen=32)
    return base64.urlsafe_b64encode(key)
