"""Trust: rates, kappas, withdrawal, gold among the questions, speed."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from campaign.quality.measures import (
    GoldAnswer,
    GoldMask,
    PageAnswer,
    agreement,
    cohen_kappa,
    draw_gold,
    first_answers,
    flags,
    fleiss_kappa,
    gold_quota,
    is_chosen,
    opening_wanted,
    pace,
    page_order,
    passed,
    rate,
    reliability,
    vote_counts,
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
            truth = Verdict(len(gold_answers) % 2)
            verdict = Verdict(1 - truth) if rng.random() < error else truth
            gold_answers.append(GoldAnswer("a", len(gold_answers), truth, verdict, f"{len(gold_answers):06d}"))
        if watch(gold_answers, settings.error_accepted, settings.error_limit):
            return True
    return False


def test_a_careless_user_is_found_within_60_answers_and_a_careful_one_is_not_withdrawn():
    careless = np.mean([simulate(0.30, seed, 60) for seed in range(500)])
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
        drawn = draw_gold(supply, used, 1, 4, seed=3)
        assert drawn == draw_gold(supply[::-1], used, 1, 4, seed=3)
        assert len(drawn) == 4 and all(m.class_id == 1 and m.mask_id not in used for m in drawn)
        assert sum(m.truth == Y for m in drawn) == 2
        used |= {m.mask_id: m.truth for m in drawn}
    assert draw_gold(supply, used, 1, 4, seed=3) == []


def test_gold_of_one_kind_alone_soon_ends():
    supply = [GoldMask(i, 1, Y) for i in range(80)]
    assert 0 < len(draw_gold(supply, {}, 1, 50, seed=0)) < 10


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


def test_cohen_kappa_is_the_known_one():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 3, 200)
    second = np.where(rng.random(200) < 0.7, first, rng.integers(0, 3, 200))
    assert cohen_kappa(first.tolist(), second.tolist()) == pytest.approx(cohen_kappa_score(first, second))
    assert cohen_kappa([], []) is None and cohen_kappa([Y, Y], [Y, Y]) == 1.0


def test_fleiss_kappa_is_the_published_example():
    # Fleiss 1971 as worked through in textbooks: ten subjects, fourteen raters, five categories.
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert fleiss_kappa(np.array(table)) == pytest.approx(0.20993, abs=1e-5)
    assert fleiss_kappa(np.array([[1, 0], [0, 1]])) is None


def test_agreement_names_the_one_who_differs():
    rng = np.random.default_rng(1)
    truth = [Verdict(int(v)) for v in rng.integers(0, 2, 100)]
    votes = {i: {"a": t, "b": t, "c": Verdict(int(rng.integers(0, 2)))} for i, t in enumerate(truth)}
    users = agreement(votes)
    assert users["c"].kappa < 0.3 < 0.5 < users["a"].kappa and users["a"].shared == 200
    assert fleiss_kappa(vote_counts(votes)) == pytest.approx(1 / 3, abs=0.15)
    assert agreement({1: {"a": Y}}) == {}


def page(n, verdicts, seconds=15.0, **more):
    return PageAnswer("a", f"p{n}", tuple(verdicts), seconds, 100.0 * n, **more)


@pytest.mark.parametrize(
    ("pages", "reasons"),
    [
        ([page(n, [Y] * 15) for n in range(20)], []),
        ([page(n, [Y] * 15, seconds=1.0) for n in range(5)], ["5 of 5 pages answered in less than 0.2 s per mask"]),
        ([page(n, [Y] * 15, seconds=None) for n in range(5)], []),
        (
            [page(n, [Y, N, Y, Y, N]) for n in range(6)],
            ["the same places marked on 6 of 6 pages: 2, 5"],
        ),
        ([page(n, [N if place == n else Y for place in range(8)]) for n in range(8)], []),
        (
            [page(n, [Y] * 15, wrong_gold=1) for n in range(4)],
            ["4 of 4 pages that hold a wrong gold mask submitted untouched"],
        ),
    ],
)
def test_what_looks_careless_is_flagged(pages, reasons):
    assert flags(pages, 0.2) == reasons


def test_gaps_count_and_breaks_do_not():
    pages = [
        PageAnswer("a", "1", (Y,) * 15, 15.0, 115.0),
        PageAnswer("a", "2", (Y,) * 15, 15.0, 131.0),  # shown one second after the first was submitted
        PageAnswer("a", "3", (Y,) * 15, 15.0, 4000.0),  # after lunch
        PageAnswer("b", "4", (Y,) * 15, None, 116.0),
    ]
    time = pace(pages)
    assert time == (45, 45.0, 1.0) and time.per_answer == pytest.approx(46 / 45)
    assert pace([]).per_answer is None
