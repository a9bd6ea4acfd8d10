"""Transactions of the campaign's database, which every part of the store shares."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from campaign.store.database import DatabaseUnavailable, reason_of
from ml_backend.errors import InputError

SAME_QUERY = 500  # values in one IN (...): within the limit of every database


class Sessions:
    """Makes transactions; `thing` names the database in errors."""

    def __init__(self, engine: Engine, thing: str):
        self.engine, self._thing = engine, thing
        self._make = sessionmaker(engine, expire_on_commit=False)

    @contextmanager
    def __call__(self) -> Iterator[Session]:
        """A transaction, committed where the block ends well.

        Raises DatabaseUnavailable where the database is away, locked or full, and InputError where it refuses.
        """
        try:
            with self._make.begin() as session:
                yield session
        except SQLAlchemyError as error:
            away = isinstance(error, (OperationalError, InterfaceError))
            away = away or getattr(error, "connection_invalidated", False)
            kind = DatabaseUnavailable if away else InputError
            raise kind(self._thing, "to be readable and writable", reason_of(error)) from error


def portions(values: list) -> Iterator[list]:
    """The values in portions that one query takes."""
    for start in range(0, len(values), SAME_QUERY):
        yield values[start : start + SAME_QUERY]
