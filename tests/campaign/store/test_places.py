"""Campaigns at a URL: made whole or not at all, one at each, and the same on every machine."""

import json
from dataclasses import replace
from itertools import count

import fsspec
import numpy as np
import pytest
from PIL import Image
from sqlalchemy import event, insert, text

from campaign.cli import main
from campaign.jobs.releases import check_release, note_release
from campaign.settings import CampaignSettings
from campaign.store import Store
from campaign.store import models as m
from campaign.store.images import Batch
from campaign.store.values import Key
from ml_backend.errors import InputError
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord, to_rle
from ml_backend.masks.images import read_rgb
from tests.ml_backend.builders import some_predictions as some
from tests.object_store import check_credentials

CLASSES = {1: "cell", 2: "dot"}
_numbers = count()


@pytest.fixture
def splits(tmp_path):
    images = tmp_path / "data"
    images.mkdir()
    found = {}
    for number, split in enumerate(("labelled", "pool", "heldout")):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(images / f"{split}.png")
        data = CocoDataset([ImageRecord(1, f"{split}.png", 8, 6, images / f"{split}.png")], CLASSES)
        data.annotations = [Annotation(1, 1, 2, to_rle([[1, 1, 5, 1, 5, 4]], 6, 8))]
        data.fields.info = {"description": split}
        found[split] = data
    return found


@pytest.fixture
def settings(postgres_server):
    """Makes settings with a database of their own."""

    def make(**jobs):
        number = next(_numbers)
        url = postgres_server.database(f"places_{number}")
        known = {"database_url": url, "redis_url": "redis://127.0.0.1:1/0"}
        return CampaignSettings(name=f"places {number}", jobs=known | jobs)

    return make


def names(url):
    files, path = fsspec.url_to_fs(url)
    files.invalidate_cache()
    try:
        return sorted(name[len(path) :].lstrip("/") for name in files.find(path))
    except FileNotFoundError:
        return []


def test_a_campaign_is_the_same_on_every_machine(bucket_url, machines, settings, splits):
    machines("one")
    store = Store.create(bucket_url, settings(), splits, secret_values={"label_studio_token": "t" * 40})
    store.rounds.start(1, "detect")
    pool = store.images.records("pool")[0].id
    stored = store.masks.save_shard(1, "pool", 0, replace(some(5), image_id=np.full(5, pool)), 1, 0.5)
    store.views.keep("kept", "v1", {"rows": np.arange(3)})
    with store.step_locked("step"), store.locked():
        store.log("hello")
    assert store.place == bucket_url
    for path in (splits[split].images[0].path for split in splits):
        path.unlink()  # of the machine where it was made
    store.engine.dispose()

    machines("two")
    other = Store.open(bucket_url)
    assert other.key == store.key and other.folder != store.folder and other.classes() == CLASSES
    assert other.secret("label_studio_token") == "t" * 40
    assert [a.class_id for a in other.images.annotated("labelled").annotations] == [2]
    assert other.images.fields().info == {"description": "pool"}
    assert read_rgb(other.images.records("pool")[0].path)[0, 0].tolist() == [1, 0, 0]
    read = other.masks.predictions(1)
    assert np.array_equal(read.mask_id, stored.mask_id) and np.array_equal(read.features, stored.features)
    assert other.masks.read(stored.mask_id[::-1]).rle.tolist() == stored.rle[::-1].tolist()
    assert other.views.kept("kept", "v1")["rows"].tolist() == [0, 1, 2]
    other.save_secrets({"lead_password": "another"})
    other.set_label_studio("http://labels.example.org")
    other.engine.dispose()
    again = Store.open(bucket_url, read_only=True)
    assert again.secret("lead_password") == "another" and again.settings.label_studio.url.endswith("example.org")
    again.engine.dispose()


def test_a_class_is_read_from_bundles_in_parts(bucket_url, machines, settings, splits):
    machines("one")
    store = Store.create(bucket_url, settings(), splits)
    store.rounds.start(1, "cluster")
    for number in range(2):
        shown = replace(some(6), class_id=np.array([1, 2, 1, 2, 2, 2], np.int32), features=np.random.rand(6, 4))
        store.masks.save_shard(1, "pool", number, shown, 1, 0.5)
    store.bundles.gather(1, 0)
    store.engine.dispose()
    machines("two")
    other = Store.open(bucket_url)
    path, want = other.bundles.path(1, 0), other.masks.predictions(1, "pool", 2)
    for _ in range(2):
        read = other.bundles.read(1, 2)
        assert read.mask_id.tolist() == want.mask_id.tolist() and read.rle.tolist() == want.rle.tolist()
        assert np.array_equal(read.features, want.features) and not list(path.parent.glob("*.*"))
        # What was changed is noticed: then the shards are read, which hold the same.
        name = next(name for name in names(bucket_url) if name.startswith("rounds/001/bundles/00000.features.npy"))
        files, place = fsspec.url_to_fs(f"{bucket_url}/{name}")
        content = bytearray(files.cat_file(place))
        content[-4:] = b"\0\0\0\0"
        files.pipe_file(place, bytes(content))
        with pytest.raises(InputError, match="expected those that were put there, got others"):
            other.bundles._read(other.bundles.rows(1), 2, True)
    other.bundles.drop(1)
    assert not [name for name in names(bucket_url) if "bundles" in name]
    other.engine.dispose()


