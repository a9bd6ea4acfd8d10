"""One verdict per mask out of several answers."""

from __future__ import annotations

import numpy as np
import pytest

from campaign.quality.aggregation import Opinion, aggregate
from campaign.records.verdict import Verdict
from ml_backend.errors import InputError

NO, YES, UNSURE = Verdict


def opinions(table: dict[str, list[Verdict]]) -> list[Opinion]:
    return [Opinion(mask, f"user{i}", v) for mask, verdicts in table.items() for i, v in enumerate(verdicts)]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([YES], YES),
        ([NO], NO),
        ([UNSURE], UNSURE),
        ([YES, NO], UNSURE),
        ([YES, NO, YES], YES),
        ([NO, UNSURE, UNSURE], NO),
        ([YES, NO, UNSURE], UNSURE),
    ],
)
def test_majority(verdicts, expected):
    assert aggregate(opinions({"m": verdicts})).verdicts == {"m": expected}


def test_certainty():
    outcome = aggregate(opinions({1: [YES, YES, NO], 2: [YES] * 4 + [NO]}), certainty=0.7)
    assert outcome.verdicts == {1: UNSURE, 2: YES}


def test_dawid_skene_listens_to_the_careful():
    pytest.importorskip("crowdkit")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 300)
    error = [0.03, 0.03, 0.42, 0.42, 0.42]
    answers = [
        Opinion(mask, user, Verdict(int(truth[mask] ^ (rng.random() < error[user]))))
        for mask in range(300)
        for user in range(5)
    ]
    wrong = {}
    for method in ("majority", "dawid-skene"):
        outcome = aggregate(answers, method)
        wrong[method] = sum(outcome.verdicts[mask] != truth[mask] for mask in range(300))
    assert wrong["dawid-skene"] < 20 < wrong["majority"]
    rates = outcome.annotators
    assert min(rates[0]) > 0.9 and max(rates[4]) < 0.75
    shuffled = [answers[i] for i in rng.permutation(len(answers))]
    assert aggregate(shuffled, "dawid-skene").verdicts == outcome.verdicts


def test_nothing_certain():
    outcome = aggregate(opinions({"a": [UNSURE]}), "dawid-skene")
    assert outcome.verdicts == {"a": UNSURE} and outcome.annotators == {}
    assert aggregate([]).verdicts == {}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: aggregate([], "mean"), "aggregation: expected one of majority, dawid-skene, got mean"),
        (lambda: aggregate([], certainty=0.4), "certainty: expected a probability from 0.5 to below 1, got 0.4"),
    ],
)
def test_bad_settings(call, message):
    with pytest.raises(InputError) as error:
        call()
    assert str(error.value) == message
