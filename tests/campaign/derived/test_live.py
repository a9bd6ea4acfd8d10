"""Views that are kept up in any way equal one fold from the beginning."""

import gc
import os
import shutil
import weakref

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from campaign.derived import live as live_module
from campaign.derived.live import LiveViews, live
from campaign.label_studio.readback import AnnotationSnapshot, TaskSnapshot
from campaign.pages.planning import plan_pages
from campaign.pages.readback import facts
from campaign.records.verdict import Verdict
from campaign.store import Store
from tests.campaign.builders import add_page, answer, finish, gold_store, spread_iou, turn, verify_store

# Of each kind; more where it is asked for: CAMPAIGN_INTERLEAVINGS=100.
INTERLEAVINGS = int(os.environ.get("CAMPAIGN_INTERLEAVINGS", "40"))
KINDS = ("plain", "gold", "overlap", "qualified", "budget")
OPERATIONS = (
    "turn", "turn", "answer", "answer", "answer", "careless", "edit", "delete", "override", "revert",
    "killed", "killed between", "rebuilt", "elsewhere", "read",
)  # fmt: skip


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    """One campaign of each kind, to be copied for every case."""
    folder = tmp_path_factory.mktemp("templates")
    adaptive = {"policy": "adaptive", "n_s": 4, "ask_ahead": True}
    stores = {
        "plain": verify_store(folder / "plain", {"policy": "paper", "n_s": 4}),
        "gold": gold_store(folder / "gold", {"gold_share": 0.3, "gold_opening": 5}, adaptive, iou=spread_iou),
        "overlap": verify_store(folder / "overlap", adaptive, {"overlap_share": 0.5}),
        "qualified": gold_store(folder / "qualified", {"qualification": True, "gold_share": 0.2}, adaptive),
        "budget": verify_store(folder / "budget", {"policy": "curtailed", "n_s": 4, "budget_questions": 40}),
    }
    masks = stores["qualified"].masks.predictions(1, "heldout").mask_id.tolist()
    gold = {mask: "yes" if n % 80 < 40 else "no" for n, mask in enumerate(masks[::20])}
    add_page(stores["qualified"], f"{stores['qualified'].key}-q1-001", list(gold), "qualify", gold)
    for store in stores.values():
        store.engine.dispose()
    return {kind: store.folder for kind, store in stores.items()}


class Case:
    """A campaign to which things happen, one after another."""

    def __init__(self, folder, draw):
        self.store, self.draw = Store.open(folder), draw
        self.standing: dict[int, tuple[str, int]] = {}  # annotation -> page, user

    def pick(self, values):
        return values[self.draw(st.integers(0, len(values) - 1))] if values else None

    def run(self, operation):
        getattr(self, operation.replace(" ", "_"))()

    def turn(self):
        turn(self.store)

    def answer(self, wrong=False, user=None):
        page = self.pick([p.key for p in self.store.pages.rows()])
        if page is not None:
            answer(self.store, page, user or self.pick([1, 2]), wrong=wrong)

    def careless(self):
        for page in self.store.pages.rows()[-3:]:
            answer(self.store, page.key, 3, wrong=True)

    def _change(self, delete):
        standing = sorted({(f.page_key, f.annotation_id, f.annotator) for f in self.store.answers.rows()})
        chosen = self.pick(standing)
        if chosen is None:
            return
        key, annotation, user = chosen
        others = {(f.annotation_id, f.annotator, f.answered_at) for f in self.store.answers.rows({key})}
        snapshots = [AnnotationSnapshot(a, int(u), at, 1.0, False, {}) for a, u, at in others if a != annotation]
        if not delete:
            verdicts = {a.mask_id: self.pick(list(Verdict)) for a in self.store.questions.on_pages([key])}
            count = len(self.store.answers.rows())  # later than all before, and within `page.change_hours`
            stamp = f"2026-01-01T23:{count // 60:02d}:{count % 60:02d}.000000Z"
            snapshots.append(AnnotationSnapshot(annotation, int(user), stamp, 1.0, False, verdicts))
        self.store.answers.add(facts(self.store, [TaskSnapshot(1, key, snapshots)]))

    def edit(self):
        self._change(delete=False)

    def delete(self):
        self._change(delete=True)

    def override(self, kind="accept"):
        entry = self.pick(self.store.trees.rows(1))
        cluster = self.draw(st.integers(entry.masks, 2 * entry.masks - 2))
        self.store.overrides.add(1, entry.class_id, cluster, kind and self.pick(["accept", "reject", "split"]))

    def revert(self):
        row = self.pick(self.store.overrides.rows())
        if row is not None:
            self.store.overrides.add(row.round, row.class_id, row.cluster, None)

    def killed(self):
        """The process ends with all that it had not saved."""
        live(self.store)
        self.store.companions.clear()

    def killed_between(self):
        """The process ends after some of its pages were stored, before its views were saved."""
        self.store.pages.add(list(plan_pages(self.store, 1))[:1])
        self.store.companions.clear()

    def rebuilt(self):
        live_module.forget(self.store)

    def elsewhere(self):
        """Another process takes a turn."""
        other = Store.open(self.store.folder)
        turn(other)
        other.engine.dispose()

    def read(self):
        """Somebody looks, without saving."""
        live(self.store).summaries(1)


