"""Trust: rates, withdrawal, gold among the questions."""

import numpy as np
import pytest

from campaign.quality.measures import (
    NEAR_SHARE,
    GoldAnswer,
    GoldMask,
    WithdrawnInterval,
    chances_of_luck,
    draw_gold,
    first_answers,
    gold_quota,
    is_chosen,
    is_near,
    opening_wanted,
    page_order,
    passed,
    rate,
    reliability,
    watch,
)
from campaign.records.verdict import Verdict
from campaign.settings import QualitySettings

Y, N, U = Verdict.YES, Verdict.NO, Verdict.UNSURE


def gold(pairs, start=0):
    return [GoldAnswer("a", start + i, t, v, f"{start + i:06d}") for i, (t, v) in enumerate(pairs)]


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    # From published tables of exact binomial limits.
    [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (9, 10, 0.5550, 0.9975), (45, 50, 0.7819, 0.9667)],
)
def test_intervals_are_exact(right, asked, low, high):
    share = rate(right, asked)
    assert share.value == right / asked and share.asked == asked
    assert (share.low, share.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert rate(0, 0) is None


def test_sensitivity_and_specificity_leave_unsure_answers_out():
    own = reliability(gold([(Y, Y), (Y, Y), (Y, N), (N, N), (N, Y), (N, U), (Y, U)]))
    assert own.sensitivity.value == pytest.approx(2 / 3) and own.specificity.value == 0.5
    assert own.unsure.value == pytest.approx(2 / 7) and own.asked == 7
    assert reliability([]).asked == 0


def test_a_mask_seen_again_counts_once():
    answers = [GoldAnswer("a", 1, Y, N, "1"), GoldAnswer("a", 1, Y, Y, "2"), GoldAnswer("b", 1, Y, Y, "3")]
    assert [(a.user, a.verdict) for a in first_answers(answers)] == [("a", N), ("b", Y)]


@pytest.mark.parametrize(
    ("pairs", "limit", "out"), [([], 0.8, False), ([(Y, Y)] * 8 + [(N, Y)] * 2, 0.8, True), ([(Y, U)] * 5, 0.8, False)]
)
def test_qualification(pairs, limit, out):
    assert passed(gold(pairs), limit) is out


def test_withdrawal_begins_where_carelessness_began_and_ends_where_it_ended():
    good, bad = [(Y, Y), (N, N)] * 20, [(Y, N), (N, Y)] * 5
    answers = gold(good + bad + good + good)
    (interval,) = watch(answers, 0.06, 0.22)
    assert interval.since == answers[39].at, "since the last answer before the first wrong one"
    assert interval.noticed < answers[50].at and answers[50].at < interval.until < answers[90].at
    assert not interval.holds(answers[10].at) and interval.holds(answers[45].at) and not interval.holds(answers[-1].at)


def test_a_user_who_is_careless_from_the_start_loses_every_answer():
    (interval,) = watch(gold([(Y, N)] * 8), 0.06, 0.22)
    assert interval.since == "" and interval.until is None and interval.holds("000000")


def test_unsure_answers_withdraw_nothing():
    assert watch(gold([(Y, U)] * 50), 0.06, 0.22) == []


def simulate(error: float, seed: int, answers: int) -> bool:
    """Whether a user with this share of errors is noticed within so many answers, gold being hidden as planned."""
    settings = QualitySettings(gold_share=0.1)
    rng = np.random.default_rng(seed)
    gold_answers: list[GoldAnswer] = []
    for page in range(answers // 15):
        opening = opening_wanted({"a": len(gold_answers)}, 0, settings.gold_opening, newcomers=0)
        for _ in range(gold_quota(15, page, settings.gold_share, opening)):
            if rng.random() < NEAR_SHARE:
                continue  # says nothing of carelessness
            truth = Verdict(len(gold_answers) % 2)
            verdict = Verdict(1 - truth) if rng.random() < error else truth
            gold_answers.append(GoldAnswer("a", len(gold_answers), truth, verdict, f"{len(gold_answers):06d}"))
        if watch(gold_answers, settings.error_accepted, settings.error_limit):
            return True
    return False


def test_a_careless_user_is_found_within_105_answers_and_a_careful_one_is_not_withdrawn():
    careless = np.mean([simulate(0.30, seed, 105) for seed in range(500)])
    careful = np.mean([simulate(0.03, seed, 60) for seed in range(500, 1000)])
    patient = np.mean([simulate(0.03, seed, 1500) for seed in range(1000, 1500)])
    assert careless >= 0.95
    assert careful <= 0.02 and patient <= 0.02


def test_one_question_in_ten_is_gold_once_users_are_known():
    rooms = [gold_quota(15, page, 0.1, opening=False) for page in range(200)]
    assert sum(rooms) == 300 and set(rooms) == {1, 2}
    assert gold_quota(15, 0, 0.1, opening=True) == 8
    assert gold_quota(15, 0, 0.0, opening=True) == 0


@pytest.mark.parametrize(
    ("answered", "waiting", "wanted"),
    [({}, 0, True), ({}, 30, False), ({"a": 30}, 0, True), ({"a": 30}, 30, False), ({"a": 10}, 40, True)],
)
def test_opening_pages_wait_for_each_newcomer(answered, waiting, wanted):
    assert opening_wanted(answered, waiting, opening=30) is wanted


def test_gold_is_balanced_never_drawn_twice_and_independent_of_order():
    supply = [GoldMask(i, 1 + i % 2, Verdict(i // 2 % 2)) for i in range(80)]
    used = {}
    for _ in range(10):
        drawn = draw_gold(supply, used, 1, 4, seed=3, k_iou=0.75)
        assert drawn == draw_gold(supply[::-1], used, 1, 4, seed=3, k_iou=0.75)
        assert len(drawn) == 4 and all(m.class_id == 1 and m.mask_id not in used for m in drawn)
        assert sum(m.truth == Y for m in drawn) == 2
        used |= {m.mask_id: m for m in drawn}
    assert draw_gold(supply, used, 1, 4, seed=3, k_iou=0.75) == []


def test_gold_of_one_kind_alone_soon_ends():
    supply = [GoldMask(i, 1, Y) for i in range(80)]
    assert 0 < len(draw_gold(supply, {}, 1, 50, seed=0, k_iou=0.75)) < 10


def gold_of_every_iou(count, k_iou=0.75, seed=0):
    iou = np.random.default_rng(seed).beta(2, 1, count)
    near = is_near(iou, k_iou).tolist()
    return [GoldMask(i, 1, Verdict(int(v >= k_iou)), v, 0, near[i]) for i, v in enumerate(iou.tolist())]


@pytest.mark.parametrize("k_iou", [0.5, 0.75, 0.8])
@pytest.mark.parametrize("pages", [1, 40])
def test_gold_is_as_often_correct_as_wrong_and_two_fifths_near_the_threshold_evenly(k_iou, pages):
    supply, used = gold_of_every_iou(5000, k_iou), {}
    for _ in range(pages):
        used |= {m.mask_id: m for m in draw_gold(supply, used, 1, 200 // pages, seed=3, k_iou=k_iou)}
    iou = np.array([m.iou for m in used.values()])
    steps, _ = np.histogram(iou, k_iou + np.array([-0.15, -0.10, -0.05, 0, 0.05, 0.10]))
    assert len(iou) == 200 and sum(m.truth == Y for m in used.values()) == 100
    assert steps.sum() == pytest.approx(80, abs=2) and steps.max() - steps.min() <= 2
    assert all(m.near for m in used.values() if k_iou - 0.149 < m.iou < k_iou + 0.049)


def test_gold_near_the_threshold_makes_up_for_what_was_clear_alone():
    supply = gold_of_every_iou(5000)
    clear = [m for m in supply if not 0.6 <= m.iou < 0.85]
    used = {m.mask_id: m for m in draw_gold(clear, {}, 1, 60, seed=0, k_iou=0.75)}
    more = draw_gold(supply, used, 1, 20, seed=1, k_iou=0.75)
    assert all(0.6 < m.iou < 0.85 for m in more)


def test_without_masks_near_the_threshold_all_gold_is_clear():
    supply = [m for m in gold_of_every_iou(2000) if not 0.6 <= m.iou < 0.85]
    drawn = draw_gold(supply, {}, 1, 50, seed=0, k_iou=0.75)
    assert len(drawn) == 50 and sum(m.truth == Y for m in drawn) == 25


@pytest.mark.parametrize(
    ("iou", "near"), [(0.6, False), (0.601, True), (0.75, True), (0.799, True), (0.8, False), (np.nan, False)]
)
def test_what_is_near_the_threshold(iou, near):
    assert bool(is_near(np.array([iou]), 0.75)[0]) is near


def luck(pairs):
    """The chance of bad luck of a user who is found out at their sixth gold answer, beside one of whom nothing is."""
    answers = gold([(Y, Y)] * 3 + [(Y, N), (N, Y), (N, Y)] + pairs)
    intervals = {"a": [WithdrawnInterval("", answers[5].at, None, 3, 6)]}
    ((_, chance),) = chances_of_luck({"a": answers, "b": gold([(Y, Y)] * 50)}, intervals, 0.06, 0.22)["a"]
    return chance


def test_bad_luck_and_carelessness_come_out_with_more_gold():
    assert 0.1 < luck([]) < 0.6 and luck([(Y, U)] * 9) == luck([])
    assert luck([(Y, Y)] * 30) > 0.95
    assert luck([(Y, N), (Y, Y)] * 10) < 0.001 and luck([(Y, N)] * 2000) < 1e-100
    assert chances_of_luck({"b": gold([(Y, N)])}, {}, 0.06, 0.22) == {}


def test_gold_lies_anywhere_on_a_page_and_real_masks_keep_their_order():
    places = set()
    for n in range(200):
        shown = page_order(f"page {n}", [(9, False), (5, False), (7, False), (1000, True)])
        assert [m for m in shown if m < 1000] == [5, 7, 9]
        places.add(shown.index(1000))
    assert places == {0, 1, 2, 3}
    assert page_order("p", [(2, False), (1, False)]) == [1, 2]


def test_the_share_of_pages_answered_twice_is_kept():
    assert sum(is_chosen(f"page {n}", 0.2) for n in range(2000)) == pytest.approx(400, abs=60)
    assert not any(is_chosen(f"page {n}", 0) for n in range(100))
