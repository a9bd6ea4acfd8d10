"""Where the files of an export in jobs go: a folder that all workers have, or a URL of an object store."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from campaign.steps.export_files import other_parts, refuse_beside
from campaign.store import Store
from ml_backend.buckets import Bucket, is_url
from ml_backend.errors import InputError

FOLDER = "exports"  # below a campaign at a URL


class Target:
    """The place that an export is asked for at: a path, or a URL; its parts lie beside it, see `Layout.file`."""

    def __init__(self, place: str):
        self.place, self.is_url = place, is_url(place)
        self.above, _, self.name = place.rpartition("/")

    @classmethod
    def of(cls, store: Store, asked: str | Path | None, name: str) -> Target:
        """The target that was asked for, or the default one: `name` where the campaign lives.

        Raises InputError for a path where the campaign is at a URL, whose workers share no folder, and for a URL that
        names no file.
        """
        place = str(asked) if asked is not None else None
        if place is not None and is_url(place) and not all(place.partition("://")[2].rpartition("/")):
            raise InputError("out", "a URL that names a file, such as s3://bucket/export.json", place)
        if store.files.apart:
            if place is not None and not is_url(place):
                raise InputError("out", f"a URL, as workers of {store.place} share no folder", place)
            return cls(place or f"{store.place}/{FOLDER}/{name}")
        return cls(place if place is not None and is_url(place) else str(Path(place or store.desk / name).absolute()))

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """A path to write files to, or beside. They are where they belong when the block ends.

        For a URL it is in a temporary folder of this machine, and they are uploaded, each whole or not at all.
        """
        if not self.is_url:
            yield Path(self.place)
            return
        with TemporaryDirectory(prefix="campaign-export-") as folder:
            yield Path(folder) / self.name
            for path in sorted(Path(folder).iterdir()):
                Bucket(self.above).upload(path, path.name)

    def file(self, name: str) -> Path | str:
        """Where the file of this name is once it is there."""
        return f"{self.above}/{name}" if self.is_url else Path(self.place).with_name(name)

    def size(self, name: str) -> int | None:
        """How many bytes the file of this name has; None where there is none."""
        try:
            return Bucket(self.above).size(name) if self.is_url else Path(self.place).with_name(name).stat().st_size
        except FileNotFoundError:
            return None

    def refuse_others(self, files: list[Path]) -> None:
        """Raises InputError where parts of another export lie beside these, or where the folder is missing."""
        folder = Path(self.place).parent
        if not self.is_url and not folder.is_dir():
            raise InputError(folder, "a folder", "none")
        names = Bucket(self.above).sizes() if self.is_url else (path.name for path in folder.iterdir())
        refuse_beside(self.above, other_parts(Path(self.name), names, files))
