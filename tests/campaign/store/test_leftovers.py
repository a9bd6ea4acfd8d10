"""What interrupted work left behind is found and removed, and nothing else."""

import gc
import json
import os
import time
import tracemalloc
from pathlib import Path

import pytest
from sqlalchemy import insert

from campaign.cli import main
from campaign.settings import CampaignSettings
from campaign.store import Store
from campaign.store import models as m
from campaign.store.leftovers import leftovers, remove_leftovers
from ml_backend import buckets
from ml_backend.buckets import Bucket
from ml_backend.errors import Unavailable
from ml_backend.files import partial_file
from tests.campaign.builders import turn, verify_store

HOUR = 3600


@pytest.fixture
def at_url(tmp_path, bucket_url, machines, postgres_server):
    """A campaign at a URL in each kind of store."""
    from PIL import Image

    from ml_backend.masks.coco import CocoDataset, ImageRecord

    machines("one")
    path = tmp_path / "pool.png"
    Image.new("RGB", (8, 6)).save(path)
    jobs = {
        "database_url": postgres_server.database(f"leftovers_{bucket_url.split('://')[0]}"),
        "redis_url": "redis://127.0.0.1:1/0",
    }
    pool = CocoDataset([ImageRecord(1, "pool.png", 8, 6, path)], {1: "cell"})
    store = Store.create(bucket_url, CampaignSettings(name="t", jobs=jobs), {"pool": pool})
    yield store
    store.engine.dispose()


def put(store, name, content):
    path = store.folder / name
    store.files.write(path, lambda p: p.write_bytes(content))
    return path


def interrupt(store, name):
    """A file whose upload ends without its name being stored."""
    (store.folder / name).parent.mkdir(parents=True, exist_ok=True)
    (store.folder / name).write_bytes(b"interrupted")
    with pytest.raises(ZeroDivisionError), store.files.published(store.folder / name):
        1 / 0  # noqa: B018


def age(monkeypatch, hours):
    """All objects are so old."""
    monkeypatch.setattr(Bucket, "modified", lambda *_: time.time() - hours * HOUR)


def test_uploads_without_a_name_are_removed_when_they_are_old(at_url, monkeypatch):
    store, bucket = at_url, at_url.files.bucket
    put(store, "rounds/001/a.bin", b"whole")
    before = bucket.names()
    interrupt(store, "rounds/001/a.bin")
    interrupt(store, "rounds/001/b.bin")
    bucket.write("images/000000009-late.png", b"of a pool that did not grow")
    for name in ("notes.txt", "images/own.png", f"sub/rounds/c.bin.{'0' * 32}"):
        bucket.write(name, b"of others")
    bucket.write("sub/campaign.json", b"{}")
    kept = [*before, "notes.txt", "images/own.png", f"sub/rounds/c.bin.{'0' * 32}", "sub/campaign.json"]

    found = leftovers(store)
    assert [(one.place.rpartition("/")[2].split(".")[0], one.bytes) for one in found] == [
        ("000000009-late", 27), ("a", 11), ("b", 11)
    ]  # fmt: skip
    assert all(0 <= one.age < 60 for one in found), "the store's own clock"
    assert remove_leftovers(store, found, 24 * HOUR) == [] and leftovers(store)[0].place == found[0].place
    age(monkeypatch, 25)
    assert len(remove_leftovers(store, leftovers(store), 24 * HOUR)) == 3
    assert sorted(bucket.names()) == sorted(kept) and leftovers(store) == []
    assert store.files.local(store.folder / "rounds/001/a.bin") and store.files.broken() == []


def test_what_gets_its_name_between_listing_and_removal_stays(at_url, monkeypatch):
    store, bucket = at_url, at_url.files.bucket
    path = store.folder / "late.bin"
    path.write_bytes(b"late")
    age(monkeypatch, 48)
    with store.files.published(path):
        found = leftovers(store)
        assert len(found) == 1
    assert remove_leftovers(store, found, 24 * HOUR) == []
    assert store.files.broken() == [] and any(name.startswith("late.bin.") for name in bucket.names())


@pytest.mark.parametrize("bucket_url", ["s3"], indirect=True)
def test_a_listing_that_is_older_than_a_name_finds_nothing(at_url, monkeypatch):
    """The name is stored while the objects are listed."""
    store = at_url
    real = Bucket.listed

    def slow(self):
        before = list(real(self))
        put(store, "late.bin", b"late")
        yield from before
        yield from real(self)

    monkeypatch.setattr(Bucket, "listed", slow)
    assert leftovers(store) == []


