"""Snapshot files: what is written part by part is what NumPy reads, and rows are read where they lie."""

from zipfile import BadZipFile

import numpy as np
import pytest

from campaign.store.snapshots import Parts, read_snapshot, write_snapshot


@pytest.fixture
def rows():
    return np.random.default_rng(0).normal(size=(1000, 7)).astype(np.float32)


def test_parts_make_the_array_that_numpy_reads(tmp_path, rows):
    parts = Parts(rows.shape, np.float32, (rows[start : start + 300] for start in range(0, 1000, 300)))
    write_snapshot(tmp_path / "a.npz", {"names": np.arange(5), "rows": parts, "one": np.array(3.5)}, {"k": [1, "x"]})
    with np.load(tmp_path / "a.npz") as stored:
        np.testing.assert_array_equal(stored["rows"], rows)
    arrays, values = read_snapshot(tmp_path / "a.npz")
    assert values == {"k": [1, "x"]} and arrays["one"] == 3.5 and arrays["names"].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("index", [slice(None), slice(20, 30), np.array([999, 0, 5]), np.arange(1000) % 7 == 0])
def test_rows_are_read_as_they_are_asked_for(tmp_path, rows, index):
    write_snapshot(tmp_path / "a.npz", {"first": np.arange(9), "rows": rows}, {})
    arrays, _ = read_snapshot(tmp_path / "a.npz", by_rows=["rows"])
    assert len(arrays["rows"]) == 1000 and arrays["rows"].shape == rows.shape
    (tmp_path / "a.npz").unlink()  # as a cache does that has no room
    got = arrays["rows"][index]
    np.testing.assert_array_equal(got, rows[index])
    assert got.flags.writeable and not isinstance(got, np.memmap)


def test_no_rows_are_read_as_none(tmp_path):
    write_snapshot(tmp_path / "a.npz", {"rows": np.zeros((0, 4), np.float32)}, {})
    arrays, _ = read_snapshot(tmp_path / "a.npz", by_rows=["rows"])
    assert arrays["rows"][np.zeros(0, int)].shape == (0, 4)


def test_too_few_parts_and_files_cut_short_are_errors(tmp_path, rows):
    with pytest.raises(ValueError, match="rows: expected 1000 rows, got 600"):
        write_snapshot(tmp_path / "a.npz", {"rows": Parts(rows.shape, np.float32, [rows[:600]])}, {})
    write_snapshot(tmp_path / "b.npz", {"rows": rows}, {})
    (tmp_path / "b.npz").write_bytes((tmp_path / "b.npz").read_bytes()[:-3000])
    with pytest.raises(BadZipFile):
        read_snapshot(tmp_path / "b.npz", by_rows=["rows"])


def test_mapped_arrays_are_read_where_they_lie(tmp_path, rows):
    parts = Parts(rows.shape, np.float32, [rows[:600], rows[600:]])
    written = {"odd": np.zeros(3, bool), "rows": parts, "ids": np.arange(5), "none": np.zeros(0)}
    write_snapshot(tmp_path / "a.npz", written, {})
    arrays, _ = read_snapshot(tmp_path / "a.npz", mapped=["rows", "ids", "none"])
    (tmp_path / "a.npz").unlink()
    np.testing.assert_array_equal(arrays["rows"], rows)
    assert arrays["ids"].tolist() == [0, 1, 2, 3, 4] and arrays["odd"].tolist() == [False] * 3
    assert not len(arrays["none"]) and arrays["rows"].flags.aligned and not arrays["rows"].flags.writeable
