"""Budgets: questions, hours and money, and when a campaign goes on."""

import pytest

from campaign.derived.spending import prospects, questions_allowed, round_budget
from campaign.settings import parse_settings
from campaign.steps.propagate import finish_round
from ml_backend.errors import InputError
from tests.campaign.builders import answer, finish, gold_store, turn


@pytest.mark.parametrize(
    ("search", "wage", "allowed"),
    [
        ({}, None, None),
        ({"budget_questions": 70}, None, 70),
        ({"budget_hours": 0.1}, None, 180),
        ({"budget_hours": 0.1, "seconds_per_answer": 1.5}, None, 240),
        ({"budget_money": 2}, 20, 180),
        ({"budget_money": 2, "budget_hours": 0.05, "budget_questions": 500}, 20, 90),
    ],
)
def test_hours_and_money_become_questions(tmp_path, search, wage, allowed):
    store = gold_store(tmp_path / "a", {"gold_share": 0, "wage_per_hour": wage}, search)
    assert questions_allowed(store) == allowed


def test_the_measured_pace_replaces_the_expected_one(tmp_path, monkeypatch):
    monkeypatch.setattr("campaign.derived.spending.MEASURED", 15)
    store = gold_store(tmp_path / "a", {"gold_share": 0}, {"budget_hours": 0.1})
    for key in turn(store)[:2]:  # 15 answers in 60 seconds each
        answer(store, key, 1, lead_time=60)
    assert questions_allowed(store) == 30 + (360 - 120) // 4


def test_money_needs_a_wage():
    with pytest.raises(InputError, match=r"quality\.wage_per_hour: expected a wage, which search.budget_money needs"):
        parse_settings({"name": "t", "search": {"budget_money": 5}}, "settings")


def test_no_more_is_asked_than_the_hours_allow(tmp_path):
    store = gold_store(tmp_path / "a", {"gold_share": 0}, {"budget_hours": 20 * 2 / 3600, "policy": "paper"})
    assert round_budget(store, 1) == 10  # of two rounds
    turn(store)
    assert store.questions.count() <= 10


@pytest.mark.parametrize(("budget", "begun"), [(None, 30), (100, 15)])
def test_a_budget_is_not_spread_over_all_clusters_at_once(tmp_path, monkeypatch, budget, begun):
    monkeypatch.setattr("campaign.pages.planning.OPEN_PAGES", 1)
    store = gold_store(tmp_path / "a", {"gold_share": 0}, {"budget_questions": budget})
    keys = turn(store)
    assert store.questions.count() == begun
    for key in keys:
        answer(store, key, 1)
    turn(store)
    assert store.questions.count() > begun


@pytest.mark.parametrize(("least_new", "follows"), [(0.0, True), (0.5, True), (1.0, True)])
def test_the_first_round_brings_enough(tmp_path, least_new, follows):
    store = gold_store(tmp_path / "a", {"gold_share": 0})
    store.settings.rounds.least_new = least_new
    finish(store, 1)
    store.rounds.update(1, stage="propagate")
    finish_round(store, 1)
    assert (store.rounds.newest().number == 2) == follows


@pytest.mark.parametrize(("least_new", "follows"), [(0.0, True), (0.2, True), (0.6, False)])
def test_a_round_that_adds_too_little_is_the_last(tmp_path, least_new, follows, monkeypatch):
    store = gold_store(tmp_path / "a", {"gold_share": 0})
    store.settings.rounds.least_new, store.settings.rounds.rounds = least_new, 3
    finish(store, 1)
    store.rounds.update(1, stage="propagate")
    finish_round(store, 1)
    store.rounds.update(2, stage="propagate")
    first = store.datasets.read(before=2)
    monkeypatch.setattr("campaign.steps.propagate.obtained", lambda *_: first.select(slice(0, len(first) // 2)))
    finish_round(store, 2)
    assert (store.rounds.newest() is not None and store.rounds.newest().number == 3) == follows


def test_forecast_of_a_running_round(tmp_path):
    store = gold_store(tmp_path / "a", {"gold_share": 0})
    turn(store)
    ahead = prospects(store, 60)
    assert ahead and all(p.low <= p.masks <= p.high for p in ahead) and ahead[-1].masks > 20
    store.rounds.update(1, stage="done")
    with pytest.raises(InputError, match="forecast: expected a round at stage verify"):
        prospects(store, 60)
