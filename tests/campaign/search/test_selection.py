"""What is delivered and what is asked, for one target over all masks; and which masks are rivals."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as mask_util

from campaign.records.verdict import Verdict
from campaign.search.rivals import Overlaps, overlaps_of, without_rivals
from campaign.search.selection import NONE, Beliefs, PerClass, gains, most_wanted, select
from ml_backend.predictions import Predictions

NO_PAIRS = (np.zeros(0, np.int64), np.zeros(0, np.int64))


def sure(chance: np.ndarray) -> Beliefs:
    """Annotators who never err."""
    return Beliefs(chance, np.zeros(len(chance), np.uint8), np.zeros(1), np.ones(1))


def test_the_largest_set_that_is_precise_enough_is_delivered():
    chance = np.array([0.5, 0.99, 0.95, 0.9, 0.2, 0.85])
    selection = select(sure(chance), np.full(6, NONE), NO_PAIRS, 0.9)
    assert selection.unasked.tolist() == [1, 2, 3, 5]
    bigger = select(sure(chance), np.full(6, NONE), NO_PAIRS, 0.8)
    assert bigger.unasked.tolist() == [1, 2, 3, 5, 0]


def test_masks_voted_yes_make_room_and_those_voted_no_are_gone():
    chance = np.array([0.9, 0.8, 0.7, 0.6])
    verdict = np.array([NONE, NONE, NONE, NONE], np.int8)
    assert select(sure(chance), verdict, NO_PAIRS, 0.9).size == 1
    verdict[3] = Verdict.YES
    assert select(sure(chance), verdict, NO_PAIRS, 0.9).unasked.tolist() == [0, 1]
    verdict[0] = Verdict.NO
    after = select(sure(chance), verdict, NO_PAIRS, 0.9)
    assert 0 not in after.candidates and after.kept.tolist() == [3]


def test_a_yes_that_is_worth_too_little_is_not_kept():
    kind = (np.arange(10) < 2).astype(np.uint8)
    beliefs = Beliefs(np.full(10, 0.9), kind, np.full(2, -0.05), np.array([1.0, 0.5]))
    verdict = np.full(10, Verdict.YES, np.int8)
    assert select(beliefs, verdict, NO_PAIRS, 0.95).kept.tolist() == list(range(2, 10))


def test_nothing_is_delivered_where_nothing_is_good_enough():
    selection = select(sure(np.full(5, 0.3)), np.full(5, NONE), NO_PAIRS, 0.9)
    assert selection.size == 0 and not len(selection.kept)
    empty = select(sure(np.zeros(0)), np.zeros(0, np.int8), NO_PAIRS, 0.9)
    assert empty.size == 0 and not len(gains(sure(np.zeros(0)), empty, 0.9))


def test_of_each_class_only_the_likeliest_masks_are_delivered_that_leave_it_precise_enough():
    chance = np.array([0.99, 0.98, 0.97, 0.99, 0.7, 0.6, 0.5, 0.5])
    class_id = np.array([1, 1, 1, 1, 2, 2, 2, 3])
    alone = select(sure(chance), np.full(8, NONE), NO_PAIRS, 0.8)
    each = select(sure(chance), np.full(8, NONE), NO_PAIRS, 0.8, PerClass(class_id, 0.65))
    assert sorted(alone.unasked.tolist()) == list(range(8))
    assert each.unasked.tolist() == [0, 3, 1, 2, 4], "0.65 of two of class 2 would be just enough, and not to be proved"
    assert sorted(each.candidates.tolist()) == list(range(8))
    verdict = np.full(8, NONE, np.int8)
    verdict[5] = Verdict.YES
    assert each.delivers(np.where(class_id == 3, 0.6, chance)).tolist() == [True] * 5 + [False] * 3
    more = select(sure(chance), verdict, NO_PAIRS, 0.8, PerClass(class_id, 0.65))
    assert 6 in more.unasked and more.kept.tolist() == [5], "a mask voted yes makes room in its class"


def test_of_classes_in_which_nothing_is_left_nothing_is_chosen():
    chance, class_id = np.array([0.9, 0.8]), np.array([1, 2])
    for n in (0, 2):  # no masks, and masks that are all voted no
        verdict = np.zeros(n, np.int8)
        chosen = select(sure(chance[:n]), verdict, NO_PAIRS, 0.9, PerClass(class_id[:n], 0.8))
        assert (chosen.size, len(chosen.candidates), len(chosen.kept)) == (0, 0, 0)
        assert len(gains(sure(chance[:n]), chosen, 0.9)) == 0


def test_a_question_is_worth_most_at_the_cut_of_a_class_that_binds():
    chance = np.concatenate([np.linspace(0.5, 0.999, 500), np.linspace(0.9, 0.999, 500)])
    class_id, none = np.repeat([1, 2], 500), np.full(1000, NONE)
    per_class = PerClass(class_id, 0.9)
    chosen = select(sure(chance), none, NO_PAIRS, 0.8, per_class)
    gain = gains(sure(chance), chosen, 0.8)
    own = class_id[chosen.candidates] == 1
    best = chance[chosen.candidates][own][gain[own].argmax()]
    cut = chance[chosen.unasked][class_id[chosen.unasked] == 1].min()
    assert cut > 0.75 and best == pytest.approx(cut, abs=0.03)
    assert (gain >= -1e-12).all() and gain[~own].max() < 0.1 * gain.max()
    assert len(chosen.unasked) < select(sure(chance), none, NO_PAIRS, 0.8).size


def test_a_question_is_worth_most_at_the_cut_and_nothing_where_the_answer_is_known():
    chance = np.linspace(0.001, 0.999, 999)
    selection = select(sure(chance), np.full(999, NONE), NO_PAIRS, 0.9)
    gain = gains(sure(chance), selection, 0.9)
    best = chance[selection.candidates][gain.argmax()]
    assert best == pytest.approx(selection.cut, abs=0.02)
    assert gain[0] < 0.1 * gain.max() and gain[-1] < 0.1 * gain.max()
    assert (gain >= -1e-12).all()


def test_the_gain_is_what_the_best_set_grows_by_when_the_answer_is_known():
    """Asking a mask at the cut and counting both answers, beside the set without asking: the price of slack is right
    to first order."""
    rng = np.random.default_rng(1)
    chance = np.sort(rng.beta(3, 1.5, 4000))[::-1]

    def correct(verdict: np.ndarray) -> float:
        s = select(sure(chance), verdict, NO_PAIRS, 0.9)
        return float(chance[s.unasked].sum() + len(s.kept))

    none = np.full(4000, NONE, np.int8)
    start = select(sure(chance), none, NO_PAIRS, 0.9)
    rows = np.arange(start.size - 20, start.size + 20)
    expected = gains(sure(chance), start, 0.9)[rows].sum()
    grown = []
    for seed in range(60):
        verdict = none.copy()
        verdict[rows] = np.where(np.random.default_rng(seed).random(40) < chance[rows], Verdict.YES, Verdict.NO)
        grown.append(correct(verdict) - correct(none))
    assert np.mean(grown) == pytest.approx(expected, rel=0.25)


def test_questions_are_spread_over_images_and_stop_at_the_price():
    gain, rows = np.array([0.9, 0.89, 0.88, 0.87, 0.8, 0.2]), np.arange(6)[::-1]
    image = np.array([3, 2, 1, 1, 1, 1])
    assert most_wanted(gain, rows, image, 0.5, per_image=2).tolist() == [0, 1, 4, 2, 3]
    assert most_wanted(gain, rows, np.full(6, -1), 0.5, per_image=2).tolist() == [0, 1, 2, 3, 4]
    assert not len(most_wanted(gain, rows, image, 1.0, per_image=2))


@pytest.mark.parametrize("seed", range(20))
def test_the_most_wanted_few_are_the_first_of_all(seed):
    rng = np.random.default_rng(seed)
    gain = np.where(rng.random(3000) < 0.1, -np.inf, rng.integers(0, 40 if seed % 2 else 10**6, 3000) / 40)
    rows, image = rng.permutation(4000)[:3000], rng.integers(-1, 30 if seed % 3 else 2000, 4000)
    whole = most_wanted(gain, rows, image, 0.2, 2)
    for most in (0, 1, 7, 60, 400, 5000):
        assert most_wanted(gain, rows, image, 0.2, 2, most).tolist() == whole[:most].tolist()


def masks_of(*boxes: tuple[int, int, int, int], image: int = 1, class_id: int = 1) -> Predictions:
    size, rles = (100, 100), []
    for x, y, w, h in boxes:
        picture = np.zeros(size, np.uint8, order="F")
        picture[y : y + h, x : x + w] = 1
        rles.append(mask_util.encode(picture)["counts"])
    n = len(boxes)
    return Predictions(
        mask_id=np.arange(n), image_id=np.full(n, image), class_id=np.full(n, class_id, np.int32),
        box=np.array(boxes, np.float32), rle=np.array(rles, object), size=np.tile(size, (n, 1)).astype(np.int32),
        confidence=np.full(n, 0.9, np.float32), predicted_iou=np.full(n, 0.9, np.float32),
        features=np.zeros((n, 0), np.float16),
    )  # fmt: skip


def test_rivals_overlap_much_or_lie_inside_one_another():
    found = overlaps_of(masks_of((0, 0, 20, 20), (2, 0, 20, 20), (0, 0, 8, 8), (60, 60, 10, 10), (19, 0, 40, 20)))
    pairs = set(zip(*(p.tolist() for p in found.rivals(0.5, 0.8)), strict=True))
    assert pairs == {(0, 1), (0, 2)}
    of = {(a, b): i for a, b, i in zip(found.first.tolist(), found.second.tolist(), found.iou.tolist(), strict=True)}
    assert of[0, 1] == pytest.approx(18 / 22, abs=1e-6)
    assert (3, 4) not in of


def test_masks_of_other_images_or_classes_are_no_rivals():
    a, b = masks_of((0, 0, 20, 20)), masks_of((0, 0, 20, 20), image=2)
    assert not len(overlaps_of(Predictions.concatenate([a, b])).first)
    assert not len(overlaps_of(Predictions.concatenate([a, masks_of((0, 0, 20, 20), class_id=2)])).first)


def test_the_best_of_rivals_is_chosen_and_a_wrong_one_stands_in_nobodys_way():
    pairs = (np.array([0, 1]), np.array([1, 2]))
    rank = np.array([0.9, 0.8, 0.7])
    assert without_rivals(rank, pairs, np.zeros(3, bool)).tolist() == [True, False, True]
    assert without_rivals(rank, pairs, np.array([True, False, False])).tolist() == [False, True, False]
    assert without_rivals(np.ones(3), pairs, np.zeros(3, bool)).tolist() == [True, False, True]


def test_no_pairs_of_no_masks():
    assert not len(Overlaps.none().rivals(0.5, 0.8)[0])


@pytest.mark.parametrize("seed", range(40))
def test_rivals_are_chosen_one_after_the_other_the_best_first(seed):
    rng = np.random.default_rng(seed)
    n, m = 60, int(rng.integers(0, 200))
    a, b = np.sort(rng.integers(0, n, (2, m)), axis=0)
    a, b = a[a != b], b[a != b]
    rank, gone = rng.integers(0, 6, n) / 5, rng.random(n) < 0.2  # many ties
    kept = ~gone
    for row in np.lexsort((np.arange(n), -rank)).tolist():
        if kept[row]:
            others = np.concatenate([b[a == row], a[b == row]])
            kept[[o for o in others.tolist() if (-rank[o], o) > (-rank[row], row)]] = False
    assert (without_rivals(rank, (a, b), gone) == kept).all()
