"""Simulated annotators."""

from __future__ import annotations

import numpy as np
import pytest

from campaign.records.verdict import Verdict
from campaign.simulation.annotators import Annotators
from ml_backend.errors import InputError

IOU = np.random.default_rng(0).beta(2, 1, 200_000)
CORRECT = IOU >= 0.75


@pytest.mark.parametrize("error", [0.0, 0.02, 0.05])
@pytest.mark.parametrize("near", [0.0, 0.5, 1.0])
def test_error_rate(error, near):
    verdict = Annotators(error, near=near).verdicts(IOU, seed=3)
    assert np.mean(verdict != CORRECT) == pytest.approx(error, abs=0.004)


def test_mistakes_lie_near_k_iou_and_are_shared():
    annotators = Annotators(0.05, near=1.0)
    first, second = (annotators.verdicts(IOU, 3, repeat) for repeat in (0, 1))
    wrong = first != CORRECT
    assert np.array_equal(first, second)
    assert np.quantile(abs(IOU[wrong] - 0.75), 0.95) < 0.2


@pytest.mark.parametrize("error", [0.0, 0.05])
def test_errors_are_against_an_eye_that_cuts_elsewhere(error):
    verdict = Annotators(error, near=1.0, eye_cut=0.70).verdicts(IOU, 3)
    wrong = verdict != (IOU >= 0.70)
    assert np.mean(wrong) == pytest.approx(error, abs=0.004)
    assert np.median(IOU[wrong]) == pytest.approx(0.70, abs=0.03) if error else not wrong.any()
    assert np.array_equal(Annotators(error, eye_cut=0.75).verdicts(IOU, 3), Annotators(error).verdicts(IOU, 3))


def test_slips_are_each_users_own():
    annotators = Annotators(0.1, near=0.0, users=3, spread=0.0)
    first, second = (annotators.verdicts(IOU, 3, repeat) != CORRECT for repeat in (0, 1))
    assert np.mean(first & second) == pytest.approx(0.01, abs=0.002)
    alone = Annotators(0.1, near=0.0, users=1)
    assert np.array_equal(alone.verdicts(IOU, 3, 0), alone.verdicts(IOU, 3, 1))


def test_unsure_and_repeatable():
    annotators = Annotators(0.05, unsure=0.1)
    verdict = annotators.verdicts(IOU, seed=8)
    assert np.mean(verdict == Verdict.UNSURE) == pytest.approx(0.1, abs=0.004)
    assert np.array_equal(verdict, annotators.verdicts(IOU, seed=8))
    assert not np.array_equal(verdict, annotators.verdicts(IOU, seed=9))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"error": 0.5}, "error: expected a share from 0 to below 0.5, got 0.5"),
        ({"unsure": -0.1}, "unsure: expected a share from 0 to below 0.5, got -0.1"),
        ({"near": 2}, "near: expected a share from 0 to 1, got 2"),
        ({"users": 0}, "users: expected at least 1, got 0"),
        ({"eye_cut": 1.2}, "eye_cut: expected an IoU above 0 and below 1, got 1.2"),
    ],
)
def test_bad_settings(given, message):
    with pytest.raises(InputError) as error:
        Annotators(**given)
    assert str(error.value) == message
