"""Propagate: the dataset of a round is that of all facts, whoever wrote them and when."""

from campaign.derived.live import live
from campaign.steps.propagate import finish_round
from campaign.steps.replay import replay
from campaign.web.lead.changes import decide
from tests.campaign.builders import answer, finish, gold_store, turn, verify_store


def accepted(store):
    return next(d for d in store.decisions.rows(1) if d.kind == "accept")


def test_an_order_of_the_lead_that_came_after_the_last_turn_counts(tmp_path):
    store = verify_store(tmp_path / "a")
    finish(store)
    cluster = accepted(store)
    store.rounds.update(1, stage="propagate")
    store.overrides.add(1, cluster.class_id, cluster.cluster, "reject")  # killed before its decisions were saved
    finish_round(store, 1)
    masks = store.datasets.read()
    assert not ((masks.class_id == cluster.class_id) & ~masks.voted).any()


def test_answers_that_stood_because_the_round_was_over_are_asked_again_when_it_is_opened(tmp_path):
    store = gold_store(tmp_path / "a", {"gold_share": 0.1})
    finish(store, 3)
    store.rounds.update(1, stage="propagate")
    finish_round(store, 1)
    store.rounds.update(1, ended_at=store.rounds.get(1).started_at.replace(year=2020))
    for page in store.pages.rows():
        for _ in range(3):
            answer(store, page.key, 3, wrong=True)
    live(store).save()
    newest = store.rounds.newest()
    if newest is not None and newest.number > 1:  # only the newest round can be opened again
        with store.session() as session:
            session.delete(newest)
    cluster = accepted(store)
    decide(store, 1, cluster.class_id, cluster.cluster, "split", "cell")
    assert store.rounds.get(1).stage == "verify"
    turn(store)
    before = sorted((d.class_id, d.cluster, d.kind, d.asked, d.yes) for d in store.decisions.rows())
    replay(store)
    assert before == sorted((d.class_id, d.cluster, d.kind, d.asked, d.yes) for d in store.decisions.rows())
