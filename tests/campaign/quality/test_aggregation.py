"""One verdict per mask out of several answers."""

from __future__ import annotations

import numpy as np
import pytest

from campaign.quality.aggregation import Opinion, aggregate
from campaign.records.verdict import Verdict
from ml_backend.errors import InputError

NO, YES, UNSURE = Verdict


def opinions(table: dict[str, list[Verdict]]) -> list[Opinion]:
    return [Opinion(mask, f"user{i}", v) for mask, given in table.items() for i, v in enumerate(given)]


@pytest.mark.parametrize(
    ("given", "expected"),
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
def test_majority(given, expected):
    assert aggregate(opinions({"m": given})).verdicts == {"m": expected}


def test_certainty():
    found = aggregate(opinions({1: [YES, YES, NO], 2: [YES] * 4 + [NO]}), certainty=0.7)
    assert found.verdicts == {1: UNSURE, 2: YES}


def test_dawid_skene_listens_to_the_careful():
    pytest.importorskip("crowdkit")
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 300)
    error = [0.03, 0.03, 0.42, 0.42, 0.42]
    given = [
        Opinion(mask, user, Verdict(int(truth[mask] ^ (rng.random() < error[user]))))
        for mask in range(300)
        for user in range(5)
    ]
    wrong = {}
    for method in ("majority", "dawid-skene"):
        found = aggregate(given, method)
        wrong[method] = sum(found.verdicts[mask] != truth[mask] for mask in range(300))
    assert wrong["dawid-skene"] < 20 < wrong["majority"]
    rates = found.annotators
    assert min(rates[0]) > 0.9 and max(rates[4]) < 0.75
    shuffled = [given[i] for i in rng.permutation(len(given))]
    assert aggregate(shuffled, "dawid-skene").verdicts == found.verdicts


def test_nothing_certain():
    found = aggregate(opinions({"a": [UNSURE]}), "dawid-skene")
    assert found.verdicts == {"a": UNSURE} and found.annotators == {}
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
