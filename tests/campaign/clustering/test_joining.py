import numpy as np
import pytest
from scipy.cluster.hierarchy import cophenet

from campaign.clustering import LinkageOptions, Tree, cluster
from campaign.clustering.joining import join
from ml_backend.errors import InputError
from tests.campaign.clustering.reference import masks

OPTIONS = LinkageOptions(device="cpu", threads=2)


def islands(n: int, new: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Masks of six tight groups; the last `new` fall in one of the groups."""
    rng = np.random.default_rng(seed)
    home = np.append(rng.integers(0, 6, n - new), np.zeros(new, int))
    return 10 * rng.normal(size=(6, 8))[home] + rng.normal(size=(n, 8)), rng.random(n)


@pytest.mark.parametrize("new", [0, 1, 5, 20])
@pytest.mark.parametrize("seed", range(8))
def test_joined_tree_is_that_of_a_rebuild(new, seed):
    features, scores = islands(600, new, seed)
    old = cluster(features[: 600 - new], scores[: 600 - new], OPTIONS)
    joined = join(old, features, scores, OPTIONS)
    assert not joined.rebuilt
    scales = LinkageOptions(device="cpu", feature_scale=old.feature_scale, score_scale=old.score_scale)
    whole = cluster(features, scores, scales)
    np.testing.assert_allclose(joined.clustering.linkage[:, 2], whole.linkage[:, 2], rtol=1e-5)
    np.testing.assert_allclose(cophenet(joined.clustering.linkage), cophenet(whole.linkage), rtol=1e-5)
    before, after = Tree.build(old.linkage, scores[: 600 - new]), Tree.build(joined.clustering.linkage, scores)
    for cluster_id, now in enumerate(joined.kept):
        if now >= 0:
            assert set(before.members(cluster_id)) == set(after.members(now))
    assert (joined.kept >= 0).mean() > 0.7


@pytest.mark.parametrize(
    "old_n, change, options, reason",
    [
        (400, lambda f, s: (f, s), {"exact_limit": 450}, "too many masks"),
        (1, lambda f, s: (f, s), {}, "no tree to join"),
        (300, lambda f, s: (f * (1 + (np.arange(len(f)) >= 300))[:, None], s), {}, "balance"),
    ],
)
def test_rebuilt_where_the_old_tree_is_no_help(old_n, change, options, reason):
    features, scores = change(*masks("normal", 500, 6, 0))
    old = cluster(features[:old_n], scores[:old_n], OPTIONS)
    joined = join(old, features, scores, LinkageOptions(device="cpu", **options))
    assert joined.rebuilt and reason in joined.reason
    assert len(joined.clustering.linkage) == 499 and (joined.kept == -1).all()


def test_rebuilt_where_most_merges_fall(monkeypatch):
    monkeypatch.setattr("campaign.clustering.joining.DRIFT", 1)
    features, scores = masks("normal", 500, 6, 0)
    joined = join(cluster(features[:250], scores[:250], OPTIONS), features, scores, OPTIONS)
    assert "old merges still hold" in joined.reason


def test_fewer_masks_than_before_is_an_error():
    features, scores = masks("normal", 50, 3, 0)
    with pytest.raises(InputError, match="the 50 old masks"):
        join(cluster(features, scores, OPTIONS), features[:40], scores[:40])
