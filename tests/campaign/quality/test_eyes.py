"""Eyes: curves that fit what people say, intervals that hold what is true, the same in any order."""

import numpy as np
import pytest

from campaign.quality.eyes import Eye, fit_eyes
from campaign.quality.measures import GoldAnswer, chances_of_luck, watch
from campaign.records.verdict import Verdict
from ml_backend.errors import InputError

K_IOU = 0.75


def gold_ious(rng, n):
    """As gold is drawn: two fifths evenly around the threshold, the rest clear."""
    clear = np.where(rng.random(n) < 0.57, rng.uniform(0.85, 1, n), rng.uniform(0, 0.6, n))
    return np.where(rng.random(n) < 0.4, rng.uniform(K_IOU - 0.15, K_IOU + 0.1, n), clear)


def pool_ious(n=2000):
    """As a detector predicts: most masks lie near the threshold, on either side."""
    rng = np.random.default_rng(5)
    part = rng.random(n)
    good, fair = np.clip(rng.normal((0.82, 0.68), (0.08, 0.1), (n, 2)), 0, 1).T
    return np.where(part < 0.45, good, np.where(part < 0.8, fair, rng.uniform(0, 0.6, n)))


def answers(eyes, n, seed):
    """Answers on gold of users with these eyes: IoU, yes, user."""
    rng = np.random.default_rng((seed, n))
    iou, user = gold_ious(rng, n), rng.integers(0, len(eyes), n)
    chance = np.choose(user, [eye.chance(iou) for eye in eyes])
    return iou, rng.random(n) < chance, user.astype(str)


CROWDS = {
    "sharp": [Eye(0.75, 0.005, 0.03, 0.03)],
    "shifted": [Eye(0.70, 0.02, 0.02, 0.02)],
    "blunt, shifted and careless": [Eye(0.70, 0.03, 0.05, 0.05)],
    "a step": [Eye(0.70, 0.0, 0.02, 0.02)],
    "different": [Eye(0.68, 0.01, 0.02, 0.02), Eye(0.74, 0.02, 0.02, 0.03), Eye(0.80, 0.01, 0.05, 0.02)],
}


def covered(crowd, n, simulations, level=0.9, seed=0):
    """How often the interval holds the share of wrong masks passed, and how often its upper end is not below it."""
    pool = pool_ious()
    wrong = pool[pool < K_IOU]
    truth = np.mean([eye.chance(wrong) for eye in crowd], axis=0).sum() / len(pool)
    inside = above = 0
    for run in range(simulations):
        passed = fit_eyes(*answers(crowd, n, (seed, run)), K_IOU, seed=run).chances(wrong).sum(1) / len(pool)
        low, high = np.quantile(passed, [(1 - level) / 2, (1 + level) / 2])
        inside += low <= truth <= high
        above += truth <= high
    return inside / simulations, above / simulations


@pytest.mark.parametrize("name", CROWDS)
@pytest.mark.parametrize("n", [60, 250])
def test_intervals_hold_what_is_true(name, n):
    # 40 runs of 90 %: fewer than 30 have a chance of one in a thousand.
    inside, above = covered(CROWDS[name], n, 40)
    assert inside >= 0.75 and above >= 0.775


def test_the_curve_is_found():
    true = Eye(0.70, 0.015, 0.04, 0.02)
    eyes = fit_eyes(*answers([true], 4000, 1), K_IOU)
    assert eyes.crowd.cut == pytest.approx(0.70, abs=0.006) and eyes.crowd.width == pytest.approx(0.015, abs=0.006)
    assert eyes.crowd.pass_rate == pytest.approx(0.04, abs=0.015)
    assert eyes.crowd.miss_rate == pytest.approx(0.02, abs=0.015)
    low, high = eyes.cut_interval
    assert low < 0.70 < high < low + 0.02 and eyes.answers == 4000


def test_without_answers_the_eyes_are_what_is_believed():
    eyes = fit_eyes(np.zeros(0), np.zeros(0, bool), np.zeros(0, str), K_IOU)
    assert eyes.answers == 0 and eyes.users == {} and eyes.draws.shape == (1000, 4)
    assert eyes.crowd.cut == pytest.approx(K_IOU, abs=0.01) and 0.03 < eyes.draws[:, 0].std() < 0.07
    assert (eyes.draws[:, 1] > 0).all() and eyes.draws[:, 2:].mean() == pytest.approx(0.034, abs=0.01)
    chances = eyes.chances([0.1, 0.95])
    assert chances.shape == (1000, 2) and chances[:, 0].mean() < 0.08 and chances[:, 1].mean() > 0.92


def test_the_order_of_answers_and_the_time_of_day_change_nothing():
    iou, yes, user = answers(CROWDS["different"], 150, 3)
    weight = np.random.default_rng(0).uniform(0.5, 2, 150)
    first = fit_eyes(iou, yes, user, K_IOU, weight, seed=4)
    order = np.random.default_rng(1).permutation(150)
    again = fit_eyes(iou[order], yes[order], user[order], K_IOU, weight[order], seed=4)
    assert np.array_equal(first.draws, again.draws) and first.crowd == again.crowd
    assert first.users == again.users and first.cuts == again.cuts
    assert not np.array_equal(first.draws, fit_eyes(iou, yes, user, K_IOU, weight, seed=5).draws)


