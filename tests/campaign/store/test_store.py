"""The store: what goes in comes out, and what goes wrong leaves nothing behind."""

import resource
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from campaign.records.dataset_masks import DatasetMasks
from campaign.settings import CampaignSettings
from campaign.store import Store, trees
from campaign.store import models as m
from campaign.store.decisions import replace_decisions
from campaign.store.images import Batch
from campaign.store.locks import file_lock
from campaign.store.shards import read_columns, write_columns
from ml_backend.errors import InputError
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord, to_rle
from tests.campaign.dataset.builders import dataset, ring_in_two_parts
from tests.ml_backend.builders import some_predictions as some

CLASSES = {1: "cell", 2: "dot"}


@pytest.fixture
def splits(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    found = {}
    for split in ("labelled", "pool", "heldout"):
        Image.new("RGB", (8, 6)).save(images / f"{split}.png")
        # Every file numbers its images from 1, as COCO files do.
        data = CocoDataset([ImageRecord(1, f"{split}.png", 8, 6, images / f"{split}.png")], CLASSES)
        data.annotations = [Annotation(1, 1, 2, to_rle([[1, 1, 5, 1, 5, 4]], 6, 8))]
        found[split] = data
    return found


@pytest.fixture(params=["sqlite in a folder", "postgresql in a folder", "postgresql at a url"])
def store(request, tmp_path, splits, machines):
    kind, _, place = request.param.partition(" ")
    jobs, machine = {}, machines("one")
    if kind == "postgresql":
        jobs["database_url"] = request.getfixturevalue("postgres_server").database("store")
    if place == "at a url":
        jobs["redis_url"] = "redis://127.0.0.1:1/0"
    where = f"file://{machine}/bucket/campaign" if place == "at a url" else tmp_path / "campaign"
    made = Store.create(where, CampaignSettings(name="test", jobs=jobs), splits)
    yield made
    made.engine.dispose()


def test_images_get_ids_of_their_own_and_the_pool_no_annotations(store):
    again = Store.open(store.place)
    assert [i.id for i in again.images.records()] == [1, 2, 3]
    assert again.classes() == CLASSES
    assert [a.image_id for a in again.images.annotated("heldout").annotations] == [
        again.images.records("heldout")[0].id
    ]
    assert not (store.folder / "pool.json").exists()


def test_shards_of_images_are_found_also_in_a_pool_that_grew_behind_another_split(store):
    for first, count, round_number in ((10, 5, 1), (20, 4, 3), (30, 7, 2)):
        with store.session() as session:
            session.add_all(
                m.Image(id=n, split="pool", coco_id=n, file_name=f"{n}", path=f"/{n}", width=8, height=6)
                for n in range(first, first + count)
            )
            store.images.save_batches(session, [*store.images.batches(), Batch(first, count, round_number)])
    ids = {1: [[3], range(10, 15)], 2: [[3], range(10, 15), range(30, 37)]}
    ids[3] = [*ids[1], range(20, 24), range(30, 37)]
    for number, batches in ids.items():
        for length in (1, 3, 100):
            want = [list(batch[n : n + length]) for batch in batches for n in range(0, len(batch), length)]
            count = store.images.count_shards("pool", length, number)
            shards = [[i.id for i in store.images.shard("pool", n, length, number)] for n in range(count + 1)]
            assert shards == [*want, []]
            assert [store.images.shard_of(ids[0], length, number) for ids in want] == list(range(count))
    assert store.images.shard_of(20, 3, 2) is None
    assert [row.id for row in store.images.in_pages("pool", 3)] == [3, *range(10, 15), *range(20, 24), *range(30, 37)]
    assert [i.id for i in store.images.shard("heldout", 0, 5, 1)] == store.images.ids("heldout").tolist()


def test_secrets_are_for_their_owner_alone(store, monkeypatch):
    if store.place == str(store.folder):  # at a URL they are for whoever reads its objects
        assert (store.folder / "secrets.json").stat().st_mode & 0o777 == 0o600
    assert store.secret("crop_key") != store.secret("webhook_secret")
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    with pytest.raises(InputError, match="label_studio_token"):
        store.secret("label_studio_token")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "from the environment")
    assert store.secret("label_studio_token") == "from the environment"


