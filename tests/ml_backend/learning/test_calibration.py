import numpy as np
import pytest

from ml_backend.learning.calibration import Calibration
from ml_backend.learning.evaluation import calibration_report


def overconfident(n, seed):
    rng = np.random.default_rng(seed)
    true = rng.beta(4, 2, n)
    return np.clip(0.5 + true / 2 + rng.normal(0, 0.05, n), 0, 1).astype(np.float32), true


def test_fit_makes_new_predictions_honest():
    calibration = Calibration.fit(*overconfident(2000, 0))
    predicted, true = overconfident(2000, 1)
    before, after = calibration_report(predicted, true), calibration_report(calibration(predicted), true)
    assert before.error > 0.1
    assert after.error < 0.03
    assert after.correlation > before.correlation - 0.02


def test_order_is_kept():
    calibration = Calibration.fit(*overconfident(500, 0))
    raw = np.linspace(0, 1, 201)
    assert (np.diff(calibration(raw)) > 0).all()
    assert calibration(raw).min() >= 0
    assert calibration(raw).max() <= 1


@pytest.mark.parametrize("true", [0.0, 0.5, 0.9995, 1.0])
def test_knots_rise_strictly_even_where_all_masks_are_worth_the_same(true):
    predicted = np.random.default_rng(0).uniform(0, 1, 1000).astype(np.float32)
    calibration = Calibration.fit(predicted, np.full(1000, true))
    assert (np.diff(calibration.raw) > 0).all()
    assert (np.diff(calibration.calibrated) > 0).all()
    assert calibration.calibrated[0] >= 0
    assert calibration.calibrated[-1] <= 1
    assert calibration(np.array([0.5])) == pytest.approx(true, abs=3e-3)


@pytest.mark.parametrize("n", [0, 1, 99])
def test_too_few_masks_change_nothing(n):
    predicted, true = overconfident(n, 0)
    calibration = Calibration.fit(predicted, true)
    assert np.array_equal(calibration(predicted), predicted)


def test_one_value_for_all():
    calibration = Calibration.fit(np.full(300, 0.9, np.float32), np.full(300, 0.5))
    assert calibration(np.array([0.9]))[0] == pytest.approx(0.5, abs=0.05)
