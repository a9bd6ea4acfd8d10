"""A training that was killed on one machine goes on on another that shares no disk with it."""

import logging
import os
import time
from types import SimpleNamespace

import fsspec
import pytest
import torch
from PIL import Image

from campaign.settings import CampaignSettings
from campaign.steps import handover, train
from campaign.store import Store
from ml_backend.errors import Unavailable
from ml_backend.learning.checkpoints import Unfinished
from ml_backend.learning.training import outcome, run
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord, to_rle
from tests.ml_backend.learning.test_training import SCHEDULE, learner

STEPS, EVERY = SCHEDULE.steps, SCHEDULE.checkpoint_every


class Detector:
    """Trains in forty steps, with a checkpoint after every tenth."""

    version = "steps"

    @classmethod
    def train(cls, data, heldout, output, *, options, progress=None, start_from=None):
        output.mkdir(parents=True, exist_ok=True)
        unfinished = Unfinished(output / "unfinished.pt", "a")
        run(learner(), SCHEDULE, unfinished, progress)
        torch.save(outcome(unfinished).weights, output / "model.pt")
        unfinished.path.unlink()
        return output / "model.pt"

    @classmethod
    def load(cls, checkpoint):
        return cls()


class KilledError(Exception):
    """Ends a process."""


def counted(steps, last=None):
    """A callback that notes steps, and is killed at one."""

    def progress(_name, done, _total):
        steps.append(done)
        if done == last:
            raise KilledError

    return progress


def weights(store):
    return torch.load(store.checkpoint(store.rounds.get(1)), weights_only=True)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def create(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "load_detector_class", lambda _name: Detector)
    monkeypatch.setattr(handover, "EVERY", 0.0)
    splits = {}
    for split in ("labelled", "pool"):
        Image.new("RGB", (8, 6)).save(tmp_path / f"{split}.png")
        splits[split] = CocoDataset([ImageRecord(1, f"{split}.png", 8, 6, tmp_path / f"{split}.png")], {1: "cell"})
    splits["labelled"].annotations = [Annotation(1, 1, 1, to_rle([[1, 1, 5, 1, 5, 4]], 6, 8))]

    def make(place, **jobs):
        store = Store.create(place, CampaignSettings(name="handed over", jobs=jobs), splits)
        store.rounds.start(1, "train")
        return store

    return make


def objects(url):
    files, path = fsspec.url_to_fs(url)
    files.invalidate_cache()
    return [name for name in files.find(path) if ".unfinished/" in name]


def test_a_killed_training_goes_on_on_another_machine(create, tmp_path, s3, machines, postgres_server, monkeypatch):
    alone, steps = create(tmp_path / "alone"), []
    train.train(alone, 1, counted(steps))
    assert steps == list(range(1, STEPS + 1)) and objects(f"file://{tmp_path}/alone") == []
    url, jobs = f"{s3}/mine", {"database_url": postgres_server.database("handed_over"), "redis_url": "redis://none"}
    machines("one")
    with pytest.raises(KilledError):
        train.train(create(url, **jobs), 1, counted([], 2 * EVERY + 3))
    assert len(objects(url)) == 1  # the newest alone
    machines("two")
    steps.clear()
    with pytest.raises(KilledError):
        train.train(Store.open(url), 1, counted(steps, 3 * EVERY + 1))
    assert steps == list(range(2 * EVERY + 1, 3 * EVERY + 2))
    machines("one")  # which has an older one of its own
    steps.clear()
    store = Store.open(url)
    train.train(store, 1, counted(steps))
    assert steps == list(range(3 * EVERY + 1, STEPS + 1))
    machines("three")
    store = Store.open(url)
    assert same(weights(store), weights(alone)) and objects(url) == []
    assert store.files.below(store.folder / "models" / "001.unfinished") == []


def test_one_s_own_newer_checkpoint_is_gone_on_from(create, s3, machines, postgres_server, monkeypatch, caplog):
    url, jobs = f"{s3}/mine", {"database_url": postgres_server.database("own"), "redis_url": "redis://none"}
    machines("one")
    store, steps = create(url, **jobs), []
    with pytest.raises(KilledError):
        train.train(store, 1, counted([], EVERY + 3))
    before = objects(url)

    def refused(*_paths, **_more):
        raise Unavailable("bucket", "one that answers", "none")

    with monkeypatch.context() as away:
        away.setattr(type(store.files), "publish", refused)
        with pytest.raises(KilledError):
            train.train(store, 1, counted([], 2 * EVERY + 3))
    assert "was not uploaded: bucket: expected one that answers, got none" in caplog.text
    assert objects(url) == before
    train.train(store, 1, counted(steps))
    assert steps[0] == 2 * EVERY + 1 and objects(url) == []
    # Killed before it was removed: whoever looks at the step again does.
    (kept := store.folder / "models" / "001.unfinished").mkdir()
    store.files.write(kept / "unfinished.pt", lambda path: path.write_bytes(b"old"))
    train.train(store, 1)
    assert objects(url) == []


def test_uploads_are_minutes_apart(create, s3, machines, postgres_server, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    url, jobs = f"{s3}/mine", {"database_url": postgres_server.database("apart"), "redis_url": "redis://none"}
    machines("one")
    store = create(url, **jobs)
    monkeypatch.setattr(handover, "EVERY", 60.0)
    with pytest.raises(KilledError):
        train.train(store, 1, counted([], EVERY + 3))
    assert objects(url) == []
    machines("two")
    train.train(Store.open(url), 1, counted(steps := []))
    assert steps[0] == 1 and "is taken up" not in caplog.text


def test_files_taken_up_half_way_are_all_taken_up_again(tmp_path, monkeypatch):
    uploaded, output = tmp_path / "t.unfinished", tmp_path / "t"
    for folder, content, age in ((output, "old", 600), (uploaded, "new", 60)):
        folder.mkdir()
        for name in ("a.pt", "b.pt"):
            (folder / name).write_text(content)
            os.utime(folder / name, (time.time() - age,) * 2)
    files = SimpleNamespace(
        apart=True, local=lambda path: path,
        times=lambda kept: {path.name: path.stat().st_mtime for path in sorted(kept.iterdir())},
    )  # fmt: skip
    store, write = SimpleNamespace(files=files), handover.write_whole

    def killed_after_one(path, writer):
        if path.name == "b.pt":
            raise KilledError
        write(path, writer)

    monkeypatch.setattr(handover, "write_whole", killed_after_one)
    with pytest.raises(KilledError):
        handover.carried(store, output, None)
    monkeypatch.setattr(handover, "write_whole", write)
    handover.carried(store, output, None)
    assert [path.read_text() for path in sorted(output.iterdir())] == ["new", "new"]
