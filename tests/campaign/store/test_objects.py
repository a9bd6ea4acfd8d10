"""Files of a campaign at a URL: the same on every machine, whole or not at all, and verified where they are read."""

import os
import time
from pathlib import Path

import fsspec
import pytest

from campaign.store.database import open_database
from campaign.store.objects import Files, Objects
from campaign.store.sessions import Sessions
from ml_backend import caches
from ml_backend.buckets import Bucket
from ml_backend.errors import InputError, Unavailable
from tests.object_store import check_credentials


class Site:
    """Machines on one database and one bucket."""

    def __init__(self, folder: Path, url: str):
        self.folder, self.url = folder, url
        self.sessions = Sessions(open_database(None, folder), "database")

    def machine(self, name: str, limit: int = 1 << 30) -> "Machine":
        root = self.folder / name
        root.mkdir(exist_ok=True)
        return Machine(root, Objects(self.sessions, root, Bucket(self.url), limit))

    def objects(self) -> list[str]:
        return sorted(Bucket(self.url).names())

    def change(self, object_: str, content: bytes | None) -> None:
        files, path = fsspec.url_to_fs(self.url)
        if content is None:
            files.rm_file(f"{path}/{object_}")
        else:
            files.pipe_file(f"{path}/{object_}", content)


class Machine:
    def __init__(self, root: Path, files: Objects):
        self.root, self.files = root, files

    def put(self, name: str, content: bytes) -> Path:
        path = self.root / name
        self.files.write(path, lambda p: p.write_bytes(content))
        return path

    def get(self, name: str) -> bytes:
        return self.files.local(self.root / name).read_bytes()


@pytest.fixture
def site(tmp_path, bucket_url):
    made = Site(tmp_path, bucket_url)
    yield made
    made.sessions.engine.dispose()


def test_what_one_machine_writes_every_other_reads(site):
    one, two = site.machine("one"), site.machine("two")
    one.put("rounds/001/a.bin", b"first")
    one.put("rounds/001/b.bin", b"second")
    one.put("rounds/002/a.bin", b"third")
    assert two.get("rounds/001/a.bin") == b"first"
    folder = two.root / "rounds/001"
    assert two.files.has(folder / "b.bin") and not two.files.has(folder / "c.bin")
    assert two.files.listed(folder) == [folder / "a.bin", folder / "b.bin"]
    assert two.files.listed(folder, "b*") == [folder / "b.bin"] and two.files.listed(two.root / "rounds") == []
    assert len(two.files.below(two.root)) == 3 and two.files.sizes(folder) == {"a.bin": 5, "b.bin": 6}
    assert two.files.newest(folder, "*.bin") == folder / "b.bin"
    assert [p.read_bytes() for p in two.files.each([folder / "a.bin"], lambda p: p.with_name("b.bin"))] == [b"first"]
    assert (two.files.folder(folder) / "b.bin").read_bytes() == b"second"
    assert one.get("rounds/001/a.bin") == b"first" and len(site.objects()) == 3


def test_a_file_that_is_replaced_is_another_everywhere_and_its_old_object_goes(site):
    one, two = site.machine("one"), site.machine("two")
    one.put("a.bin", b"old")
    before = two.files.local(two.root / "a.bin").stat().st_mtime_ns
    two.put("a.bin", b"new")
    assert one.get("a.bin") == two.get("a.bin") == b"new" and len(site.objects()) == 1
    stamps = {m.files.local(m.root / "a.bin").stat().st_mtime_ns for m in (one, two)}
    assert len(stamps) == 1 and stamps != {before}  # what is kept by a file's time is kept for all machines
    one.put("a.bin", b"new")
    assert {m.files.local(m.root / "a.bin").stat().st_mtime_ns for m in (one, two)} == stamps


