"""Images that join the trees of a round at verify: old trees or new ones, never both, and no answer is lost."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from campaign.derived.dataset import obtained
from campaign.derived.live import LiveViews, live
from campaign.derived.outline import outline
from campaign.derived.selection import lead_orders
from campaign.derived.status import status
from campaign.pages.completeness import add_complete_pages
from campaign.records.decision import Kind
from campaign.records.verdict import Verdict
from campaign.steps import detect as detection
from campaign.steps.export import export_campaign
from campaign.steps.extend import Taking, extend_from_file
from campaign.steps.propagate import finish_round
from campaign.steps.replay import replay
from campaign.steps.rounds import due, progress_of, run_step
from campaign.store import Store
from campaign.store.values import Key
from ml_backend.errors import InputError
from tests.campaign import builders, target_builders
from tests.campaign.builders import GOOD, verify_store
from tests.campaign.target_builders import SIDE, hard_predictions, target_store

CLASSES = [{"id": 1, "name": "cell"}, {"id": 2, "name": "dot"}]


def add_images(store, tmp_path, count, side):
    """So many new images, which are to join."""
    folder, rows = tmp_path / "new", []
    folder.mkdir()
    for n in range(count):
        pixels = np.random.default_rng(n).integers(0, 255, (side, side, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"new-{n}.png")
        rows.append({"id": 100 + n, "file_name": f"new-{n}.png", "width": side, "height": side})
    (folder / "pool.json").write_text(json.dumps({"images": rows, "categories": CLASSES}))
    return extend_from_file(store, folder, folder / "pool.json", taking=Taking.JOIN)


def steps(store):
    """The names of what is due beside turns."""
    return [str(step.name) for step in due(progress_of(store)) if step.name != "sync"]


def work(store, until=None):
    """Runs what is due beside turns, up to a step, or to the end."""
    while todo := [step for step in due(progress_of(store)) if step.name not in ("sync", until)]:
        for step in todo:
            run_step(store, step.name, 1, *step.args)


class Finds:
    """A detector that finds the same on every new image: 48 masks, shifted a little in feature space."""

    def predict(self, images):
        shown = builders.predictions()
        rows = np.flatnonzero(np.arange(len(shown)) % 10 < 3)
        noise = np.random.default_rng(3).normal(0, 0.05, (len(rows), 8))
        for image in images:
            part = shown.select(rows)
            yield replace(
                part, image_id=np.full(len(rows), image.id), features=(part.features + noise).astype(np.float16)
            )


def good(store):
    """The truth, by the detector's confidence, which is never shown to a search as such."""
    return lambda mask: bool(store.masks.read([mask]).confidence[0] == np.float32(GOOD))


@pytest.fixture
def detects(monkeypatch):
    monkeypatch.setattr(detection, "load_checkpoint", lambda name, checkpoint: Finds())


def begun(folder, policy, **where):
    """A campaign of which some pages are answered and three clusters are ordered, the kinds of their masks noted."""
    store = verify_store(folder / "store", {"policy": policy}, **where)
    store.rounds.update(1, checkpoint="none")
    for key in builders.turn(store)[:4]:
        builders.answer(store, key)
    builders.turn(store)
    orders = {}
    tree, ids = store.trees.read(1, 1)
    below = [int(c) for c in tree.children[tree.root]]
    inner = int(tree.children[below[0]][0])
    for cluster, kind in ((below[0], Kind.ACCEPT), (inner, Kind.REJECT), (below[1], Kind.SPLIT)):
        store.overrides.add(1, 1, cluster, kind)
        orders |= dict.fromkeys(ids[tree.members(cluster)].tolist(), str(kind))
    builders.turn(store)
    return store, orders


def ordered(store):
    """{mask: kind of the smallest ordered cluster of class 1 that holds it}."""
    tree, ids = store.trees.read(1, 1)
    standing = store.overrides.standing(1, 1)
    found = {}
    for cluster in sorted(standing, key=lambda c: -tree.size[c]):
        found |= dict.fromkeys(ids[tree.members(cluster)].tolist(), standing[cluster])
    return found


def decided(store):
    return [(d.class_id, d.cluster, d.kind, d.rule, d.asked, d.yes, d.size, d.quality) for d in store.decisions.rows(1)]