def seen(views: LiveViews) -> tuple:
    """All that views say, in no order of arrival."""
    trust = views.trust
    users = sorted(trust.users)
    searches = [
        (
            v.class_id, v.rules.version, sorted(v.search.decisions, key=lambda d: d.cluster), v.search.wishes(),
            v.search.open, v.search.asked_leaves(), sorted(v.search.verdicts.items()), v.summary(),
        )
        for v in views.views(1)
    ]  # fmt: skip
    return (
        searches, views.summaries(1),
        {u: (trust.gold_answers(u), near) for u in users if (near := trust.gold_answers(u, near=True))},
        {u: t for u, t in trust.intervals.items() if t}, trust.qualified, trust.gold_tally().tolist(), trust.waiting(),
        {u: n for u, n in trust.answered().items() if n}, [trust.used(c) for c in views.store.classes()],
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(
    max_examples=INTERLEAVINGS, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_any_interleaving_equals_one_fold_from_the_beginning(kind, data, templates, tmp_path):
    folder = tmp_path / "case"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(templates[kind], folder)
    case = Case(folder, data.draw)
    for operation in data.draw(st.lists(st.sampled_from(OPERATIONS), min_size=3, max_size=14)):
        case.run(operation)
    turn(case.store)
    kept = seen(live(case.store))
    decisions = sorted((d.class_id, d.cluster, d.kind, d.rule, d.asked, d.yes) for d in case.store.decisions.rows())
    case.rebuilt()
    assert seen(live(case.store)) == kept
    live(case.store).views(1)
    live(case.store).save()
    assert decisions == sorted(
        (d.class_id, d.cluster, d.kind, d.rule, d.asked, d.yes) for d in case.store.decisions.rows()
    )
    case.store.engine.dispose()


def test_a_turn_reads_what_is_new_alone(tmp_path, monkeypatch):
    store = gold_store(tmp_path / "a", {"gold_share": 0.2})
    keys = turn(store)
    for key in keys[:-1]:
        answer(store, key)
    turn(store)
    answer(store, keys[-1])
    store.companions.clear()
    cursors, classes = [], []
    after, of_class = store.answers.after, store.answers.of_class
    monkeypatch.setattr(store.answers, "after", lambda fact: cursors.append(fact) or after(fact))
    monkeypatch.setattr(store.answers, "of_class", lambda *place: classes.append(place) or of_class(*place))
    monkeypatch.setattr(store.answers, "rows", lambda *_: pytest.fail("a turn read the whole history"))
    turn(store)
    assert cursors and min(cursors) > 0 and classes == [], "another process goes on from the snapshots"


def test_a_snapshot_that_is_gone_is_worked_out_anew(tmp_path):
    store = verify_store(tmp_path / "a")
    for key in turn(store):
        answer(store, key)
    turn(store)
    before = seen(live(store))
    store.companions.clear()
    for path in (store.folder / "derived").glob("r1-*.npz"):
        path.write_bytes(path.read_bytes()[:100])
    assert seen(live(store)) == before
    shutil.rmtree(store.folder / "derived")
    store.companions.clear()
    assert seen(live(store)) == before


def test_snapshots_that_nothing_names_are_removed(tmp_path):
    store = verify_store(tmp_path / "a")
    finish(store)
    files = {path.name for path in (store.folder / "derived").iterdir()}
    assert files == {row.file for row in store.views.rows("") if row.file}


def test_readers_write_nothing(tmp_path):
    store = verify_store(tmp_path / "a")
    for key in turn(store):
        answer(store, key)
    reader = Store.open(store.folder)
    rows = [(r.name, r.cursor, r.file) for r in store.views.rows("")]
    assert sum(f["answered"] for f in live(reader).summaries(1).values()) == len(store.answers.rows())
    assert [(r.name, r.cursor, r.file) for r in store.views.rows("")] == rows


def test_what_another_process_saved_is_read_and_no_class_opened_for_it(tmp_path, monkeypatch):
    store = verify_store(tmp_path / "a")
    keys = turn(store)
    reader = Store.open(store.folder)
    before = live(reader).summaries(1)
    for key in keys:
        answer(store, key)
    turn(store)
    monkeypatch.setattr(LiveViews, "_restored", lambda *_: pytest.fail("a class was opened"))
    now = live(reader).summaries(1)
    assert now != before and now == {v.class_id: v.summary() for v in live(store).views(1)}
    monkeypatch.undo()
    answer(store, store.pages.rows()[-1].key)  # and of what nobody saved the reader sees to itself
    assert live(reader).summaries(1) == {v.class_id: v.summary() for v in live(store).views(1)}


def test_a_class_that_nothing_touched_keeps_its_snapshot(tmp_path):
    store = verify_store(tmp_path / "a")
    keys = turn(store)
    files = {row.name: row.file for row in store.views.rows("class/")}
    class_id = store.pages.some(keys)[keys[0]].class_id
    answer(store, keys[0])
    turn(store)
    changed = {row.name for row in store.views.rows("class/") if row.file != files[row.name]}
    assert changed == {f"class/1/{class_id}"}
    assert np.all([(store.folder / "derived" / row.file).exists() for row in store.views.rows("class/")])


def test_views_go_with_their_campaign(tmp_path):
    store = verify_store(tmp_path / "a")
    views = weakref.ref(live(store))
    del store
    gc.collect()
    assert views() is None


def careless_pages(store):
    """Pages of a user who is found careless, published, and the views that know it."""
    keys = turn(store)
    store.pages.mark_published({key: n for n, key in enumerate(keys, 1)})
    for key in keys:
        answer(store, key, 3, wrong=True)
    assert live(store).touched >= set(keys)
    return keys


def test_pages_to_be_asked_again_are_not_forgotten_by_who_saves(tmp_path):
    store = gold_store(tmp_path / "a", {"gold_share": 0.1})
    keys = careless_pages(store)
    live(store).save()
    assert live(Store.open(store.folder)).touched >= set(keys)


def test_snapshots_that_may_miss_facts_are_not_trusted(tmp_path):
    store = gold_store(tmp_path / "a", {"gold_share": 0.2})
    keys = turn(store)
    store.companions.clear()
    for path in (store.folder / "derived").glob("trust-*.npz"):
        path.unlink()
    for key in keys:
        answer(store, key)
    views = live(store)
    views.view(1, 1)
    views.save()
    assert [row.name for row in store.views.rows("class/")] == ["class/1/1"]
    store.companions.clear()
    assert sum(f["answered"] for f in live(store).summaries(1).values()) == store.questions.count()


def test_a_changed_setting_of_quality_counts_at_once(tmp_path):
    store = gold_store(tmp_path / "a", {"gold_share": 0.2})
    for key in turn(store):
        answer(store, key)
    turn(store)
    store.companions.clear()
    store.settings.quality.qualification = True
    assert sum(f["answered"] for f in live(store).summaries(1).values()) == 0, "nobody has passed a test"


def test_a_look_that_failed_half_way_is_not_gone_on_from(tmp_path, monkeypatch):
    store = gold_store(tmp_path / "a", {"gold_share": 0.1})
    keys = turn(store)
    for key in keys:
        answer(store, key, 3, wrong=True)
    with monkeypatch.context() as patch:
        patch.setattr(LiveViews, "_take_verdicts", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            live(store)
    assert sum(f["answered"] for f in live(store).summaries(1).values()) == 0
    assert seen(live(store)) == seen(LiveViews(Store.open(store.folder)).refresh())
