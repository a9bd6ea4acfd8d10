"""The SQL database: SQLite in the campaign folder by default, PostgreSQL by address, migrated by Alembic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from ml_backend.errors import InputError

HEAD = "0006"
MIGRATIONS = Path(__file__).with_name("migrations")


def open_database(url: str | None, folder: Path) -> Engine:
    """An engine on a database of the newest schema; older ones are migrated first.

    Raises InputError where the database cannot be reached, or was written by a newer version.
    """
    engine = create_engine(url or f"sqlite:///{folder / 'campaign.db'}", pool_pre_ping=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _configure_sqlite)
    shown = engine.url.render_as_string(hide_password=True)
    try:
        revision = _revision(engine)
        if revision != HEAD:
            _migrate(engine, revision, shown)
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        raise InputError(f"database {shown}", "a database that can be opened", reason) from None
    return engine


def _configure_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=60000"):
        cursor.execute(f"PRAGMA {pragma}")
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