@pytest.mark.parametrize("policy", ["paper", "adaptive"])
def test_a_campaign_goes_on_with_images_that_joined(tmp_path, detects, policy):
    store, orders = begun(tmp_path, policy)
    elsewhere = Store.open(store.folder)
    before_ids = {c: store.trees.mask_ids(1, c) for c in (1, 2)}
    answers, before = len(store.answers.rows()), decided(elsewhere)
    assert live(elsewhere).summaries(1) == live(store).summaries(1)

    assert add_images(store, tmp_path, 1, 400).joins
    assert steps(store) == ["detect"]
    assert status(store)["joining"] == {"images": 1, "detected": 0}
    work(store, until="follow")
    assert status(store)["joining"] == {"images": 1, "detected": 1}
    assert decided(store) == before and store.trees.generation() == 0, "nothing counts before all of it does"
    assert not builders.turn(store) or store.rounds.get(1).stage == "verify"
    work(store)
    assert steps(store) == [] and store.trees.generation() == 2 and store.bundles.rows(1) == []

    assert status(store)["joining"] is None
    new = {c: store.trees.mask_ids(1, c) for c in (1, 2)}
    assert all(new[c][: len(ids)].tolist() == ids.tolist() for c, ids in before_ids.items())
    assert {c: len(new[c]) - len(ids) for c, ids in before_ids.items()} == {1: 24, 2: 24}
    now = ordered(store)
    assert {mask: now.get(mask) for mask in orders} == orders
    assert [mask for mask in before_ids[1].tolist() if mask not in orders and mask in now] == []

    # What is stored is what follows from the same facts over the new trees, and another process sees just that.
    views = LiveViews(store).refresh()
    for class_id in (1, 2):
        folded = views._folded(next(e for e in store.trees.rows(1) if e.class_id == class_id))
        kept = [(d["cluster"], d["kind"], d["asked"], d["yes"]) for d in folded.kept_decisions()]
        assert sorted(kept) == [(d.cluster, d.kind, d.asked, d.yes) for d in sorted_rows(store, class_id)]
        assert live(elsewhere).view(1, class_id).kept_decisions() == folded.kept_decisions()
    assert live(elsewhere).summaries(1) == live(store).summaries(1)
    assert outline(elsewhere).masks == outline(store).masks
    assert len(store.answers.rows()) == answers

    says = good(store)
    for _ in range(60):
        builders.turn(store)
        if all(t.searched for t in store.trees.rows(1)):
            break
        for page in store.pages.rows():
            if not store.answers.rows({page.key}):
                builders.answer(store, page.key, says=says)
    assert replay(store)["changed"] == 0
    kinds = store.questions.by_decision(["verify"])
    asked_before = sum(n for _, _, kind, n in kinds if kind is None)
    assert 0 < asked_before < store.questions.count("verify"), "what was asked of the old trees is of no cluster"
    store.rounds.update(1, stage="propagate")
    finish_round(store, 1)
    export_campaign(store, tmp_path / "export.json")
    rows = json.loads((tmp_path / "export.json").read_text())["annotations"]
    joined = [row for row in rows if row["image_id"] == 100 and row["category_id"] == 2]  # the other has orders
    assert len(joined) >= 10 and all(says(row["attributes"]["mask_id"]) for row in joined)


def sorted_rows(store, class_id):
    return sorted(store.decisions.rows(1, class_id), key=lambda d: d.cluster)


def test_a_target_is_reached_with_images_that_joined(tmp_path, monkeypatch):
    truth = {}

    class FindsHard:
        def predict(self, images):
            predictions, right = hard_predictions(len(images), 7)
            for n, image in enumerate(images):
                rows = np.arange(n * 50, n * 50 + 50)
                truth.update({(image.id, k): bool(right[row]) for k, row in enumerate(rows)})
                yield replace(predictions.select(rows), image_id=np.full(50, image.id))

    monkeypatch.setattr(detection, "load_checkpoint", lambda name, checkpoint: FindsHard())
    store, old = target_store(tmp_path / "c", images=4), target_builders.Truth(4)
    store.rounds.update(1, checkpoint="none")
    first = store.images.newest() + 1

    def right(mask):
        image = int(store.masks.read([mask]).image_id[0])
        return truth[image, mask % 50] if image >= first else old(mask)

    for key in target_builders.turn(store)[0]:
        target_builders.answer(store, key, right)
    tree, ids = store.trees.read(1, 2)
    cluster = int(tree.children[tree.root][0])
    store.overrides.add(1, 2, cluster, Kind.REJECT)
    rejected = set(ids[tree.members(cluster)].tolist())
    assert set(lead_orders(store, 1)[1].tolist()) == rejected
    answers = len(store.answers.rows())

    add_images(store, tmp_path, 2, SIDE)
    while steps(store):
        _, done = target_builders.turn(store)
        assert not done and store.values.get(Key.PROMISE) is None, "no promise while images join"
        work(store, until="follow" if "join" not in steps(store) and "follow" not in steps(store) else None)
    old_ids = set(ids.tolist())
    assert len(store.answers.rows()) == answers
    assert set(lead_orders(store, 1)[1].tolist()) & old_ids == rejected
    target_builders.finish(store, right)
    assert replay(store)["changed"] == 0
    store.rounds.update(1, stage="propagate")
    finish_round(store, 1)
    masks = store.datasets.read()
    new = masks.mask_id[masks.image_id >= first]
    assert len(new) > 10 and np.mean([right(mask) for mask in new.tolist()]) >= 0.9