def test_one_folder_holds_one_campaign(store, splits, tmp_path):
    with pytest.raises(InputError, match="holds a campaign already"):
        Store.create(store.place, store.settings.model_copy(update={"name": "other"}), splits)
    assert Store.open(store.place).settings.name == "test"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="holds other files"):
        Store.create(tmp_path / "full", CampaignSettings(name="other"), splits)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_one_database_holds_one_campaign(store, splits, tmp_path):
    url = store.address("database_url") or f"sqlite:///{store.folder}/campaign.db"
    settings = CampaignSettings(name="other", jobs={"database_url": url})
    with pytest.raises(InputError, match="a database of its own"):
        Store.create(tmp_path / "second", settings, splits)
    assert not (tmp_path / "second").exists()


def test_bad_splits_leave_no_folder(splits, tmp_path):
    other = replace(splits["heldout"], classes={1: "cell"})
    with pytest.raises(InputError, match="heldout classes"):
        Store.create(tmp_path / "c", CampaignSettings(name="x"), splits | {"heldout": other})
    with pytest.raises(InputError, match="in one split only"):
        Store.create(tmp_path / "c", CampaignSettings(name="x"), splits | {"heldout": splits["pool"]})
    with pytest.raises(InputError, match="pool: expected at least one image"):
        Store.create(tmp_path / "c", CampaignSettings(name="x"), splits | {"pool": CocoDataset([], CLASSES)})
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [("", "the settings of a campaign"), ("[]", "a campaign, got list"), ('{"format": 2}', "format 1, got 2")],
)
def test_bad_settings_files_get_one_line(tmp_path, content, told):
    (tmp_path / "campaign.json").write_text(content)
    with pytest.raises(InputError, match=told):
        Store.open(tmp_path)


def test_a_bad_setting_is_named(store):
    content, _ = store.documents()
    content["settings"]["search"]["k_a"] = 2
    store._place.write("campaign.json", content)
    with pytest.raises(InputError, match=r"search\.k_a: expected a number of at most 1, got 2"):
        Store.open(store.place)


def test_predictions_come_back_by_round_class_and_id(store):
    store.rounds.start(1, "detect")
    a = store.masks.save_shard(1, "pool", 0, some(3), images=1, seconds=0.1)
    b = store.masks.save_shard(1, "pool", 1, replace(some(2), class_id=np.ones(2)), images=1, seconds=0.1)
    h = store.masks.save_shard(1, "heldout", 0, some(2), images=1, seconds=0.1)
    assert len(set(a.mask_id) | set(b.mask_id) | set(h.mask_id)) == 7
    assert store.masks.predictions(1).mask_id.tolist() == [*a.mask_id, *b.mask_id]
    assert store.masks.predictions(1, class_id=1).features.shape == (2, 4)
    wanted = [int(h.mask_id[1]), int(a.mask_id[2]), int(b.mask_id[0]), int(a.mask_id[2])]
    assert store.masks.read(wanted).mask_id.tolist() == wanted
    assert store.masks.read(wanted).rle[1] == a.rle[2]
    with pytest.raises(KeyError):
        store.masks.read([int(b.mask_id[1]) + 1])
    with pytest.raises(KeyError):
        store.masks.read([1])


def test_stability_is_stored_and_unknown_in_shards_of_before(store):
    store.rounds.start(1, "detect")
    store.masks.save_shard(1, "pool", 0, replace(some(2), stability=[0.25, 0.5]), images=1, seconds=0.1)
    assert store.masks.predictions(1).stability.tolist() == [0.25, 0.5]
    path = store.masks.shard_path(1, "pool", 0)
    columns = read_columns(path)
    del columns["stability"]
    write_columns(path, columns)
    store.files.publish(path)
    assert np.isnan(store.masks.predictions(1).stability).all()