def test_a_pool_grows_at_a_url(bucket_url, machines, settings, splits, tmp_path):
    machines("one")
    store = Store.create(bucket_url, settings(), splits)
    Image.new("RGB", (8, 6), (9, 9, 9)).save(tmp_path / "data" / "more.png")
    more = [(ImageRecord(7, "more.png", 8, 6, tmp_path / "data" / "more.png"), {"license": 3})]
    with store.session() as session:
        store.images.add(session, "pool", more, 4, {})
        store.images.save_batches(session, [*store.images.batches(), Batch(4, 1, 1)])
    store.engine.dispose()
    machines("two")
    other = Store.open(bucket_url)
    assert [fields for _, fields in other.images.with_fields()] == [{}, {"license": 3}]
    one, two = other.images.ids("pool").tolist()
    assert [(row.id, fields) for row, fields in other.images.with_fields([two])] == [(two, {"license": 3})]
    assert [(row.id, fields) for row, fields in other.images.with_fields([one])] == [(one, {})]
    assert read_rgb(other.images.get(4).path)[0, 0].tolist() == [9, 9, 9]
    other.engine.dispose()


@pytest.mark.parametrize(
    ("jobs", "told"),
    [
        ({"database_url": None}, "jobs.database_url: expected the address of a PostgreSQL that all machines of"),
        ({"database_url": "sqlite:///a.db"}, "jobs.database_url: expected the address of a PostgreSQL"),
        ({"redis_url": None}, "jobs.redis_url: expected the address of a Redis that all machines of"),
    ],
)
def test_a_url_needs_what_all_machines_reach(machines, splits, settings, jobs, told):
    machines("one")
    with pytest.raises(InputError) as caught:
        Store.create("memory://needs/mine", settings(**jobs), splits)
    assert told in str(caught.value) and names("memory://needs/mine") == []


def test_one_campaign_at_each_url_and_in_each_database(bucket_url, machines, settings, splits):
    machines("one")
    chosen = settings()
    Store.create(bucket_url, chosen, splits).engine.dispose()
    before = names(bucket_url)
    with pytest.raises(InputError, match="expected a URL without a campaign, got one that holds a campaign already"):
        Store.create(bucket_url, settings(), splits)
    assert names(bucket_url) == before
    with pytest.raises(InputError, match=f"expected a database of its own, got one of campaign '{chosen.name}'"):
        Store.create(f"{bucket_url}-two", chosen, splits)
    assert names(f"{bucket_url}-two") == []
    with pytest.raises(
        InputError, match=f"expected a URL that lies in no campaign, got one in the campaign {bucket_url}"
    ):
        Store.create(f"{bucket_url}/deep/er", settings(), splits)
    assert names(bucket_url) == before
    fsspec.open(f"{bucket_url}-three/else.txt", "w", auto_mkdir=True).open().close()
    with pytest.raises(InputError, match="expected a URL without objects, got one that holds other objects"):
        Store.create(f"{bucket_url}-three", settings(), splits)
    assert names(f"{bucket_url}-three") == ["else.txt"]
    Store.open(bucket_url).engine.dispose()


def test_two_that_begin_at_once_do_not_both_go_on(s3, machines, settings, splits, monkeypatch):
    machines("one")
    first, second = settings(), settings()
    url, real = f"{s3}/mine", Store._fill.__func__

    def slow(cls, *given):
        monkeypatch.undo()
        machines("two")
        with pytest.raises(InputError, match="expected a URL without a campaign"):
            Store.create(url, second, splits)
        with pytest.raises(InputError, match="one whose `campaign init` or `restore` runs, or was ended"):
            Store.open(url)
        return real(cls, *given)

    environment = {name: value for name, value in __import__("os").environ.items() if name.startswith("AWS_")}
    monkeypatch.setattr(Store, "_fill", classmethod(slow))
    monkeypatch.undo = lambda plain=monkeypatch.undo: (plain(), [monkeypatch.setenv(*e) for e in environment.items()])
    made = Store.create(url, first, splits)
    assert made.settings.name == first.name and Store.open(url).key == made.key
    made.engine.dispose()


