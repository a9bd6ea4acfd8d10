"""A campaign in one file: its database, settings and secrets, and its other files, to go on elsewhere.

The database is written table by table as JSON, so that it can be restored to SQLite and PostgreSQL alike. Secrets are
encrypted by a passphrase (scrypt, RFC 7914, and Fernet). Products of steps are part of the file, or with `objects` off
only named, with their checksums: then they are to be copied by other means, and a restore checks that they are there.
`restoration` reads it.
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
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Engine, create_engine, select

from campaign.store import models as m
from campaign.store.database import HEAD
from campaign.store.places import SECRETS_FILE, SETTINGS_FILE
from campaign.store.store import Store
from ml_backend.errors import InputError
from ml_backend.files import feed, partial_file

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

    The database is read as of one moment. The files are read after it, so that they are all that the database names.
    Of a campaign at a URL they are fetched for that; with `objects` off nothing is fetched.
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
            for table in tables():
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
        listed = _objects(store) if store.files.apart and not objects else {}
        files = [file for file in store.files.below(store.folder) if _is_product(file.relative_to(store.folder))]
        for done, file in enumerate(store.files.each(() if listed else files)):
            name = file.relative_to(store.folder).as_posix()
            listed[name] = {"bytes": file.stat().st_size, "sha256": checksum(file)}
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


def _objects(store: Store) -> dict[str, dict[str, Any]]:
    """What the database says of the files of a campaign at a URL, by name."""
    return {
        row.name: {"bytes": row.bytes, "object": row.object, "digest": row.digest}
        for row in store.files.rows()
        if _is_product(Path(row.name))
    }


def tables() -> list[Any]:
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


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value


def _is_product(file: Path) -> bool:
    """Whether a file of the campaign's folder is to be in its backup."""
    parts = file.parts
    return not (parts[0] in LEFT_OUT or parts[-1].startswith(".") or parts[0].startswith("campaign.db"))


def checksum(file: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    digest = hashlib.sha256()
    feed(digest, file)
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


# Secrets


def _seal_check(passphrase: str) -> bytes:
    if len(passphrase) < 8:
        raise InputError("passphrase", "at least 8 characters", f"{len(passphrase)}")
    return os.urandom(16)


def _seal(content: bytes, passphrase: str, salt: bytes) -> bytes:
    from cryptography.fernet import Fernet

    return salt + Fernet(_key(passphrase, salt)).encrypt(content)


def unseal(sealed: bytes, passphrase: str) -> bytes:
    """What was sealed. Raises InputError where the passphrase is another."""
    from cryptography.fernet import Fernet, InvalidToken

    try:
        return Fernet(_key(passphrase, sealed[:16])).decrypt(sealed[16:])
    except InvalidToken:
        raise InputError("passphrase", "the one that the backup was made with", "another one") from None


def _key(passphrase: str, salt: bytes) -> bytes:
    key = hashlib.scrypt(passphrase.encode(), salt=salt, n=_WORK, r=8, p=1, maxmem=64 * 2**20, dklen=32)
    return base64.urlsafe_b64encode(key)
