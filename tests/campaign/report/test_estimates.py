import numpy as np
import pytest

from campaign.report.estimates import estimate, expected_correct, interval


@pytest.mark.parametrize(
    ("masks", "yes", "answered", "mean"),
    [(100, 15, 15, 100 * 15.5 / 16), (10, 0, 15, 10 * 0.5 / 16), (0, 3, 4, 0.0), (8, 0, 0, 4.0)],
)
def test_mean_of_the_correct_masks(masks, yes, answered, mean):
    expected = expected_correct(np.array([masks]), np.array([yes]), np.array([answered]))
    assert expected[0][0] == pytest.approx(mean)


def test_mean_and_variance_are_those_of_drawn_clusters():
    rng = np.random.default_rng(0)
    drawn = rng.binomial(50, rng.beta(13.5, 2.5, 200_000))
    mean, variance = expected_correct(np.array([50]), np.array([13]), np.array([15]))
    assert mean[0] == pytest.approx(drawn.mean(), rel=0.01)
    assert variance[0] == pytest.approx(drawn.var(), rel=0.02)


def test_interval_holds_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(1)
    quality = rng.beta(0.5, 0.5, (4000, 12))  # the prior of the estimate
    yes = rng.binomial(15, quality)
    correct = rng.binomial(60, quality).sum(axis=1) / (60 * 12)
    mean, variance = expected_correct(np.full(yes.shape, 60), yes, np.full(yes.shape, 15))
    _, low, high = interval(mean.sum(axis=1), variance.sum(axis=1), np.full(4000, 60 * 12))
    assert 0.93 < np.mean((low <= correct) & (correct <= high)) < 0.97


@pytest.mark.parametrize(
    ("mean", "variance", "masks", "expected"),
    [(3.0, 0.0, 3, (1.0, 1.0, 1.0)), (0.0, 0.0, 3, (0.0, 0.0, 0.0)), (1.5, 0.0, 3, (0.5, 0.5, 0.5))],
)
def test_without_variance_there_is_no_interval(mean, variance, masks, expected):
    share = estimate(mean, variance, masks)
    assert (share.value, share.low, share.high) == expected


def test_one_unasked_mask_may_be_right_or_wrong():
    mean, variance = expected_correct(np.array([1]), np.array([15]), np.array([15]))
    share = estimate(mean[0], variance[0], 1)
    assert (share.low, share.high) == pytest.approx((0, 1), abs=1e-6)


def test_no_masks_no_estimate():
    assert estimate(0.0, 0.0, 0) is None


def test_interval_stays_between_zero_and_one():
    share = estimate(9.9, 0.05, 10)
    assert share.value == pytest.approx(0.99)
    assert 0 <= share.low < share.value < share.high <= 1
