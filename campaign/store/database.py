"""The SQL database: SQLite in the campaign folder by default, PostgreSQL by address, migrated by Alembic."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from ml_backend.errors import InputError, Unavailable

HEAD = "0013"
MIGRATIONS = Path(__file__).with_name("migrations")


def open_database(url: str | None, folder: Path, read_only: bool = False) -> Engine:
    """An engine on a database of the newest schema; older ones are migrated first, but not with `read_only`.

    A read-only engine can write to nothing but a table of views of its own, which is empty and ends with it. Raises
    InputError where the database was written by a newer version, or with `read_only` by an older one, and
    DatabaseUnavailable where it cannot be reached.
    """
    file = folder / "campaign.db"
    if read_only and url is None:
        engine = create_engine(f"sqlite:///file:{file}?mode=ro&uri=true", pool_pre_ping=True)
    else:
        engine = create_engine(url or f"sqlite:///{file}", pool_pre_ping=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_reader if read_only else _configure_sqlite)
    elif read_only:
        event.listen(engine, "connect", _read_only_postgresql)
    shown = engine.url.render_as_string(hide_password=True)
    try:
        revision = _revision(engine)
        if revision != HEAD and not read_only:
            _migrate(engine, revision, shown)
    except SQLAlchemyError as error:
        raise DatabaseUnavailable(f"database {shown}", "a database that can be opened", reason_of(error)) from None
    if revision != HEAD and read_only:
        raise InputError(f"database {shown}", f"schema {HEAD}, to which `campaign status` brings it", revision)
    return engine


@dataclass(frozen=True)
class Seen:
    """A database that answers: its kind, its version, its schema (None: empty), and whether that is the newest."""

    kind: str
    version: str
    revision: str | None
    current: bool


def look_at(url: str | None, folder: Path) -> Seen:
    """The database at `url`, or in the folder, as it is; nothing is written. Raises DatabaseUnavailable."""
    engine = create_engine(url or f"sqlite:///file:{folder / 'campaign.db'}?mode=ro&uri=true")
    shown = engine.url.render_as_string(hide_password=True)
    try:
        with engine.connect() as connection:
            revision = _revision(engine)
            question = "select sqlite_version()" if engine.dialect.name == "sqlite" else "show server_version"
            version = str(connection.execute(text(question)).scalar())
    except SQLAlchemyError as error:
        raise DatabaseUnavailable(f"database {shown}", "a database that can be opened", reason_of(error)) from None
    finally:
        engine.dispose()
    kind = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.get(engine.dialect.name, engine.dialect.name)
    return Seen(kind, version, revision, revision in (None, HEAD))


class DatabaseUnavailable(Unavailable):
    """The database does not answer, breaks off, or has no room: worth trying again later."""


def reason_of(error: SQLAlchemyError) -> str:
    """What the database said, in its first line."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]


def _configure_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=60000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _configure_reader(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA busy_timeout=60000")
    # It hides the stored one: what is worked out here is worked out from the facts, and kept for nobody.
    if cursor.execute("SELECT 1 FROM main.sqlite_master WHERE name = 'view'").fetchone():
        cursor.execute("CREATE TEMP TABLE view AS SELECT * FROM main.view LIMIT 0")
    connection.commit()
    cursor.close()


def _read_only_postgresql(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute("SELECT to_regclass('view')")
    if cursor.fetchone()[0] is not None:
        cursor.execute("CREATE TEMP TABLE view (LIKE view)")
    cursor.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
    connection.commit()
    cursor.close()


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return None
        return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _migrate(engine: Engine, revision: str | None, shown: str) -> None:
    # Alembic is imported only where there is something to migrate: it would double the start of `campaign status`.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    try:
        ScriptDirectory.from_config(config).get_revision(revision or "base")
    except CommandError:
        raise InputError(f"database {shown}", f"a schema up to {HEAD}", f"the newer {revision}") from None
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
