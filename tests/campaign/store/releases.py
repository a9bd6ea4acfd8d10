"""Campaigns as released versions left them: archives in `tests/data`, on SQLite as they are or moved to PostgreSQL.

Both are at verify in round 1, with gold, two users, an open page, an override and a line of the log. `expected.json`
says what the release itself came to when the open pages were answered rightly.
"""

from __future__ import annotations

import json
import tarfile
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import JSON, DateTime, Engine, MetaData, create_engine, func, insert, inspect, select, text

from campaign.store.database import MIGRATIONS

DATA = Path(__file__).parents[2] / "data"
# The newest schema of each release. 0.2.0's was answered through its own turns, so it brings what Label Studio held
# (`label_studio.json`), an edited answer, a deleted one, a correction and a painting too.
RELEASES = {"0.1.0": "0003", "0.2.0": "0004"}


def unpack(release: str, folder: Path, url: str | None = None) -> Path:
    """The campaign of a release in a new folder; with `url` its rows are in that database, at the release's schema."""
    with tarfile.open(DATA / f"campaign-{RELEASES[release]}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    if url is not None:
        _move(folder / "campaign.db", url, RELEASES[release])
        change_settings(folder, "jobs", database_url=url)
    return folder


def change_settings(folder: Path, section: str, **values: Any) -> None:
    """Other settings in a campaign's file."""
    path = folder / "campaign.json"
    content = json.loads(path.read_text())
    content["settings"][section] |= values
    path.write_text(json.dumps(content))


def engine_of(folder: Path, url: str | None) -> Engine:
    """An engine that migrates nothing."""
    return create_engine(url or f"sqlite:///{folder / 'campaign.db'}")


def migrate(engine: Engine, revision: str) -> None:
    """Brings a database to a revision, forward or back."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        is_new = not inspect(connection).has_table("alembic_version")
        known = "" if is_new else connection.scalar(text("SELECT version_num FROM alembic_version"))
        (command.downgrade if revision != "head" and revision < known else command.upgrade)(config, revision)


def rows(engine: Engine, columns: dict[str, list[str]] | None = None) -> dict[str, list[str]]:
    """All rows of all tables, views and the schema's number left out; of `columns` alone where they are given."""
    stored = MetaData()
    stored.reflect(engine)
    found = {}
    with engine.connect() as connection:
        for table in stored.sorted_tables:
            if table.name in ("view", "alembic_version") or (columns is not None and table.name not in columns):
                continue
            chosen = [table.c[name] for name in (columns or {}).get(table.name, sorted(table.c.keys()))]
            found[table.name] = sorted(str(tuple(row)) for row in connection.execute(select(*chosen)))
    return found


def columns_of(engine: Engine) -> dict[str, list[str]]:
    """The columns of every table, views and the schema's number left out."""
    known = inspect(engine)
    names = [name for name in known.get_table_names() if name not in ("view", "alembic_version")]
    return {name: sorted(column["name"] for column in known.get_columns(name)) for name in names}


def _move(file: Path, url: str, revision: str) -> None:
    """Moves the rows of a file of SQLite to PostgreSQL, both at the same schema."""
    old, new = create_engine(f"sqlite:///{file}"), create_engine(url)
    migrate(new, revision)
    tables = MetaData()
    tables.reflect(new)
    with old.connect() as source, new.begin() as target:
        for table in tables.sorted_tables:
            if table.name == "alembic_version":
                continue
            read = source.exec_driver_sql(f'SELECT * FROM "{table.name}"').mappings()
            if values := [{c.name: _value(c.type, row[c.name]) for c in table.columns} for row in read]:
                target.execute(insert(table), values)
            for column in table.primary_key:
                sequence = target.scalar(select(func.pg_get_serial_sequence(f'"{table.name}"', column.name)))
                if sequence and values:
                    target.execute(select(func.setval(sequence, max(row[column.name] for row in values))))
    old.dispose()
    new.dispose()
    file.unlink()


def _value(kind: Any, stored: Any) -> Any:
    if stored is None:
        return None
    if isinstance(kind, JSON):
        return json.loads(stored)
    if isinstance(kind, DateTime):
        return datetime.fromisoformat(stored).replace(tzinfo=timezone.utc)
    return bool(stored) if str(kind) == "BOOLEAN" else stored