def test_objects_are_listed_in_portions(at_url, monkeypatch):
    bucket = at_url.files.bucket
    for number in range(12):
        bucket.write(f"more/{number % 2}/{number}.txt", b"12345")
    monkeypatch.setattr(buckets, "PORTION", 4)
    parts = list(bucket.listed())
    assert {name: size for part in parts for name, size in part.items()} == bucket.sizes()
    assert sum(map(len, parts)) == len(bucket.sizes()) and len(parts) > 3
    assert max(map(len, parts)) <= 4 or not bucket.url.startswith("s3")
    assert list(Bucket(f"{bucket.url}/nothing").listed()) in ([], [{}])


@pytest.mark.parametrize("bucket_url", ["s3"], indirect=True)
def test_what_is_held_does_not_grow_with_the_objects(at_url, monkeypatch):
    rows = [{"name": f"f{n}", "object": f"f{n}.{n:032x}", "bytes": 1, "digest": ""} for n in range(20_000)]
    with at_url.session() as session:
        session.execute(insert(m.Object), rows)

    def peak(count):
        def listed(_bucket):
            for low in range(0, count, 1000):
                yield {f"f{n}.{n:032x}": 1 for n in range(low, low + 1000)}

        monkeypatch.setattr(Bucket, "listed", listed)
        most = []
        for _ in range(4):  # the server of the bucket is in this process, too: its threads take memory now and then
            gc.collect()
            tracemalloc.start()
            assert leftovers(at_url) == []
            most.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        return min(most)

    assert peak(20_000) < 2 * peak(2000)  # held as a whole they take more than four times as much


def test_in_a_folder_files_that_were_being_written_and_snapshots_that_no_view_names(tmp_path):
    store = verify_store(tmp_path / "a")
    turn(store)
    named = {path.name for path in (store.folder / "derived").iterdir()}
    assert named and leftovers(store) == []
    store.views.write("r1-c1-old.npz", {}, {})
    with partial_file(store.folder / "rounds" / "001" / "shard.parquet") as partial:
        partial.write_bytes(b"cut short")
        killed = partial.rename(partial.with_name(partial.name.replace(f".{os.getpid()}.", ".1.")))
        partial.touch()
        found = leftovers(store)
        assert {Path(one.place) for one in found} == {killed, partial, store.folder / "derived" / "r1-c1-old.npz"}
    assert remove_leftovers(store, found, HOUR) == []
    for path in (killed, store.folder / "derived" / "r1-c1-old.npz"):
        os.utime(path, (0, time.time() - 2 * HOUR))
    assert len(remove_leftovers(store, leftovers(store), HOUR)) == 2
    assert not killed.exists() and {path.name for path in (store.folder / "derived").iterdir()} == named
    assert leftovers(store) == []


@pytest.mark.parametrize("bucket_url", ["s3"], indirect=True)
def test_a_store_that_does_not_answer_removes_nothing(at_url, monkeypatch):
    interrupt(at_url, "a.bin")
    age(monkeypatch, 48)

    def away(*_):
        raise Unavailable("bucket", "an object store that answers", "none")

    monkeypatch.setattr(Bucket, "remove", away)
    with pytest.raises(Unavailable):
        remove_leftovers(at_url, leftovers(at_url), HOUR)
    assert len(leftovers(at_url)) == 1


@pytest.mark.parametrize("bucket_url", ["s3"], indirect=True)
def test_the_command_lists_and_removes(at_url, monkeypatch, capsys):
    interrupt(at_url, "a.bin")

    def said(*more):
        monkeypatch.setattr("sys.argv", ["campaign", "clean", at_url.place, *more])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert "1 objects and files that nothing names, 11 bytes; older than 24 hours: 0, 0 bytes" in said()
    assert json.loads(said("--remove", "--json"))["removed"] == {"count": 0, "bytes": 0}
    age(monkeypatch, 30)
    assert "to remove what is old enough: campaign clean" in said()
    made = json.loads(said("--remove", "--json"))
    assert made["unnamed"] == made["old"] == made["removed"] == {"count": 1, "bytes": 11}
    assert made["leftovers"][0]["place"].startswith(f"{at_url.place}/a.bin.")
    assert json.loads(said("--json"))["unnamed"]["count"] == 0
