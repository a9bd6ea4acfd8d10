"""Every schema that a release had, filled, goes forward to the newest and back, on both databases."""

from __future__ import annotations

import shutil

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from campaign.store import Store
from campaign.store import models as m
from campaign.store.database import HEAD, MIGRATIONS
from tests.campaign.builders import turn
from tests.campaign.store.releases import RELEASES, columns_of, engine_of, migrate, rows, unpack

REVISIONS = sorted(script.revision for script in ScriptDirectory(str(MIGRATIONS)).walk_revisions())


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_goes_forward_and_back_and_keeps_every_row(tmp_path, database, release):
    """Nothing but migrations touches it: all rows, in all columns that the release knew, are as they were."""
    url = database("released")
    engine = engine_of(unpack(release, tmp_path / "old", url), url)
    known = columns_of(engine)
    before = rows(engine, known)
    assert sum(map(len, before.values())) > 100
    for revision in ("head", RELEASES[release], "head"):
        migrate(engine, revision)
        assert rows(engine, known) == before, revision
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == HEAD
    engine.dispose()


@pytest.mark.parametrize("revision", REVISIONS)
def test_a_filled_campaign_goes_back_to_every_schema_and_on(tmp_path, database, revision):
    url = database("migrated")
    store = Store.open(unpack("0.2.0", tmp_path / "old", url))
    turn(store)
    store.engine.dispose()
    engine = engine_of(store.folder, url)
    everything = rows(engine)
    migrate(engine, revision)
    kept = columns_of(engine)
    before = rows(engine, kept)
    assert before.keys() <= everything.keys() and all(len(before[t]) == len(everything[t]) for t in before)
    migrate(engine, "head")
    # Numbers of pages are given anew where an older schema had none: in the order in which they were opened.
    assert rows(engine, kept) == before
    engine.dispose()
    again = Store.open(store.folder)
    numbers = [page.number for page in again.pages.rows()]
    assert numbers == list(range(1, len(numbers) + 1))
    turn(again)


@pytest.mark.parametrize("release", RELEASES)
def test_the_newest_schema_is_the_one_of_the_models(tmp_path, database, release):
    store = Store.open(unpack(release, tmp_path / "old", database("models")))
    inspector = inspect(store.engine)
    for table in m.Base.metadata.sorted_tables:
        stored = {c["name"]: c["nullable"] for c in inspector.get_columns(table.name)}
        assert stored.keys() == {c.name for c in table.columns}, table.name


def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    folder = unpack("0.2.0", tmp_path / "old")
    store = Store.open(folder)
    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    store.engine.dispose()
    shutil.copy(folder / "campaign.db", tmp_path / "before.db")
    with pytest.raises(Exception, match="expected a schema up to"):
        Store.open(folder)
    assert (folder / "campaign.db").read_bytes() == (tmp_path / "before.db").read_bytes()
