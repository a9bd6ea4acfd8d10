"""The lead's changes beside the campaign's own work: whoever comes first, nothing is lost and nothing old is left."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event

import pytest

from campaign.derived.dataset import obtained
from campaign.pages.audits import begin_audit, open_audit
from campaign.records.stage import Stage
from campaign.steps.propagate import finish_round
from campaign.store import Store
from campaign.web.lead import changes
from ml_backend.errors import InputError
from tests.campaign.builders import finish, gold_store

Work = Callable[[Store], object]


@pytest.fixture
def folder(tmp_path) -> Path:
    """A campaign whose search is over and whose dataset is to be made next."""
    store = gold_store(tmp_path / "a", {"gold_share": 0.1})
    finish(store, 7)
    store.rounds.update(1, stage=Stage.PROPAGATE)
    return store.folder


def accepted(store: Store):
    return max((d for d in store.decisions.rows() if d.kind == "accept"), key=lambda d: d.size)


def side_by_side(folder: Path, *works: Work) -> list[object]:
    """What each returns or raises, started at one moment, each with a store of its own as processes have."""
    barrier = Barrier(len(works))

    def run(work: Work) -> object:
        store = Store.open(folder)
        barrier.wait(30)
        try:
            return work(store)
        except InputError as error:
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))


def check_whole(folder: Path, cluster: int, kind: str) -> None:
    """The lead's word stands, the decisions follow it, and the stored dataset is the one that follows from them."""
    store = Store.open(folder)
    assert [(o.cluster, o.kind) for o in store.overrides.rows()] == [(cluster, kind)]
    assert next(d.kind for d in store.decisions.rows() if d.cluster == cluster) == kind
    if store.rounds.get(1).stage == Stage.DONE:
        assert store.datasets.read(before=2).mask_id.tolist() == obtained(store, 1).mask_id.tolist()
        assert store.rounds.get(1).metrics["masks"] == len(obtained(store, 1))
    else:
        assert store.rounds.get(1).stage == Stage.VERIFY and not store.datasets.path(1).exists()


@pytest.mark.parametrize("kind", ["reject", "split"])
@pytest.mark.parametrize("first", ["propagate", "decide"])
def test_a_decision_beside_a_running_propagate_job(folder, monkeypatch, kind, first):
    was = accepted(Store.open(folder))
    inside, go_on = Event(), Event()

    def decide(store: Store) -> None:
        changes.decide(store, 1, was.class_id, was.cluster, kind, "cell")

    def paused(work: Callable) -> Callable:
        def run(*args):
            inside.set()
            assert go_on.wait(60)
            return work(*args)

        return run

    if first == "propagate":
        monkeypatch.setattr("campaign.steps.propagate.obtained", paused(obtained))
        works = [lambda: finish_round(Store.open(folder), 1), lambda: decide(Store.open(folder))]
    else:
        monkeypatch.setattr(changes, "foresee", paused(changes.foresee))
        works = [lambda: decide(Store.open(folder)), lambda: finish_round(Store.open(folder), 1)]
    with ThreadPoolExecutor(2) as pool:
        ahead = pool.submit(works[0])
        assert inside.wait(60)
        behind = pool.submit(works[1])
        with pytest.raises(futures.TimeoutError):
            behind.result(0.5)  # it waits for the lock
        go_on.set()
        ahead.result(60)
        behind.result(60)
    check_whole(folder, was.cluster, kind)


def test_two_audits_begun_at_once_leave_one(folder):
    finish_round(Store.open(folder), 1)
    outcomes = side_by_side(folder, *[lambda store: begin_audit(store, draws=20)] * 2)
    assert sorted(isinstance(o, InputError) for o in outcomes) == [False, True]
    store = Store.open(folder)
    running = open_audit(store)
    assert running is not None and running.number == 1
    assert len(list((folder / "audits").glob("*.npy"))) == 1
    asked = {q.mask_id for q, _ in store.questions.rows(kind=running.kind)}
    assert asked == {int(running.mask_ids[row]) for row in running.audit.rows}
    assert {p.kind for p in store.pages.rows() if p.kind != "verify"} == {running.kind}


@pytest.mark.parametrize("turn", range(2))
def test_decision_end_of_round_and_audit_at_once(folder, turn):
    was = accepted(Store.open(folder))
    works: list[Work] = [
        lambda store: changes.decide(store, 1, was.class_id, was.cluster, "reject", "cell"),
        lambda store: finish_round(store, 1),
        lambda store: begin_audit(store, draws=20),
    ]
    outcomes = side_by_side(folder, *works[turn:], *works[:turn])
    assert not any(isinstance(o, InputError) for o in outcomes)
    check_whole(folder, was.cluster, "reject")
    store = Store.open(folder)
    running = open_audit(store)
    assert running is not None and {p.kind for p in store.pages.rows()} == {"verify", running.kind}
