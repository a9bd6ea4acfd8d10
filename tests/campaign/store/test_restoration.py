"""Backups restored at a URL: from a folder and from another URL, the same campaign, whole or not at all."""

import json
import os
import shutil
import signal
from itertools import count
from pathlib import Path

import fsspec
import pytest
from sqlalchemy import Engine, create_engine, event, inspect, text

from campaign.cli import main
from campaign.derived.consistency import local_findings
from campaign.derived.dataset import obtained
from campaign.store import Store
from campaign.store.backup import back_up
from campaign.store.restoration import restore
from ml_backend.buckets import Bucket
from ml_backend.errors import InputError, Unavailable
from ml_backend.masks.images import read_rgb
from tests.campaign.builders import answer, finish, turn, verify_store

PASSPHRASE = "correct horse"
pytest.importorskip("cryptography")
_numbers = count()


@pytest.fixture
def addresses(postgres_server):
    """Makes the addresses of an empty database and of queues."""
    return lambda: {
        "database_url": postgres_server.database(f"restored_{next(_numbers)}"),
        "redis_url": "redis://127.0.0.1:1/0",
    }


@pytest.fixture
def begun(tmp_path, machines):
    """A campaign in a folder, with answers, open questions and a checkpoint."""
    machines("one")
    store = verify_store(tmp_path / "old")
    answer(store, turn(store)[0])
    model = store.folder / "models" / "001" / "model.pt"
    store.files.write(model, lambda path: path.write_bytes(b"weights"))
    store.rounds.update(1, checkpoint=str(model))
    return store


def names(url):
    return sorted(Bucket(url).names())


def copy(source, target):
    """What the object store's own means would do, the settings left out."""
    files, at = fsspec.url_to_fs(source)
    for name in names(source):
        if name != "campaign.json":
            Bucket(target).write(name, files.cat_file(f"{at}/{name}"))


def rows_of(url):
    """How many rows there are of a campaign in a database."""
    engine = create_engine(url)
    with engine.connect() as connection:
        there = inspect(connection).has_table("meta")
        rows = connection.execute(text("SELECT count(*) FROM meta")).scalar() if there else 0
    engine.dispose()
    return rows


def test_a_campaign_moves_from_a_folder_to_a_url_and_on_and_comes_to_the_same_end(
    begun, bucket_url, machines, addresses, tmp_path
):
    file, told = tmp_path / "b.tar", []
    back_up(begun, file, PASSPHRASE)
    store = restore(file, bucket_url, PASSPHRASE, addresses(), report=lambda *now: told.append(now))
    assert store.place == bucket_url and store.key == begun.key
    assert ("images", 1, 1) in told and told[0][0] == "files" and told[0][2] == told[0][1]
    store.engine.dispose()
    shutil.rmtree(tmp_path / "machines")

    machines("two")
    second = Store.open(bucket_url)
    assert second.checkpoint(second.rounds.get(1)).read_bytes() == b"weights"
    assert len(second.answers.rows()) == len(begun.answers.rows()) > 0
    assert second.secret("crop_key") == begun.secret("crop_key")
    back_up(second, file, PASSPHRASE)
    restore(file, f"{bucket_url}-two", PASSPHRASE, addresses()).engine.dispose()
    Bucket(bucket_url).clear()
    second.engine.dispose()
    (tmp_path / "old" / "pool.png").unlink()

    machines("three")
    third = Store.open(f"{bucket_url}-two")
    assert third.images.rows()[0].path == f"{bucket_url}-two/images/000000001-pool.png"
    assert read_rgb(third.images.records("pool")[0].path).shape == (400, 400, 3)
    for one in (begun, third):
        open_ = {p.key for p in one.pages.rows()} - {f.page_key for f in one.answers.rows()}
        for key in sorted(open_):
            answer(one, key)
        finish(one)
    assert obtained(third, 1).mask_id.tolist() == obtained(begun, 1).mask_id.tolist()
    third.engine.dispose()
    assert local_findings(Store.open(f"{bucket_url}-two", read_only=True)) == []


def test_a_campaign_leaves_its_url_for_a_folder(begun, s3, addresses, tmp_path):
    bucket_url = f"{s3}/mine"
    back_up(begun, tmp_path / "b.tar", PASSPHRASE)
    at_url = restore(tmp_path / "b.tar", bucket_url, PASSPHRASE, addresses())
    back_up(at_url, tmp_path / "c.tar", PASSPHRASE)
    at_url.engine.dispose()
    store = restore(tmp_path / "c.tar", tmp_path / "new", PASSPHRASE)
    assert store.checkpoint(store.rounds.get(1)).read_bytes() == b"weights"
    assert store.images.rows()[0].path == f"{bucket_url}/images/000000001-pool.png"
    turn(store)
    assert local_findings(Store.open(tmp_path / "new", read_only=True)) == []


