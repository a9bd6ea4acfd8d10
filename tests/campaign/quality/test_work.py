"""What annotators did, from columns: pace, flags and agreement."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from campaign.quality.work import (
    VOTES,
    WORK,
    Agreement,
    Opinions,
    cohen_kappa,
    fleiss_kappa,
    marks,
    work_flags,
    work_pace,
)

NAN = float("nan")


def work(*rows, **columns):
    """Rows of `WORK`: {column: value}, what is left out as `columns` or of an ordinary page."""
    ordinary = {"user": 0, "shown": 15, "seconds": 15.0} | columns
    table = np.zeros(len(rows), WORK)
    for n, row in enumerate(rows):
        for name, value in ({"page": n, "annotation": n, "time": 100.0 * n} | ordinary | row).items():
            table[name][n] = value
    return table


def page(*marked, **more):
    return {"marked": marks(marked)} | more


@pytest.mark.parametrize(
    ("rows", "lines"),
    [
        ([page() for _ in range(20)], []),
        ([page(seconds=1.0) for _ in range(5)], ["5 of 5 pages answered in less than 0.2 s per mask"]),
        ([page(seconds=1.0) for _ in range(2)], []),
        ([page(seconds=NAN) for _ in range(5)], []),
        ([page(1, 4, shown=5) for _ in range(6)], ["the same places marked on 6 of 6 pages: 2, 5"]),
        ([page(1, shown=2) for _ in range(6)], []),
        ([page(n, shown=8) for n in range(8)], []),
        (
            [page(wrong_gold=1) for _ in range(4)],
            ["4 of 4 pages that hold a wrong gold mask submitted untouched"],
        ),
        ([page(0, wrong_gold=1) for _ in range(3)] + [page(5 + n, wrong_gold=1) for n in range(2)], []),
        ([page(63 + n) for n in range(5)], ["the same places marked on 5 of 5 pages: 64"]),
    ],
)
def test_what_looks_careless_is_flagged(rows, lines):
    table = work(*rows)
    assert work_flags(table, 0.2) == work_flags(table[::-1], 0.2) == lines


def test_gaps_between_pages_count_and_breaks_do_not():
    table = work(
        {"time": 115.0},
        {"time": 131.0},  # shown one second after the first was submitted
        {"time": 4000.0},  # after lunch
        {"time": 120.0, "user": 1},
        {"time": 116.0, "user": 1, "seconds": NAN},
        {"time": NAN},  # when is not known
    )
    for rows in (table, table[::-1]):
        pace = work_pace(rows)
        assert pace == (75, 75.0, 1.0) and pace.per_answer == pytest.approx(76 / 75)
    assert work_pace(table[:0]).per_answer is None


def votes(*rows):
    """Rows of `VOTES` from (mask, user, verdict, fact)."""
    table = np.zeros(len(rows), VOTES)
    for n, row in enumerate(rows):
        for name, value in zip(("mask", "user", "verdict", "fact"), row, strict=True):
            table[name][n] = value
    table["class_id"] = table["mask"] // 100
    return table


def test_agreement_is_that_of_each_user_with_all_others_on_shared_masks():
    rng = np.random.default_rng(0)
    rows = [(mask, user, int(rng.integers(3)), mask * 10 + user) for mask in range(300) for user in range(3)]
    rows = [row for row in rows if rng.random() < 0.6]
    opinions = Opinions.of(votes(*rng.permutation(rows)))
    said = {(mask, user): verdict for mask, user, verdict, _ in rows}
    for user, agreed in enumerate(opinions.agreement(3)):
        pairs = [
            (said[m, user], said[m, o]) for m, u in said if u == user for o in range(3) if o != u and (m, o) in said
        ]
        own, others = zip(*pairs, strict=True)
        assert agreed == Agreement(pytest.approx(cohen_kappa_score(own, others)), len(pairs))
    assert opinions.kappa() == pytest.approx(0, abs=0.1) and set(opinions.kappa_by_class()) == {0, 1, 2}


def test_of_one_user_and_mask_the_last_word_counts():
    opinions = Opinions.of(votes((1, 0, 1, 5), (1, 0, 0, 9), (1, 1, 0, 3), (2, 0, 1, 4)))
    assert opinions.counts.tolist() == [[2, 0, 0]]
    assert opinions.kappa() == 1.0 and opinions.agreement(3) == [
        Agreement(1.0, 1),
        Agreement(1.0, 1),
        Agreement(None, 0),
    ]


def test_nothing_shared_is_no_agreement():
    opinions = Opinions.of(votes((1, 0, 1, 1), (2, 1, 1, 2)))
    assert opinions.kappa() is None and opinions.kappa_by_class() == {}
    assert Opinions.of(votes()).agreement(0) == []


def test_agreement_names_the_one_who_differs():
    rng = np.random.default_rng(1)
    truth, guess = rng.integers(0, 2, (2, 100))
    rows = [
        (mask, user, verdict, 3 * mask + user)
        for mask in range(100)
        for user, verdict in enumerate((truth[mask], truth[mask], guess[mask]))
    ]
    opinions = Opinions.of(votes(*rows))
    first, _, third = opinions.agreement(3)
    assert third.kappa < 0.3 < 0.5 < first.kappa and first.shared == 200
    assert opinions.kappa() == pytest.approx(1 / 3, abs=0.15)


def test_cohen_kappa_is_the_known_one():
    rng = np.random.default_rng(0)
    first = rng.integers(0, 3, 200)
    second = np.where(rng.random(200) < 0.7, first, rng.integers(0, 3, 200))
    table = np.zeros((3, 3), int)
    np.add.at(table, (first, second), 1)
    assert cohen_kappa(table) == pytest.approx(cohen_kappa_score(first, second))
    assert cohen_kappa(np.zeros((3, 3), int)) is None and cohen_kappa(np.diag([2, 0, 0])) == 1.0


def test_fleiss_kappa_is_the_published_example():
    # Fleiss 1971 as worked through in textbooks: ten subjects, fourteen raters, five categories.
    table = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert fleiss_kappa(np.array(table)) == pytest.approx(0.20993, abs=1e-5)
    assert fleiss_kappa(np.array([[1, 0], [0, 1]])) is None
