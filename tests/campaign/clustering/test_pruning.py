import numpy as np
import pytest

from campaign.clustering import neighbours, pruning
from campaign.clustering.neighbours import Clusters
from campaign.clustering.points import prepare
from campaign.clustering.pruning import Centres, Pieces
from campaign.clustering.workers import workers
from tests.campaign.clustering.reference import masks


@pytest.fixture
def counted(monkeypatch):
    """Small blocks and pieces, and a list that grows with every tile computed."""
    monkeypatch.setattr(neighbours, "BLOCK", 32)
    monkeypatch.setattr(neighbours, "LIST", 4)
    monkeypatch.setattr(pruning, "PIECE", 16)
    computed: list[int] = []
    distances = neighbours._distances
    monkeypatch.setattr(neighbours, "_distances", lambda *given: (computed.append(1), distances(*given))[1])
    return computed


def looked(features, scores, prunes):
    with workers(2) as team:
        clusters = Clusters(prepare(features, scores), team)
        clusters.prunes = prunes
        for _ in range(3):
            clusters.look()
            clusters.settle()
        return clusters


@pytest.mark.parametrize("kind, skips", [("blobs", True), ("normal", False)])
def test_tiles_are_skipped_without_a_trace(counted, kind, skips):
    features, scores = masks(kind, 900, 16, 0)
    pruned = looked(features, scores, True)
    few = len(counted)
    whole = looked(features, scores, False)
    assert (few < 0.8 * (len(counted) - few)) == skips
    assert pruned.prunes == skips
    for one, other in zip(pruned.merges, whole.merges, strict=True):
        np.testing.assert_allclose(np.sort(one), np.sort(other), rtol=1e-6)


@pytest.mark.parametrize("kind", ["normal", "blobs", "grid"])
def test_bounds_hold(kind):
    features, scores = masks(kind, 80, 5, 1)
    points = prepare(features, scores)
    following = np.append(np.arange(1, 81), -1)[:80].astype(np.int32)
    following[3::4] = -1  # chains of four
    ids = np.arange(0, 80, 4)
    centres = Centres.of(points, following, ids)
    gap = np.linalg.norm(points.x[:, None] - points.x, axis=2) + np.abs(points.mark[:, None] - points.mark)
    true = gap.reshape(20, 4, 20, 4).max((1, 3))
    here, there = (Pieces(centres.select(part), np.arange(10) // 5) for part in (np.arange(10), np.arange(10, 20)))
    nearest = true[:10, 10:].min()
    for check in (here.may_meet, here.some_near):
        assert check(there, np.full(10, nearest * 1.001), np.full(10, -1.0))
        assert check(there, np.full(10, -1.0), np.full(10, nearest * 1.001))
        assert not check(there, np.full(10, -1.0), np.full(10, -1.0))