def test_what_was_copied_by_the_store_s_own_means_needs_only_its_rows(begun, s3, addresses, tmp_path, monkeypatch):
    back_up(begun, tmp_path / "b.tar", PASSPHRASE)
    store = restore(tmp_path / "b.tar", f"{s3}/one", PASSPHRASE, addresses())
    monkeypatch.setattr(Bucket, "download", None)  # nothing is fetched
    back_up(store, tmp_path / "c.tar", PASSPHRASE, objects=False)
    copy(f"{s3}/one", f"{s3}/two")
    (gone,) = (name for name in names(f"{s3}/two") if "model.pt" in name)
    content = Bucket(f"{s3}/two").read(gone)
    Bucket(f"{s3}/two").write(gone, b"cut")
    before, chosen = names(f"{s3}/two"), addresses()
    with pytest.raises(InputError, match=r"model\.pt\.\w+: expected an object of 7 bytes, got one of 3 bytes"):
        restore(tmp_path / "c.tar", f"{s3}/two", PASSPHRASE, chosen)
    assert [*before] == sorted([*names(f"{s3}/two"), "secrets.json"]) and rows_of(chosen["database_url"]) == 0
    Bucket(f"{s3}/two").write(gone, content)
    moved = restore(tmp_path / "c.tar", f"{s3}/two", PASSPHRASE, chosen)
    assert moved.images.rows()[0].path == f"{s3}/two/images/000000001-pool.png"
    monkeypatch.undo()
    for one in (store, moved):
        one.engine.dispose()


def test_what_cannot_be_restored_leaves_place_and_database_as_they_were(begun, s3, addresses, tmp_path, monkeypatch):
    bucket_url = f"{s3}/mine"
    file = tmp_path / "b.tar"
    back_up(begun, file, PASSPHRASE)

    def refused(message, chosen, rows=0, file=file, kind=InputError):
        before = names(bucket_url)
        with pytest.raises(kind, match=message) as caught:
            restore(file, bucket_url, PASSPHRASE, chosen)
        assert "\n" not in str(caught.value) and names(bucket_url) == before
        if "database_url" in chosen:
            assert bool(rows_of(chosen["database_url"])) == bool(rows)

    one = addresses()
    refused("jobs.database_url: expected the address of a PostgreSQL", {"redis_url": one["redis_url"]})
    refused("jobs.redis_url: expected the address of a Redis", {"database_url": one["database_url"]})
    cut, lists = tmp_path / "cut.tar", tmp_path / "lists.tar"
    cut.write_bytes(file.read_bytes()[: file.stat().st_size - 20_000])
    refused("cut.tar: expected a backup of a campaign, got", one, file=cut)
    back_up(begun, lists, PASSPHRASE, objects=False)
    refused("expected a backup with its files in it, for a campaign at a URL, got a list of them", one, file=lists)
    other = addresses()
    restore(file, f"{bucket_url}-first", PASSPHRASE, other).engine.dispose()
    refused("expected an empty database, got one of campaign 't'", other, rows=1)
    Bucket(bucket_url).write("other.txt", b"mine")
    refused("expected a URL without objects, got one that holds other objects", one)
    Bucket(bucket_url).clear()

    image = tmp_path / "old" / "pool.png"
    image.rename(tmp_path / "away.png")
    refused(r"pool\.png: expected an image file, to be copied to the URL \(see --moved\), got none", one)
    (tmp_path / "away.png").rename(image)
    real = Bucket.write

    def breaks(which):
        def write(self, name, content):
            if name == which:
                raise Unavailable(name, "an object store that answers", "none")
            real(self, name, content)

        return write

    for last in ("secrets.json", "campaign.json"):  # by then all files are there, and all rows
        with monkeypatch.context() as patched:
            patched.setattr(Bucket, "write", breaks(last))
            refused("expected an object store that answers", one, kind=Unavailable)
    restore(file, bucket_url, PASSPHRASE, one).engine.dispose()
    refused("expected a URL without a campaign, got one that holds a campaign already", addresses())


