import numpy as np

from ml_backend.interactive.corruption import corrupted


def test_masks_are_wrong_but_not_all_wrong():
    rows, columns = np.mgrid[:64, :64]
    truth = np.hypot(rows - 32, columns - 32) < 18
    others = np.hypot(rows - 32, columns - 58) < 10
    ious, grown = [], 0
    for seed in range(60):
        mask = corrupted(truth, others, np.random.default_rng(seed))
        assert mask.shape == truth.shape and mask.dtype == bool
        ious.append((mask & truth).sum() / (mask | truth).sum())
        grown += (mask & others).any()
    assert np.min(ious) > 0.3 and np.max(ious) < 0.97
    assert 0.55 < np.mean(ious) < 0.85
    assert np.std(ious) > 0.08
    assert grown > 5


def test_the_same_seed_gives_the_same_mask():
    truth = np.zeros((32, 32), bool)
    truth[8:20, 10:24] = True
    first, again = (corrupted(truth, ~truth, np.random.default_rng(3)) for _ in range(2))
    assert (first == again).all()