def test_an_interrupted_upload_leaves_nothing_that_is_read(site, monkeypatch):
    one, two = site.machine("one"), site.machine("two")
    one.put("a.bin", b"whole")
    real = Bucket.upload

    def breaks(self, file, name):
        if name.startswith("b.bin"):
            real(self, file, name)
            raise Unavailable(name, "an object store that answers", "none")
        real(self, file, name)

    monkeypatch.setattr(Bucket, "upload", breaks)
    for path, content in (("a.bin", b"other"), ("b.bin", b"part")):
        (one.root / path).write_bytes(content)
    with pytest.raises(Unavailable):
        one.files.publish(one.root / "a.bin", one.root / "b.bin")
    monkeypatch.undo()
    assert two.get("a.bin") == one.get("a.bin") == b"whole" and not two.files.has(two.root / "b.bin")
    with pytest.raises(InputError, match=r"b\.bin: expected a file that the database names, got none"):
        two.get("b.bin")
    one.put("b.bin", b"part")
    assert two.get("b.bin") == b"part"


def test_files_are_there_with_what_is_stored_beside_them_or_not_at_all(site):
    one = site.machine("one")
    (one.root / "a.bin").write_bytes(b"a")
    with pytest.raises(ZeroDivisionError), one.files.published(one.root / "a.bin"):
        1 / 0  # noqa: B018
    assert not one.files.has(one.root / "a.bin")


def test_of_two_machines_that_write_one_file_the_last_stands(site):
    one, two, three = (site.machine(name) for name in ("one", "two", "three"))
    for machine, content in ((one, b"from one"), (two, b"from two")):
        (machine.root / "a.bin").write_bytes(content)
    with one.files.published(one.root / "a.bin"):
        pass
    two.files.publish(two.root / "a.bin")
    assert {m.get("a.bin") for m in (one, two, three)} == {b"from two"}


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"who", "expected 5 bytes, as the database says, got 3"),
        (b"other", "expected the content that was put there, got another of the same length"),
        (None, "expected the object of 5 bytes that the database names, got none"),
    ],
)
def test_an_object_that_is_not_whole_is_said_in_a_line_and_read_once_it_is_mended(site, content, told):
    one, two = site.machine("one"), site.machine("two")
    one.put("a.bin", b"whole")
    (name,) = site.objects()
    site.change(name, content)
    with pytest.raises(InputError) as caught:
        two.get("a.bin")
    assert told in str(caught.value) and name in str(caught.value) and "\n" not in str(caught.value)
    assert not list(two.root.iterdir()) or not (two.root / "a.bin").exists()
    site.change(name, b"whole")
    assert two.get("a.bin") == b"whole"


def test_who_reads_takes_nothing_from_who_writes_in_the_same_folder(site):
    one = site.machine("one")
    path = one.put("a.txt", b"old")
    again = site.machine("one")  # another process of this machine
    path.write_bytes(b"new")
    assert again.get("a.txt") == b"new"
    one.files.publish(path)
    assert site.machine("two").get("a.txt") == b"new"


def test_what_another_machine_replaces_or_removes_meanwhile_is_put_there_again(site, monkeypatch):
    one, two = site.machine("one"), site.machine("two")
    path = one.put("a.txt", b"x")
    for change in (lambda: two.put("a.txt", b"y"), lambda: two.files.remove([two.root / "a.txt"])):
        upload = Objects._upload

        def late(self, path, before, upload=upload, change=change):
            row = upload(self, path, before)
            if self is one.files and before is not None:
                monkeypatch.setattr(Objects, "_upload", upload)
                change()
            return row

        monkeypatch.setattr(Objects, "_upload", late)
        one.put("a.txt", b"x")
        assert site.machine("three").get("a.txt") == b"x" == path.read_bytes()
        assert one.files.broken() == [] and site.machine("three").files.broken() == []


def test_objects_that_are_missing_or_of_another_length_are_found_by_a_listing(site):
    one = site.machine("one")
    for name in "abc":
        one.put(f"{name}.txt", b"whole")
    a, b, _ = site.objects()
    site.change(a, None)
    site.change(b, b"who")
    assert one.files.broken() == [(a, "is missing"), (b, "has 3 bytes instead of 5")]


def test_files_that_are_removed_are_gone_everywhere(site):
    one, two = site.machine("one"), site.machine("two")
    for name in ("a/1.bin", "a/2.bin", "b.bin"):
        one.put(name, name.encode())
    two.files.remove([two.root / "b.bin", two.root / "never.bin"])
    two.files.drop(two.root / "a")
    assert site.objects() == [] and not one.files.there([one.root / "b.bin", one.root / "a/1.bin"])