def test_what_cannot_be_made_leaves_nothing(bucket_url, machines, settings, splits):
    machines("one")
    splits["pool"].images[0] = replace(splits["pool"].images[0], path=splits["heldout"].images[0].path)
    chosen = settings()
    with pytest.raises(InputError, match="an image in one split only"):
        Store.create(bucket_url, chosen, splits)
    assert names(bucket_url) == []
    splits["pool"].images[0] = replace(
        splits["pool"].images[0], path=splits["labelled"].images[0].path.with_name("pool.png")
    )
    Store.create(bucket_url, chosen, splits).engine.dispose()


def test_a_database_of_another_campaign_or_of_none(machines, settings, splits, monkeypatch, postgres_server):
    machines("one")
    chosen, other = settings(), settings()
    Store.create("memory://databases/mine", chosen, splits).engine.dispose()
    Store.create("memory://databases/other", other, splits).engine.dispose()
    monkeypatch.setenv("CAMPAIGN_DATABASE_URL", other.jobs.database_url)
    with pytest.raises(InputError, match=f"expected a database of its own, got one of campaign '{other.name}'"):
        Store.open("memory://databases/mine")
    monkeypatch.setenv("CAMPAIGN_DATABASE_URL", postgres_server.database("places_empty"))
    with pytest.raises(InputError, match="expected the database of this campaign, got one of no campaign"):
        Store.open("memory://databases/mine")
    monkeypatch.delenv("CAMPAIGN_DATABASE_URL")
    Store.open("memory://databases/mine").engine.dispose()


def test_a_worker_of_another_release_does_not_begin(machines, settings, splits):
    machines("one")
    store = Store.create("memory://releases/mine", settings(), splits)
    check_release(store.place)
    note_release(store)
    check_release(store.place)
    with store.session() as session:
        session.merge(m.Meta(name=Key.RELEASE.value, value={"release": "0.0.1"}))
    with pytest.raises(InputError, match=r"worker: expected release 0\.0\.1, which runs memory://releases/mine, got"):
        check_release(store.place)
    note_release(store)
    check_release(store.place)
    store.engine.dispose()


def test_commands_say_what_is_wrong_with_a_bucket_in_a_line(
    s3, s3_server, machines, settings, splits, capsys, monkeypatch
):
    machines("one")
    Store.create(f"{s3}/mine", settings(), splits).engine.dispose()

    def said(*arguments):
        monkeypatch.setattr("sys.argv", ["campaign", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        out = capsys.readouterr()
        return ended.value.code, out.out, out.err

    code, out, _ = said("status", f"{s3}/mine/", "--json")
    assert code == 0 and json.loads(out)["folder"] == f"{s3}/mine"
    for place, told in (
        (f"{s3}/none", "expected the URL of a campaign (see `campaign init`), got no campaign.json in it"),
        ("s3://no-such-bucket/mine", "expected the URL of a campaign"),
        ("nothing://a/b", "expected the URL of an object store"),
    ):
        code, out, err = said("status", place)
        assert (code, out) == (1, "") and told in err and len(err.splitlines()) == 1
    check_credentials(s3_server, True)
    code, _, err = said("verify", f"{s3}/mine")
    assert (
        code == 1 and "expected credentials in the environment that may do this" in err and len(err.splitlines()) == 1
    )
    check_credentials(s3_server, False)
    assert said("status", f"{s3}/mine")[0] == 0


def test_a_limit_of_the_cache_that_is_none(machines, settings, splits, monkeypatch):
    machines("one")
    monkeypatch.setenv("CAMPAIGN_CACHE_GIB", "all")
    with pytest.raises(InputError, match=r"\$CAMPAIGN_CACHE_GIB: expected a number above 0, got all"):
        Store.create("memory://limits/mine", settings(), splits)
    assert names("memory://limits/mine") == []


def test_files_of_a_folder_are_found_by_an_index(machines, settings, splits):
    machines("one")
    store = Store.create("memory://indexes/mine", settings(), splits)
    rows = [
        {"name": f"rounds/{n % 7:03d}/trees/{n}/parent.npy", "object": f"o{n}", "bytes": 1, "digest": "d"}
        for n in range(20_000)
    ]
    with store.session() as session:
        session.execute(insert(m.Object), rows)
        session.execute(text("ANALYZE object"))
    asked = []
    event.listen(store.engine, "before_cursor_execute", lambda _c, _k, query, given, *_: asked.append((query, given)))
    assert [path.name for path in store.files.below(store.folder / "rounds" / "003" / "trees" / "17")] == ["parent.npy"]
    assert store.files.listed(store.folder / "rounds" / "003" / "trees" / "1_", "*") == []
    with store.engine.connect() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN {asked[0][0]}", asked[0][1]).scalars().all()
    assert any("Index" in line for line in plan) and not any("Seq Scan" in line for line in plan), plan
    store.engine.dispose()
