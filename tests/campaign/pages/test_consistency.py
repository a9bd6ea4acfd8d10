"""`campaign verify`: a whole campaign fits together, and whatever is broken is named with what mends it."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from sqlalchemy import delete, update

from campaign.derived.consistency import local_findings
from campaign.derived.dataset import obtained
from campaign.label_studio.client import Client
from campaign.pages.again import mend_published
from campaign.pages.consistency import findings, remote_findings
from campaign.steps.propagate import finish_round
from campaign.steps.replay import replay
from campaign.steps.verify import turn
from campaign.store import Store
from campaign.store import models as m
from campaign.store.shards import feature_path
from ml_backend.errors import InputError
from tests.campaign import target_builders
from tests.campaign.builders import finish, verify_store
from tests.security.faults.label_studio import FIRST_TOKEN, LabelStudio
from tests.security.faults.machines import free_port


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A campaign of each kind that has ended."""
    folder = tmp_path_factory.mktemp("whole")
    paper = verify_store(folder / "paper")
    finish(paper)
    paper.rounds.update(1, stage="propagate")
    finish_round(paper, 1)
    target = target_builders.target_store(folder / "target", images=4)
    target_builders.finish(target, target_builders.Truth(4))
    target.rounds.update(1, stage="propagate")
    finish_round(target, 1)
    for store in (paper, target):
        store.engine.dispose()
    return {"paper": paper.folder, "target": target.folder}


@pytest.fixture
def copy(whole, tmp_path):
    def make(name="paper"):
        shutil.copytree(whole[name], tmp_path / name)
        return tmp_path / name

    return make


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and "campaign.db-" not in p.name}


@pytest.mark.parametrize("name", ["paper", "target"])
def test_a_whole_campaign_fits_together_and_is_not_written_to(copy, name):
    folder = copy(name)
    store = Store.open(folder)
    store.bundles.gather(1, 0)  # as a round that is being clustered has them
    store.engine.dispose()
    before = files(folder)
    assert findings(Store.open(folder, read_only=True), None, pause=0) == []
    assert files(folder) == before


def test_a_read_only_campaign_refuses_to_be_written_to(copy):
    store = Store.open(copy(), read_only=True)
    with pytest.raises(InputError, match=r"read-?only"):
        store.log("a line")


def _sql(statement):
    def break_it(store):
        with store.session() as session:
            session.execute(statement)

    return break_it


def _remove(name):
    return lambda store: next(store.folder.glob(name)).unlink()


def _short_dataset(store):
    masks = store.datasets.read()
    store.datasets.save(1, masks.select(np.arange(1, len(masks))))


def _shifted_tree(store):
    path = store.trees.folder(1, 1) / "mask_ids.npy"
    np.save(path, np.load(path) + 80)


def _bundle(break_it):
    """A bundle of the first round that is broken after it was gathered."""

    def gather(store):
        store.bundles.gather(1, 0)
        break_it(store.bundles.path(1, 0))

    return gather


def _other_masks(path):
    table = pq.ParquetFile(path).read()
    column = table.schema.get_field_index("mask_id")
    pq.write_table(table.set_column(column, "mask_id", pc.add(table["mask_id"], 1)), path)


def _odd_answer(store):
    row = store.answers.rows()[0]
    store.answers.add([row._asdict() | {"mask_id": 7, "annotation_id": 99} | {"id": 10**6}])


@pytest.mark.parametrize(
    ("name", "break_it", "thing", "mend"),
    [
        ("paper", _remove("rounds/*/predictions/pool-00000.parquet"), "shard 1/pool/0", "campaign restore"),
        ("paper", _remove("rounds/*/predictions/pool-00000.features.npy"), "shard 1/pool/0", "campaign restore"),
        ("paper", _sql(update(m.Shard).values(masks=7)), "shard 1/pool/0", "campaign restore"),
        ("paper", _bundle(Path.unlink), "bundle 1/0", "campaign run"),
        ("paper", _bundle(lambda p: feature_path(p).write_bytes(b"half")), "bundle 1/0", "campaign run"),
        ("paper", _bundle(_other_masks), "bundle 1/0: holds other masks", "campaign run"),
        ("paper", _remove("rounds/*/trees/1/order.npy"), "tree 1/1", "campaign restore"),
        ("paper", _sql(delete(m.ClassTree).where(m.ClassTree.class_id == 2)), "tree 1/2", "campaign restore"),
        ("paper", _shifted_tree, "tree 1/1", "campaign restore"),
        ("paper", _sql(update(m.Page).values(class_id=2)), "question", "campaign restore"),
        ("paper", _sql(update(m.Answer).values(page_key="x").where(m.Answer.id == 1)), "answer 1", "campaign restore"),
        ("paper", _sql(update(m.Answer).values(verdict="x").where(m.Answer.id == 1)), "answer 1", "campaign restore"),
        ("paper", _odd_answer, "answer", "campaign restore"),
        ("paper", _sql(update(m.Decision).values(kind="split")), "decisions 1/1", "campaign replay"),
        ("paper", _sql(delete(m.Decision).where(m.Decision.class_id == 2)), "decisions 1/2", "campaign replay"),
        ("paper", _remove("rounds/*/dataset.parquet"), "dataset 1", "campaign replay"),
        ("paper", _short_dataset, "dataset 1", "campaign replay"),
        ("target", _remove("promises/001.npz"), "promise 1", "campaign restore"),
        ("target", _short_dataset, "dataset 1", "campaign replay"),
    ],
)
def test_what_does_not_fit_is_named_with_what_mends_it(copy, name, break_it, thing, mend):
    folder = copy(name)
    store = Store.open(folder)
    break_it(store)
    store.engine.dispose()
    found = local_findings(Store.open(folder, read_only=True))
    named = [f for f in found if f"{f.thing}: {f.problem}".startswith(thing)]
    assert named and all(f.mend == mend for f in named), found
    if mend == "campaign replay":
        store = Store.open(folder)
        replay(store)
        assert obtained(store, 1).mask_id.tolist() == store.datasets.read().mask_id.tolist()
        store.engine.dispose()
        assert local_findings(Store.open(folder, read_only=True)) == []


def test_what_was_under_way_at_the_first_look_is_no_finding(copy, monkeypatch):
    folder = copy()
    path = next(folder.glob("rounds/*/dataset.parquet"))
    away = path.with_suffix(".away")
    path.rename(away)
    monkeypatch.setattr("campaign.pages.consistency.time.sleep", lambda _: away.exists() and away.rename(path))
    assert findings(Store.open(folder, read_only=True), None) == []


@pytest.mark.parametrize(
    "harm",
    [
        lambda hooks: hooks.clear(),
        lambda hooks: hooks[0].update(headers={}),
        lambda hooks: hooks[0].update(is_active=False),
        lambda hooks: hooks[0].update(url="http://elsewhere.example/"),
    ],
)
def test_a_webhook_that_a_member_took_away_is_found_and_registered_again(tmp_path, harm):
    server = LabelStudio(free_port())
    threading.Thread(target=server.serve, daemon=True).start()
    store = verify_store(tmp_path / "a", label_studio={"url": f"http://127.0.0.1:{server.port}"})
    client = Client(f"http://127.0.0.1:{server.port}", FIRST_TOKEN)
    turn(store, client)
    assert remote_findings(store, client) == []
    harm(server.books.hooks)
    (found,) = remote_findings(store, client)
    assert found.thing.startswith("webhook of project") and found.mend == "campaign publish --again"
    mend_published(store, client)
    assert remote_findings(store, client) == []
