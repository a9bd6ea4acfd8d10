"""Every schema that a release had, filled, goes forward to the newest and back, on both databases."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, inspect, text

from campaign.store import Store
from campaign.store.backup import copy_database
from campaign.store.database import HEAD, MIGRATIONS
from tests.campaign.builders import turn

ARCHIVE = Path(__file__).parents[2] / "data" / "campaign-0003.tar.xz"
KEPT = ("meta", "image", "class", "round", "shard", "class_tree", "page", "question", "answer", "event")


def config() -> Config:
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS))
    return made


REVISIONS = sorted(script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions())


@pytest.fixture
def filled(tmp_path, database):
    """A campaign with gold, answers and open pages, at the newest schema of a database."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    folder = tmp_path / "old"
    if (url := database("migrated")) is not None:
        store = Store.open(folder)
        copy_database(store.engine, url)
        store.engine.dispose()
        path = folder / "campaign.json"
        content = json.loads(path.read_text())
        content["settings"]["jobs"]["database_url"] = url
        path.write_text(json.dumps(content))
        (folder / "campaign.db").unlink()
    store = Store.open(folder)
    turn(store)
    return store


def rows(engine: Engine) -> dict[str, list]:
    """What the tables that every schema has hold, in the columns of the first."""
    with engine.connect() as connection:
        return {
            table: sorted(map(str, connection.execute(text(f'SELECT {_columns(table)} FROM "{table}"')).all()))
            for table in KEPT
        }


def _columns(table: str) -> str:
    first = {
        "meta": "name", "image": "id, path", "class": "id, name", "round": "number, stage", "shard": "round, number",
        "class_tree": "round, class_id, masks", "page": "key, round, task_id", "question": "page_key, mask_id",
        "answer": "id, page_key, mask_id, verdict, annotator", "event": "id, text",
    }  # fmt: skip
    return first[table]


@pytest.mark.parametrize("revision", REVISIONS)
def test_forward_and_back_keeps_every_row(filled, revision):
    before = rows(filled.engine)
    url = filled.engine.url
    filled.engine.dispose()
    engine = create_engine(url)
    for direction, to in ((command.downgrade, revision), (command.upgrade, "head")):
        made = config()
        with engine.begin() as connection:
            made.attributes["connection"] = connection
            direction(made, to)
        assert rows(engine) == before
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == HEAD
    engine.dispose()
    again = Store.open(filled.folder)
    numbers = [p.number for p in again.pages.rows()]
    assert numbers == list(range(1, len(numbers) + 1))
    turn(again)


def test_the_newest_schema_is_the_one_of_the_models(filled):
    from campaign.store import models as m

    inspector = inspect(filled.engine)
    for table in m.Base.metadata.sorted_tables:
        stored = {c["name"]: c["nullable"] for c in inspector.get_columns(table.name)}
        assert stored.keys() == {c.name for c in table.columns}, table.name


def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    store = Store.open(tmp_path / "old")
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store.engine.dispose()
    shutil.copy(tmp_path / "old" / "campaign.db", tmp_path / "before.db")
    with pytest.raises(Exception, match="expected a schema up to"):
        Store.open(tmp_path / "old")