def test_the_command_takes_addresses_from_the_environment(begun, s3, addresses, tmp_path, capsys, monkeypatch):
    back_up(begun, tmp_path / "b.tar", PASSPHRASE)
    chosen = addresses()
    monkeypatch.setenv("CAMPAIGN_PASSPHRASE", PASSPHRASE)
    monkeypatch.setenv("CAMPAIGN_DATABASE_URL", chosen["database_url"])
    monkeypatch.setenv("CAMPAIGN_REDIS_URL", chosen["redis_url"])

    def said(*more):
        arguments = ["campaign", "restore", str(tmp_path / "b.tar"), f"{s3}/mine", "--json", *more]
        monkeypatch.setattr("sys.argv", arguments)
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    code, _, err = said("--database-url", "postgresql://elsewhere/db")
    assert code == 1 and err == (
        "campaign: restore --database-url: expected the one in $CAMPAIGN_DATABASE_URL or $CAMPAIGN_SECRETS, which goes"
        " before it, got another one\n"
    )
    code, out, _ = said()
    assert code == 0 and json.loads(out)["folder"] == f"{s3}/mine"
    Store.open(f"{s3}/mine").engine.dispose()


def moments(work, killed_at=0):
    """Does the work in a process that is killed at a moment before or after it writes; how many there are."""
    child = os.fork()
    if child:
        status = os.waitpid(child, 0)[1]
        assert os.WIFSIGNALED(status) == bool(killed_at)
        return 0 if killed_at else os.WEXITSTATUS(status)
    number, replace = 0, Path.replace
    real = {name: getattr(Bucket, name) for name in ("write", "create")}

    def passed():
        nonlocal number
        number += 1
        if number == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def marked(function):
        def marking(*arguments):
            passed()
            done = function(*arguments)
            passed()
            return done

        return marking

    try:
        Path.replace = marked(replace)  # as every file gets its name
        for name, function in real.items():
            setattr(Bucket, name, marked(function))
        event.listen(Engine, "commit", lambda _connection: passed())
        work()
    finally:
        os._exit(number)


def kill_everywhere(begun, file, place, chosen, clear, at_the_end=8):
    """Restores, killed at the first and each of the last moments in turn, and then again, as the messages say."""

    def restored(addresses):
        return restore(file, place, PASSPHRASE, addresses)

    addresses = chosen()
    last = moments(lambda: restored(addresses))
    clear()
    for number in (1, *range(last + 1 - at_the_end, last + 1)):
        addresses = chosen()
        moments(lambda addresses=addresses: restored(addresses), number)
        try:
            store = Store.open(place)
        except InputError:
            try:
                store = restored(addresses)
            except InputError as error:
                assert "\n" not in str(error) and "before it was done: then remove it" in str(error)
                clear()
                if addresses and rows_of(addresses["database_url"]):
                    with pytest.raises(
                        InputError, match="of a `restore` that was ended before it was done: then empty"
                    ):
                        restored(addresses)
                    addresses = chosen()
                store = restored(addresses)
        assert store.answers.rows() and len(store.answers.rows()) == len(begun.answers.rows())
        assert store.images.rows() and local_findings(store) == local_findings(begun)
        store.engine.dispose()
        clear()


def test_killed_at_any_write_it_leaves_a_whole_campaign_or_none(begun, tmp_path):
    file, place = tmp_path / "b.tar", tmp_path / "new"
    back_up(begun, file, PASSPHRASE)
    kill_everywhere(begun, file, place, dict, lambda: shutil.rmtree(place))


def test_killed_at_any_write_at_a_url_it_leaves_a_whole_campaign_or_none(begun, s3, addresses, tmp_path):
    file = tmp_path / "b.tar"
    back_up(begun, file, PASSPHRASE)
    kill_everywhere(begun, file, f"{s3}/mine", addresses, Bucket(f"{s3}/mine").clear, 4)


def test_of_two_folders_that_moved_the_nearer_one_counts(begun, tmp_path):
    image = tmp_path / "old" / "pool.png"
    back_up(begun, tmp_path / "b.tar", PASSPHRASE)
    near, far = str(image.parent), str(tmp_path)
    for moved in ({far: "/far", near: "/near"}, {near: "/near", far: "/far"}):
        store = restore(tmp_path / "b.tar", tmp_path / f"new-{next(_numbers)}", PASSPHRASE, moved=moved)
        assert store.images.rows()[0].path == "/near/pool.png"
        store.engine.dispose()
