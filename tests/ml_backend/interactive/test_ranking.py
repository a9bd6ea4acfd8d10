import numpy as np
import pytest

from ml_backend.errors import InputError
from ml_backend.interactive.ranking import NAMES, Ranker, features
from ml_backend.interactive.segmenter import Click, Proposal


def mask(rows, columns, shape=(40, 50)):
    whole = np.zeros(shape, bool)
    whole[rows, columns] = True
    return whole


def made_up(n, seed=0):
    """Masks whose IoU follows from how much they changed last, more or less."""
    rng = np.random.default_rng(seed)
    table = rng.random((n, len(NAMES))).astype(np.float32)
    iou = np.clip(0.5 + 0.5 * table[:, 2] + rng.normal(0, 0.05, n), 0, 1)
    return table, iou


def test_features_are_the_published_ones_and_two_more():
    before, after = mask(slice(10, 30), slice(10, 30)), mask(slice(10, 30), slice(10, 40))
    clicks = (Click(34.5, 20.5, True), Click(20.5, 8.5, False))
    values = dict(zip(NAMES, features(before, Proposal(after, 0.8, 0.9), clicks, 2), strict=True))
    side = np.sqrt(600)
    assert values["clicks"] == 2 and values["round"] == 2
    assert values["change"] == pytest.approx(400 / 600)
    assert values["farthest_click"] == pytest.approx(5 / side, rel=0.1)
    assert values["mean_click"] == pytest.approx(3.5 / side, rel=0.15)
    assert (values["predicted_iou"], values["stability"]) == (pytest.approx(0.8), pytest.approx(0.9))


def test_a_first_mask_and_an_empty_one_have_features_too():
    empty = np.zeros((40, 50), bool)
    assert features(None, Proposal(empty, 0.5, 1.0), (), 0).tolist() == [0, 0, 1, 0, 0, 0.5, 1]
    values = features(empty, Proposal(empty, 0.5, 1.0), (Click(3, 3, True),), 1)
    assert np.isfinite(values).all()


def test_the_best_are_ranked_first_and_probabilities_are_right_on_others():
    ranker = Ranker(*made_up(400), k_iou=0.75)
    table, iou = made_up(2000, seed=1)
    judged = ranker.judge(table)
    order = np.argsort(-judged.expected_iou)
    assert iou[order[:1400]].mean() > iou.mean() + 0.05
    correct = iou >= 0.75
    for low, high in ((0.0, 0.3), (0.3, 0.7), (0.7, 1.01)):
        rows = (judged.correct >= low) & (judged.correct < high)
        assert judged.correct[rows].mean() == pytest.approx(correct[rows].mean(), abs=0.12)


def test_what_is_accepted_unseen_is_as_precise_as_asked_for():
    ranker = Ranker(*made_up(400))
    table, iou = made_up(2000, seed=2)
    accepted = ranker.accepted_unseen(table, 0.95)
    assert 0.2 < accepted.mean() < 0.9
    assert (iou[accepted] >= 0.75).mean() > 0.9
    assert not ranker.accepted_unseen(table, 1.01).any()
    assert not len(ranker.accepted_unseen(table[:0], 0.9))


def test_a_stored_ranker_judges_the_same(tmp_path):
    ranker = Ranker(*made_up(60), k_iou=0.8, seed=3)
    ranker.save(tmp_path / "ranker.npz")
    again = Ranker.load(tmp_path / "ranker.npz")
    table, _ = made_up(30, seed=5)
    assert again.k_iou == 0.8
    assert (again.judge(table).correct == ranker.judge(table).correct).all()


def test_bad_rankers(tmp_path):
    with pytest.raises(InputError, match="at least 20 whose truth is known, got 5"):
        Ranker(*made_up(5))
    with pytest.raises(InputError, match="expected a ranker, got no such file"):
        Ranker.load(tmp_path / "none.npz")
    (tmp_path / "other.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match="expected a ranker"):
        Ranker.load(tmp_path / "other.npz")