def test_a_cache_keeps_within_its_limit_what_was_used_last_and_all_that_no_store_has(site, monkeypatch):
    monkeypatch.setattr(caches, "IN_USE", 0.05)
    one, two = site.machine("one"), site.machine("two", limit=3500)
    for number in range(5):
        one.put(f"{number}.bin", bytes([number]) * 1000)
    (two.root / "own.log").write_bytes(b"x" * 1000)
    for number in (0, 1):
        two.get(f"{number}.bin")
    (two.root / "1.bin").write_bytes(b"changed here, in no store")
    for number in (2, 3, 4):
        time.sleep(0.1)
        two.get(f"{number}.bin")
    held = {path.name: path.stat().st_size for path in two.root.iterdir() if not path.name.startswith(".")}
    assert {"own.log", "1.bin", "4.bin"} <= held.keys() and "0.bin" not in held and sum(held.values()) <= 3500
    os.utime(two.root / "1.bin", ns=(time.time_ns(), 0))  # nobody is about to publish it
    assert two.get("0.bin") == bytes([0]) * 1000 and two.get("1.bin") == bytes([1]) * 1000


def test_credentials_that_are_wrong_or_missing_and_a_bucket_that_is_gone(tmp_path, s3, s3_server, monkeypatch):
    site = Site(tmp_path, f"{s3}/mine")
    one, two = site.machine("one"), site.machine("two")
    one.put("a.bin", b"whole")
    check_credentials(s3_server, True)
    with pytest.raises(Unavailable, match="expected credentials in the environment that may do this, got PermissionE"):
        two.get("a.bin")
    with pytest.raises(Unavailable, match="credentials in the environment"):
        one.put("b.bin", b"b")
    check_credentials(s3_server, False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(Unavailable, match="expected an object store that answers, got NoCredentialsError"):
        two.get("a.bin")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    fsspec.filesystem("s3").clear_instance_cache()
    fsspec.filesystem("s3").rm(s3, recursive=True)
    with pytest.raises(Unavailable, match="expected a bucket to write to, got FileNotFoundError"):
        one.put("b.bin", b"b")
    with pytest.raises(InputError, match="expected the object of 5 bytes that the database names, got none"):
        two.get("a.bin")
    fsspec.filesystem("s3").mkdir(s3)
    one.put("a.bin", b"other")
    one.put("b.bin", b"b")
    assert two.get("a.bin") == b"other" and two.get("b.bin") == b"b"


def test_a_store_that_does_not_answer_or_is_none(tmp_path, monkeypatch):
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(Unavailable, match=r"s3://b/mine/campaign\.json: expected an object store that answers"):
        Bucket("s3://b/mine").read("campaign.json")
    with pytest.raises(InputError, match="expected the URL of an object store, got ValueError: Protocol not known"):
        Bucket("nothing://b/mine").read("campaign.json")
    fsspec.filesystem("s3").clear_instance_cache()


def test_a_store_whose_package_is_missing_names_the_extra(monkeypatch):
    def missing(url, **options):
        raise ImportError("Install gcsfs")

    monkeypatch.setattr(fsspec, "url_to_fs", missing)
    with pytest.raises(InputError, match="gs://b/mine: expected the extra gs to be installed"):
        Bucket("gs://b/mine").read("campaign.json")


def test_in_a_folder_files_are_what_is_there(tmp_path):
    sessions = Sessions(open_database(None, tmp_path), "database")
    files = Files(sessions)
    path = tmp_path / "a" / "b.bin"
    files.write(path, lambda p: p.write_bytes(b"b"))
    assert files.local(path) == path and files.has(path) and files.listed(tmp_path / "a") == [path]
    assert files.newest(tmp_path / "a", "*.bin") == path and files.sizes(tmp_path / "a") == {"b.bin": 1}
    files.remove([path, tmp_path / "none"])
    files.drop(tmp_path / "a")
    assert not (tmp_path / "a").exists()
    sessions.engine.dispose()
