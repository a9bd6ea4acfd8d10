"""What each policy does with the answers of one cluster."""

from __future__ import annotations

import pytest

from campaign.policies import Paper, lower_bound, make_policy
from campaign.search import Evidence, Outcome
from campaign.thresholds import Thresholds
from ml_backend.errors import InputError

THRESHOLDS = Thresholds(0.2, 0.7)


def evidence(yes=0, no=0, unsure=0, size=1000, score=0.9) -> Evidence:
    return Evidence(0, size, score, yes=yes, no=no, unsure=unsure)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (evidence(score=0.2), "reject"),
        (evidence(score=0.21), "split"),
        (evidence(score=0.7), "split"),
        (evidence(score=0.71), 15),
        (evidence(size=4), 4),
        (evidence(13, 2), "accept"),
        (evidence(12, 3), "split"),
        (evidence(3, 12), "split"),
        (evidence(2, 13), "reject"),
        (evidence(12, 2, 1), 1),
        (evidence(0, 0, 15), 15),
        (evidence(0, 0, 30), "split"),
        (evidence(14, 0, 16), "accept"),
        (evidence(1, 0, size=1), "accept"),
        (evidence(0, 1, size=1), "reject"),
    ],
)
def test_paper(given, expected):
    outcome = Paper().consider(given, THRESHOLDS)
    assert (outcome.kind if isinstance(outcome, Outcome) else outcome) == expected


@pytest.mark.parametrize(
    ("n_s", "k_a", "yes", "kind"), [(20, 0.85, 17, "accept"), (20, 0.85, 3, "reject"), (5, 0.8, 4, "accept")]
)
def test_paper_at_the_very_threshold(n_s, k_a, yes, kind):
    assert Paper(n_s, k_a).consider(evidence(yes, n_s - yes), THRESHOLDS).kind == kind


@pytest.mark.parametrize(
    ("yes", "n", "size", "expected"),
    # 0.6366 is the table value of the exact binomial bound for 13 of 15
    [
        (13, 15, 10**6, 0.6366),
        (15, 15, 10**6, 0.05 ** (1 / 15)),
        (4, 4, 4, 1.0),
        (0, 15, 100, 0.0),
        (13, 15, 16, 13 / 16),
    ],
)
def test_lower_bound(yes, n, size, expected):
    assert lower_bound(yes, n, size) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Paper(n_s=0), "n_s: expected a whole number of at least 1, got 0"),
        (lambda: Paper(k_a=0.5), "k_a: expected a quality above 0.5 and up to 1, got 0.5"),
        (lambda: make_policy("papr"), "policy: expected one of paper"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(InputError) as error:
        build()
    assert str(error.value).startswith(message)
