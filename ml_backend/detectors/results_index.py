"""Results of another model on disk, by image: a file of any size is read once, and then only what is asked for."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from ml_backend.errors import InputError, brief
from ml_backend.files import feed, write_whole
from ml_backend.masks.json_stream import JsonStream
from ml_backend.masks.limits import is_id, is_number

FORM = 2
PORTION = 2000  # results that are stored together
# Features are kept in 16 bits.
MOST = float(np.finfo(np.float16).max)
_PARQUET, _SQLITE = b"PAR1", b"SQLite format 3\x00"


class Result(NamedTuple):
    """One result; `features` (d,) float16 are empty where the file has none."""

    category_id: int
    score: float
    predicted_iou: float
    segmentation: Any
    features: np.ndarray


class ResultsIndex:
    """The results in an index that `write_index` wrote. Safe between threads.

    Attributes:
        version: a name of the content of the file that it was made of.
        categories: the category ids that there are, ascending.
        width: of the features, 0 where there are none.
    """

    def __init__(self, path: Path):
        self.path, self._lock = path, threading.Lock()
        try:
            self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
            about = dict(self._connection.execute("SELECT name, value FROM about"))
        except sqlite3.Error as error:
            raise InputError(path, "an index of results", error) from None
        if about.get("form") != str(FORM):
            raise InputError(path, f"an index of results of form {FORM}", about.get("form"))
        self.version, self.width = about["version"], int(about["width"])
        self.categories: list[int] = json.loads(about["categories"])

    def of_image(self, image_id: int, file_name: str) -> list[Result]:
        """The results on an image, in the order of the file; those that name another file are not on it."""
        query = (
            "SELECT category_id, score, predicted_iou, segmentation, features FROM result "
            "WHERE image_id = ? AND (file_name IS NULL OR file_name = ?)"
        )
        with self._lock:
            try:
                rows = self._connection.execute(f"{query} ORDER BY id", (image_id, file_name)).fetchall()
            except sqlite3.Error as error:
                raise InputError(self.path, "an index of results that can be read", error) from None
        return [
            Result(category, score, iou, json.loads(shape), np.frombuffer(features or b"", np.float16))
            for category, score, iou, shape, features in rows
        ]


def is_index(path: Path) -> bool:
    """Whether a file is such an index, by its first bytes."""
    return _starts_with(path, _SQLITE)


def version_of(path: Path) -> str:
    """A name of the content of a file of results; of an index that of the file it was made of.

    Raises InputError where it is missing or cannot be read.
    """
    if is_index(path):
        return ResultsIndex(path).version
    digest = hashlib.sha256()
    try:
        feed(digest, path)
    except FileNotFoundError:
        raise InputError(path, "a COCO results file", "no such file") from None
    except OSError as error:
        raise InputError(path, "a readable COCO results file", error.strerror or error) from None
    return f"results-{digest.hexdigest()[:16]}"


def write_index(source: Path, target: Path) -> None:
    """Reads results once, checks each, and writes them by image to `target`, whole or not at all.

    `source` is a COCO results file, JSON lines with a result each, or Parquet with the columns of a result, in which
    `rle`, `height` and `width` may stand for `segmentation` and `class_id` for `category_id`. Memory is that of some
    thousand results. Raises InputError where the file is missing, no such file, or a result is malformed.
    """
    write_whole(target, lambda partial: _fill(source, partial))


def _fill(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    connection = sqlite3.connect(target)
    try:
        # The file takes its name when it is whole, so nothing of it has to be restored.
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT)")
        connection.execute(
            "CREATE TABLE result (id INTEGER PRIMARY KEY, image_id INTEGER, file_name TEXT, category_id INTEGER, "
            "score REAL, predicted_iou REAL, segmentation TEXT, features BLOB)"
        )
        reader = _Reader(source)
        insert = (
            "INSERT INTO result (image_id, file_name, category_id, score, predicted_iou, segmentation, features) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)"
        )
        for portion in _portions(reader.rows()):
            connection.executemany(insert, portion)
        connection.execute("CREATE INDEX result_image ON result (image_id)")
        about = {
            "form": FORM, "version": version_of(source), "width": reader.width,
            "categories": json.dumps(sorted(reader.categories)),
        }  # fmt: skip
        connection.executemany("INSERT INTO about VALUES (?, ?)", [(k, str(v)) for k, v in about.items()])
        connection.commit()
    except sqlite3.Error as error:
        raise InputError(target, "an index that can be written", error) from None
    finally:
        connection.close()


class _Reader:
    """One pass over a file of results."""

    def __init__(self, path: Path):
        self.path, self.width = path, 0
        self.categories: set[int] = set()
        self._widths: set[int] = set()

    def rows(self) -> Iterator[tuple]:
        """The rows of the index, one for each result."""
        number = 0
        try:
            for number, row in enumerate(self._results(), 1):
                yield self._checked(f"{self.path} result {number}", row)
        except FileNotFoundError:
            raise InputError(self.path, "a COCO results file", "no such file") from None
        except OSError as error:
            raise InputError(self.path, "a readable COCO results file", error.strerror or error) from None
        except (ValueError, RecursionError) as error:
            raise InputError(self.path, "JSON", error) from None
        if len(self._widths) > 1:
            raise InputError(
                f"{self.path} features", "one length in all results", f"lengths {sorted(self._widths)[:5]}"
            )

    def _results(self) -> Iterator[Any]:
        if _starts_with(self.path, _PARQUET):
            yield from self._from_parquet()
            return
        with self.path.open(encoding="utf-8") as file:
            yield from _from_json(self.path, file)

    def _from_parquet(self) -> Iterator[Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.ParquetFile(self.path)
            known = {"image_id", "category_id", "class_id", "score", "segmentation", "rle", "height", "width"}
            names = [n for n in table.schema_arrow.names if n in known | {"file_name", "predicted_iou", "features"}]
            for batch in table.iter_batches(PORTION, columns=names):
                yield from map(_from_row, batch.to_pylist())
        except pa.ArrowInvalid as error:
            raise InputError(self.path, "a Parquet file of results", error) from None

    def _checked(self, name: str, row: Any) -> tuple:
        _check(name, row)
        features = row.get("features")
        given = np.asarray(features, np.float32).astype(np.float16) if features is not None else np.zeros(0, np.float16)
        self._widths.add(len(given))
        self.width = max(self.width, len(given))
        self.categories.add(row["category_id"])
        shape = json.dumps(row["segmentation"], separators=(",", ":"))
        iou = float(row.get("predicted_iou", 1.0))
        on = row["image_id"], row.get("file_name")
        return *on, row["category_id"], float(row["score"]), iou, shape, given.tobytes() or None


def _from_json(path: Path, file: IO[str]) -> Iterator[Any]:
    """The results of a list, or of JSON lines."""
    stream = JsonStream(file)
    if stream.kind() == "[":
        yield from stream.items()
        return
    number = -1
    for number, row in enumerate(stream.values()):
        if number == 0 and not (isinstance(row, dict) and {"image_id", "category_id"} & row.keys()):
            raise InputError(path, "a list of results", type(row).__name__)
        yield row
    if number < 0:
        raise ValueError("Expecting value")


def _from_row(row: dict[str, Any]) -> dict[str, Any]:
    """A row of Parquet as a result."""
    found = {k: v for k, v in row.items() if v is not None}
    if "class_id" in found:
        found.setdefault("category_id", found.pop("class_id"))
    if "rle" in found:
        rle = found.pop("rle")
        size = [found.pop("height", None), found.pop("width", None)]
        found.setdefault("segmentation", {"size": size, "counts": rle.decode() if isinstance(rle, bytes) else rle})
    if isinstance(found.get("segmentation"), str):
        found["segmentation"] = json.loads(found["segmentation"])
    return found


def _portions(rows: Iterable[tuple]) -> Iterator[Sequence[tuple]]:
    portion: list[tuple] = []
    for row in rows:
        portion.append(row)
        if len(portion) == PORTION:
            yield portion
            portion = []
    yield portion


def _starts_with(path: Path, mark: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(mark)) == mark
    except OSError:
        return False


def _check(name: str, row: Any) -> None:
    """Raises InputError where a result is none, its mask aside."""
    if not isinstance(row, dict) or not {"image_id", "category_id", "score", "segmentation"} <= row.keys():
        raise InputError(name, "image_id, category_id, score and segmentation", brief(row))
    for key in ("image_id", "category_id"):
        if not is_id(row[key]):
            raise InputError(f"{name} {key}", "an integer", brief(row[key]))
    for key in ("score", "predicted_iou"):
        value = row.get(key, 1.0)
        if not is_number(value) or not 0 <= value <= 1:
            raise InputError(f"{name} {key}", "a number from 0 to 1", brief(value))
    if not isinstance(row.get("file_name", ""), str | None):
        raise InputError(f"{name} file_name", "text", brief(row["file_name"]))
    features = row.get("features")
    if features is not None and not (isinstance(features, list) and all(map(_is_feature, features))):
        raise InputError(f"{name} features", f"a list of numbers up to {MOST:g}", brief(features))


def _is_feature(value: Any) -> bool:
    return is_number(value) and abs(value) <= MOST
