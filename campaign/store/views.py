"""What the store holds of derived views: how far each has read the facts, a summary, and where its snapshot lies.

Everything here may be dropped at any time: views are worked out again from the facts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from campaign.store import models as m
from campaign.store.objects import Files
from campaign.store.scratch import ScratchFolder
from campaign.store.sessions import Sessions
from campaign.store.snapshots import Parts, read_snapshot, write_snapshot
from ml_backend.errors import InputError, Unavailable

SNAPSHOTS = "derived"  # the folder, in the campaign's, of the snapshots


class Views:
    """Part of `Store`: rows of the views, and their snapshots under `derived/` in the campaign folder."""

    def __init__(self, sessions: Sessions, files: Files, folder: Path):
        self._sessions, self._files, self._folder = sessions, files, folder

    def _at(self, file: str) -> Path:
        return self._folder / SNAPSHOTS / file

    def row(self, name: str) -> m.View | None:
        """The row of one view, None where it was never saved or was dropped."""
        with self._sessions() as session:
            return session.get(m.View, name)

    def rows(self, prefix: str) -> list[m.View]:
        """The rows of all views whose names begin so, by name."""
        with self._sessions() as session:
            query = select(m.View).where(m.View.name.startswith(prefix, autoescape=True)).order_by(m.View.name)
            return list(session.scalars(query))

    def drop(self, prefix: str = "") -> None:
        """Drops the views whose names begin so, snapshots included."""
        files = [row.file for row in self.rows(prefix) if row.file]
        with self._sessions() as session:
            session.execute(delete(m.View).where(m.View.name.startswith(prefix, autoescape=True)))
        self.remove(files)

    def write(self, file: str, arrays: Mapping[str, np.ndarray | Parts], values: Mapping[str, Any]) -> None:
        """Writes a snapshot: arrays, and values that JSON takes."""
        self._files.write(self._at(file), lambda p: write_snapshot(p, arrays, values), durable=False)

    def read(
        self,
        file: str,
        only: Collection[str] | None = None,
        by_rows: Collection[str] = (),
        mapped: Collection[str] = (),
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """What `write` wrote, or of the arrays `only` these; None where the file is gone or cut short.

        Then the view is worked out anew. Arrays in `by_rows` and `mapped` ones stay on disk, see `read_snapshot`.
        """
        try:
            return read_snapshot(self._files.local(self._at(file)), only, by_rows, mapped)
        except Unavailable:
            raise
        except (OSError, ValueError, KeyError, EOFError, BadZipFile):
            return None

    def kept(
        self, name: str, version: str, by_rows: Collection[str] = (), mapped: Collection[str] = ()
    ) -> dict[str, Any] | None:
        """The arrays that `keep` wrote under that name, None where there are none of that version."""
        row = self.row(name)
        is_there = row is not None and row.version == version and row.file
        stored = self.read(str(row.file), None, by_rows, mapped) if row is not None and is_there else None
        return None if stored is None else stored[0]

    def keep(self, name: str, version: str, arrays: Mapping[str, np.ndarray | Parts]) -> None:
        """Writes arrays that follow from what `version` names, in place of those of another version."""
        old, file = self.row(name), f"{name.replace('/', '-')}-{version[:12]}.npz"
        self.write(file, arrays, {})
        try:
            with self._sessions() as session:
                save_view(session, name, version, {}, {}, file)
        except InputError as error:
            if not isinstance(error.__cause__, IntegrityError):
                raise
            return  # another process has just kept the same
        if old is not None and old.file not in (None, file):
            self.remove([str(old.file)])

    def remove(self, files: Iterable[str]) -> None:
        """Removes snapshots that no row names any more."""
        self._files.remove(self._at(file) for file in files)


class OwnViews(Views):
    """Those of whoever only reads: worked out for itself, and kept as long as the store is open.

    Their folder is made with the first snapshot: most have none.
    """

    def __init__(self, sessions: Sessions):
        super().__init__(sessions, Files(sessions), Path())
        self._scratch: ScratchFolder | None = None

    def _at(self, file: str) -> Path:
        self._scratch = self._scratch or ScratchFolder("campaign-views-")
        return self._scratch.path / SNAPSHOTS / file


def save_view(session: Session, name: str, version: str, cursor: dict, summary: dict, file: str | None) -> None:
    """Adds or replaces the row of a view, as a part of the caller's transaction."""
    session.merge(m.View(name=name, version=version, cursor=cursor, summary=summary, file=file))