def test_an_interrupted_change_of_trees_leaves_all_as_it_was(tmp_path, detects, monkeypatch):
    store, orders = begun(tmp_path, "adaptive")
    add_images(store, tmp_path, 1, 400)
    work(store, until="follow")
    before = decided(store), store.overrides.rows(), store.trees.generation()
    monkeypatch.setattr(store.trees, "follow", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_step(store, "follow", 1)
    again = Store.open(store.folder)
    assert (decided(again), len(again.overrides.rows()), again.trees.generation()) == (
        before[0], len(before[1]), before[2]
    )  # fmt: skip
    assert live(again).summaries(1) == live(Store.open(store.folder)).summaries(1)
    assert steps(again) == ["follow"]
    work(again)
    assert again.trees.generation() == 2 and {mask: ordered(again).get(mask) for mask in orders} == orders


def test_who_reads_meanwhile_sees_old_or_new(tmp_path, detects, monkeypatch):
    """The trees change after the decisions were read and before the trees are."""
    store, _ = begun(tmp_path, "adaptive")
    add_images(store, tmp_path, 1, 400)
    work(store, until="follow")
    reader, decisions = Store.open(store.folder), store.decisions.of_kind

    def slow(*args):
        rows = decisions(*args)
        if steps(store):
            run_step(store, "follow", 1)
        return rows

    monkeypatch.setattr(reader.decisions, "of_kind", slow)
    assert outline(reader).masks == outline(Store.open(store.folder)).masks
    assert obtained(reader, 1).mask_id.tolist() == obtained(store, 1).mask_id.tolist()


def test_machines_without_a_common_disk_see_the_trees_change(tmp_path, detects, postgres_server, s3, machines):
    jobs = {"database_url": postgres_server.database("joined"), "redis_url": "redis://127.0.0.1:1/0"}
    machines("one")
    store, orders = begun(tmp_path, "adaptive", place=f"{s3}/mine", jobs=jobs)
    before = live(store).summaries(1)
    add_images(store, tmp_path, 1, 400)
    machines("two")
    other = Store.open(f"{s3}/mine")
    assert other.folder != store.folder and live(other).summaries(1) == before
    work(other)
    machines("one")
    assert live(store).summaries(1) == live(other).summaries(1) != before
    assert store.trees.mask_ids(1, 1).tolist() == other.trees.mask_ids(1, 1).tolist()
    assert outline(store).masks == outline(other).masks
    assert {mask: ordered(store).get(mask) for mask in orders} == orders


def test_a_voted_mask_keeps_its_verdict(tmp_path, detects):
    store, _ = begun(tmp_path, "adaptive")
    before = {}
    for class_id in (1, 2):
        view = live(store).view(1, class_id)
        before |= {view.mask(leaf): verdict for leaf, verdict in view.search.verdicts.items()}
    add_images(store, tmp_path, 1, 400)
    work(store)
    after = {}
    for class_id in (1, 2):
        view = live(store).view(1, class_id)
        after |= {view.mask(leaf): verdict for leaf, verdict in view.search.verdicts.items()}
    assert after == before and set(before.values()) <= set(Verdict)
    late = builders.turn(store)
    assert not set(before) & {a.mask_id for a in store.questions.on_pages(late)}, "nothing is asked twice"


REFUSED = {
    "promise": (lambda s: s.values.set(Key.PROMISE, {"any": 1}), "carry a promise"),
    "propagate": (lambda s: s.rounds.update(1, stage="propagate"), "expected one at stage verify.*got propagate"),
    "cluster": (lambda s: s.rounds.update(1, stage="cluster"), "expected one at stage verify.*got cluster"),
}


@pytest.mark.parametrize(("before", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_where_they_cannot_join(tmp_path, before, message):
    store = verify_store(tmp_path / "store")
    before(store)
    with pytest.raises(InputError, match=message) as error:
        add_images(store, tmp_path, 1, 400)
    assert "\n" not in str(error.value)
    assert store.images.count("pool") == 1 and store.trees.joining(1) is None


def test_one_at_a_time(tmp_path, detects):
    store, _ = begun(tmp_path, "paper")
    add_images(store, tmp_path, 1, 400)
    (tmp_path / "new").rename(tmp_path / "first")
    with pytest.raises(InputError, match="got images that join it now"):
        add_images(store, tmp_path, 1, 400)
    assert store.images.count("pool") == 2


def test_what_is_missing_is_not_asked_meanwhile(tmp_path, detects):
    store, _ = begun(tmp_path, "paper")
    add_images(store, tmp_path, 1, 400)
    with pytest.raises(InputError, match="joining the round's trees, before asking what is missing"):
        add_complete_pages(store, 1)
    assert store.pages.rows(kind="complete") == []


def test_late_copies_of_steps_do_nothing(tmp_path, detects):
    store, _ = begun(tmp_path, "paper")
    for name, args in (("detect", ("pool", 0, 1)), ("gather", (0,)), ("join", (1,)), ("follow", ())):
        run_step(store, name, 1, *args)
    assert store.bundles.rows(1) == [] and store.trees.prepared(1) == [] and store.trees.generation() == 0
