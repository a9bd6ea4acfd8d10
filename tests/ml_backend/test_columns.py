"""The mechanism of every columnar record, over all records that there are."""

from dataclasses import dataclass, fields

import numpy as np
import pytest

from ml_backend.columns import Columns, MaskColumns
from ml_backend.predictions import Predictions
from tests.ml_backend.builders import some_predictions


@dataclass(frozen=True)
class Points(Columns):
    """A record of its own, with a column of names beside one of any length."""

    at: np.ndarray
    name: np.ndarray
    rest: np.ndarray

    COLUMNS = {"at": (np.float32, (2,)), "name": (object, ()), "rest": (np.int64, (None,))}  # noqa: RUF012


def points(n: int = 5, rest: int = 3) -> Points:
    return Points(np.arange(2 * n).reshape(n, 2), [f"p{i}" for i in range(n)], np.zeros((n, rest)))


def records(base: type = Columns) -> list[type]:
    return [c for child in base.__subclasses__() for c in (child, *records(child))]


@pytest.mark.parametrize("record", [r for r in records() if r is not MaskColumns])
def test_the_columns_are_the_fields(record):
    assert [f.name for f in fields(record)] == list(record.COLUMNS)
    assert len(record.empty()) == 0


def test_columns_get_their_types():
    record = points()
    assert (record.at.dtype, record.name.dtype, record.rest.dtype) == (np.float32, object, np.int64)
    assert record.name[4] == "p4" and len(record) == 5


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("at", np.ones((3, 3)), r"at: expected shape \(n, 2\) with n = 3, got \(3, 3\)"),
        ("at", np.ones(3), r"at: expected shape \(n, 2\)"),
        ("name", ["a", "b"], r"name: expected shape \(n\) with n = 3, got \(2,\)"),
        ("rest", np.ones(3), r"rest: expected shape \(n, d\) with n = 3, got \(3,\)"),
    ],
)
def test_columns_that_do_not_fit_are_named(column, value, message):
    columns = {name: getattr(points(3), name) for name in Points.COLUMNS} | {column: value}
    with pytest.raises(ValueError, match=message):
        Points(**columns)


@pytest.mark.parametrize(
    ("index", "rows"),
    [([3, 1], [3, 1]), (slice(1, 3), [1, 2]), (np.arange(5) > 2, [3, 4]), ([], [])],
    ids=["places", "slice", "boolean mask", "nothing"],
)
def test_rows_are_selected_in_the_order_of_the_index(index, rows):
    index = np.array(index, int) if isinstance(index, list) else index
    assert points().select(index).name.tolist() == [f"p{i}" for i in rows]


def test_parts_are_joined_in_order_and_empty_ones_may_have_any_length():
    joined = Points.concatenate([Points.empty(rest=7), points(2), points(1)])
    assert joined.name.tolist() == ["p0", "p1", "p0"]
    assert len(Points.concatenate([])) == 0
    assert Points.concatenate([Points.empty(rest=7)]).rest.shape == (0, 7)


@pytest.mark.parametrize(("length", "sizes"), [(2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_chunks_hold_every_row_once(length, sizes):
    parts = list(points().chunks(length))
    assert [len(part) for part in parts] == sizes
    assert Points.concatenate(parts).name.tolist() == points().name.tolist()


def test_masks_have_scores_and_run_lengths():
    record = some_predictions()
    np.testing.assert_allclose(record.score, [0.25, 0.375, 0.5])
    assert record.rles()[1] == {"size": [9, 9], "counts": b"041"}
    assert record.rles([2, 0]) == [record.rles()[2], record.rles()[0]]
    assert isinstance(record.select([0]), Predictions)