def test_users_are_told_apart_and_newcomers_are_like_the_others():
    rng = np.random.default_rng(0)
    iou = gold_ious(rng, 400)
    user = np.repeat(["strict", "lax", "new"], [195, 195, 10])
    cut = np.select([user == "strict", user == "lax"], [0.80, 0.68], 0.70)
    eyes = fit_eyes(iou, iou >= cut, user, K_IOU)
    assert eyes.users["strict"].cut == pytest.approx(0.80, abs=0.02)
    assert eyes.users["lax"].cut == pytest.approx(0.68, abs=0.02)
    assert 0.69 < eyes.users["new"].cut < 0.79
    low, high = eyes.cuts["new"]
    assert high - low > 2 * (eyes.cuts["lax"][1] - eyes.cuts["lax"][0])


def test_weights_say_whose_answers_the_crowd_is():
    iou = np.tile(gold_ious(np.random.default_rng(0), 200), 2)
    user = np.repeat(["strict", "lax"], 200)
    yes = iou >= np.where(user == "strict", 0.80, 0.68)
    lax = fit_eyes(iou, yes, user, K_IOU, np.where(user == "lax", 1.0, 0.0))
    even = fit_eyes(iou, yes, user, K_IOU)
    assert lax.crowd.cut == pytest.approx(0.68, abs=0.01) and lax.answers == 200
    assert 0.71 < even.crowd.cut < 0.77
    scaled = fit_eyes(iou, yes, user, K_IOU, np.full(400, 17.0))
    assert scaled.crowd.cut == pytest.approx(even.crowd.cut, abs=1e-9), "weights are relative"


@pytest.mark.parametrize("said", [True, False])
def test_who_always_says_the_same_is_seen_through(said):
    iou = gold_ious(np.random.default_rng(0), 80)
    eye = fit_eyes(iou, np.full(80, said), np.full(80, "a"), K_IOU).crowd
    assert eye.chance(0.2) > 0.8 if said else eye.chance(0.98) < 0.2


def test_a_step_is_a_curve():
    eye = Eye(0.75, 0.0, 0.02, 0.01)
    assert eye.chance(np.array([0.0, 0.7499, 0.7501, 1.0])) == pytest.approx([0.02, 0.02, 0.99, 0.99])
    assert Eye(0.75, 0.01, 0.0, 0.0).chance(0.75) == 0.5


def crowd_of(rates, seed):
    """Clear gold of users with these shares of errors: columns for `fit_eyes`, and each answer's chance of luck."""
    rng = np.random.default_rng(seed)
    said, columns = {}, []
    for number, rate in enumerate(rates):
        iou = gold_ious(rng, 60)
        iou = iou[(iou < 0.6) | (iou > 0.8)]
        yes = (iou >= K_IOU) ^ (rng.random(len(iou)) < rate)
        said[str(number)] = [
            GoldAnswer(str(number), i, Verdict(int(v >= K_IOU)), Verdict(int(y)), f"{i:03d}")
            for i, (v, y) in enumerate(zip(iou, yes, strict=True))
        ]
        columns.append((iou, yes, np.full(len(iou), str(number))))
    intervals = {user: times for user, own in said.items() if (times := watch(own, 0.06, 0.22))}
    known = chances_of_luck(said, intervals, 0.06, 0.22)
    luck = [
        min((chance for t, chance in known.get(user, ()) if t.holds(a.at)), default=1.0)
        for user, own in said.items()
        for a in own
    ]
    return tuple(np.concatenate(c) for c in zip(*columns, strict=True)), np.array(luck)


def passed_wrong(rates, weigh):
    """The crowd's pass rate over several campaigns, each answer on gold weighted by `weigh(its chance of luck)`."""
    runs = (crowd_of(rates, seed) for seed in range(12))
    return np.mean([fit_eyes(*columns, K_IOU, weigh(luck)).crowd.pass_rate for columns, luck in runs])


def test_who_was_unlucky_is_not_left_out_and_who_is_careless_is():
    everybody_errs = [0.12] * 12
    left_out, weighed, all_of_it = (
        passed_wrong(everybody_errs, weigh) for weigh in (lambda p: (p == 1) * 1.0, lambda p: p, np.ones_like)
    )
    assert left_out < 0.8 * all_of_it, "whoever is withdrawn was unlucky"
    assert weighed > 0.9 * all_of_it
    one_is_careless = [0.03] * 7 + [0.4]
    left_out, weighed, all_of_it = (
        passed_wrong(one_is_careless, weigh) for weigh in (lambda p: (p == 1) * 1.0, lambda p: p, np.ones_like)
    )
    assert abs(weighed - left_out) < 0.006 and all_of_it > weighed + 0.02


@pytest.mark.parametrize(
    ("iou", "yes", "message"),
    [
        ([0.5, 1.5], [True, False], "IoUs from 0 to 1"),
        ([0.5, np.nan], [True, False], "IoUs"),
        ([0.5], [True, False], "columns of one length"),
    ],
)
def test_bad_answers(iou, yes, message):
    with pytest.raises(InputError, match=message):
        fit_eyes(np.array(iou), np.array(yes), np.array(["a", "b"]), K_IOU)