def test_a_class_of_a_dataset_is_read_alone(store, monkeypatch):
    monkeypatch.setattr(trees, "GROUP", 20)
    monkeypatch.setattr(trees, "PIECE", 100)
    rng = np.random.default_rng(0)
    masks = dataset([ring_in_two_parts()] * 250, class_id=rng.choice([1, 2, 3, 9], 250, p=[0.5, 0.3, 0.1, 0.1]))
    store.rounds.start(1, "propagate")
    store.datasets.save(1, masks)
    read, groups = pq.ParquetFile.read_row_group, []
    monkeypatch.setattr(
        pq.ParquetFile, "read_row_group", lambda *args, **options: groups.append(args[1]) or read(*args, **options)
    )
    for class_id in (1, 2, 3, 4, 9):
        groups.clear()
        own = store.datasets.read(class_id=class_id)
        assert own.mask_id.tolist() == masks.mask_id[masks.class_id == class_id].tolist()
        assert len(set(groups)) <= 3 < pq.ParquetFile(store.datasets.path(1)).num_row_groups, "one of each portion"
    whole = store.datasets.read()
    assert whole.mask_id.tolist() == masks.mask_id.tolist() and whole.rle.tolist() == masks.rle.tolist()
    assert store.datasets.count() == 250 and store.datasets.count(before=1) == 0
    (columns,) = store.datasets.columns(["mask_id", "class_id"])
    assert sorted(columns["mask_id"].tolist()) == masks.mask_id.tolist()
    (listed,) = store.datasets.listed()
    rows = rng.permutation(250)[:60]
    assert listed.read(rows).mask_id.tolist() == listed.mask_id[rows].tolist()


def test_an_empty_dataset_and_a_full_one(store):
    assert len(store.datasets.read()) == 0
    store.rounds.start(1, "propagate")
    p = some(3)
    columns = {
        n: getattr(p, n)
        for n in ("mask_id", "image_id", "class_id", "box", "rle", "size", "confidence", "predicted_iou")
    }
    extra = {"round": 1, "cluster": 5, "asked": 15, "yes": 14, "voted": False}
    texts = {n: np.array(["x"] * 3, object) for n in ("rule", "model_version")}
    masks = DatasetMasks(**columns, **{n: np.full(3, v) for n, v in extra.items()}, **texts)
    store.datasets.save(1, masks)
    again = store.datasets.read()
    assert again.rule.tolist() == ["x"] * 3 and again.rle.tolist() == p.rle.tolist()
    assert len(store.datasets.read(before=1)) == 0


def test_answers_are_facts_stored_once(store):
    fact = {
        "page_key": "p", "annotation_id": 1, "mask_id": 7, "annotator": "a", "verdict": "yes",
        "answered_at": "2026-01-01T00:00:00.000001Z", "lead_time": 1.5,
    }  # fmt: skip
    assert store.answers.add([fact, fact]) == 1
    assert store.answers.add([fact]) == 0
    assert store.answers.add([fact | {"verdict": "no", "answered_at": "2026-01-01T00:00:00.000002Z"}]) == 1
    assert [a.verdict for a in store.answers.rows()] == ["yes", "no"]


def test_a_decision_that_stays_keeps_its_time(store):
    row = {
        "cluster": 4, "kind": "accept", "rule": "r", "size": 9, "asked": 5, "yes": 5,
        "quality": 1.0, "lower_bound": 0.5, "mean_score": 0.9,
    }  # fmt: skip
    with store.session() as session:
        replace_decisions(session, 1, 1, [row, row | {"cluster": 5}])
    before = {d.cluster: d.decided_at for d in store.decisions.rows()}
    with store.session() as session:
        replace_decisions(session, 1, 1, [row, row | {"cluster": 6}])
    after = {d.cluster: d.decided_at for d in store.decisions.rows()}
    assert after.keys() == {4, 6} and after[4] == before[4]


def test_a_lock_is_free_again_when_its_holder_is_killed(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom campaign.store.locks import file_lock\n"
        "with file_lock(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=f"process {holder.pid}"), file_lock(path, wait=False):
        pass
    holder.kill()
    holder.wait()
    with file_lock(path, wait=False):
        pass


def test_a_full_disk_gets_one_line_and_leaves_no_campaign(tmp_path, splits):
    code = f"""
import resource, pickle
from campaign.settings import CampaignSettings
from campaign.store import Store
from campaign.store.decisions import replace_decisions
from ml_backend.errors import InputError
splits = pickle.loads({__import__("pickle").dumps(splits)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
try:
    Store.create({str(tmp_path / "c")!r}, CampaignSettings(name="x"), splits)
except InputError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n" + code],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(done.stdout.splitlines()) == 1 and "expected" in done.stdout
    assert not (tmp_path / "c").exists()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20000


def test_the_migrations_give_the_tables_of_the_models(store):
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from campaign.store.models import Base

    with store.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []


def test_a_newer_schema_is_refused(store):
    from sqlalchemy import text

    with store.engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(InputError, match="got the newer 9999"):
        Store.open(store.place)
