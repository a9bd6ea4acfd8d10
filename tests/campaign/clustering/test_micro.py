import numpy as np
import pytest
from scipy.spatial.distance import cdist

from campaign.clustering import LinkageOptions, Tree, cluster, micro
from campaign.clustering.engine import matrix_budget
from campaign.clustering.grouping import groups
from campaign.clustering.points import prepare
from campaign.clustering.workers import workers
from ml_backend.errors import InputError
from tests.campaign.clustering.reference import masks

OPTIONS = LinkageOptions(engine="approximate", device="cpu", threads=2, micro_size=8)


@pytest.fixture
def small_neighbourhoods(monkeypatch):
    monkeypatch.setattr(micro, "NEIGHBOURHOOD", 100)


@pytest.mark.usefixtures("small_neighbourhoods")
@pytest.mark.parametrize("kind", ["normal", "blobs", "duplicates", "grid"])
def test_heights_are_within_their_bounds(kind):
    features, scores = masks(kind, 700, 5, 4)
    result = cluster(features, scores, OPTIONS)
    tree = Tree.build(result.linkage, scores)
    assert (np.diff(result.linkage[:, 2]) >= 0).all()
    assert (result.error == 0).any() and (kind == "duplicates" or (result.error > 0).any())
    for merge, (left, right, height, _) in enumerate(result.linkage):
        a, b = tree.members(int(left)), tree.members(int(right))
        true = (
            cdist(features[a], features[b]) / result.feature_scale
            + cdist(scores[a, None], scores[b, None]) / result.score_scale
        ).max()
        assert abs(true - height) <= result.error[merge] + 1e-4 * result.linkage[-1, 2]


@pytest.mark.usefixtures("small_neighbourhoods")
def test_same_seed_same_tree():
    features, scores = masks("normal", 500, 5, 4)
    first, second = (cluster(features, scores, OPTIONS).linkage for _ in range(2))
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 9])
def test_few_masks(n):
    features, scores = masks("normal", n, 3, 0)
    result = cluster(features, scores, OPTIONS)
    assert result.engine == "approximate" and result.linkage.shape == (max(0, n - 1), 4)
    Tree.build(result.linkage, scores)


@pytest.mark.parametrize("kind", ["normal", "duplicates", "constant"])
def test_groups_part_the_points(kind):
    features, scores = masks("normal" if kind == "constant" else kind, 1000, 4, 0)
    if kind == "constant":
        features[:], scores[:] = 1, 1
    with workers(2) as team:
        parts = groups(prepare(features, scores), 60, team)
    assert max(map(len, parts)) <= 60
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(1000))


def test_features_on_disk_in_half_precision_make_the_same_tree(tmp_path):
    features, scores = masks("blobs", 900, 6, 4)
    np.save(tmp_path / "features.npy", features.astype(np.float16))
    stored = np.load(tmp_path / "features.npy", mmap_mode="r")
    on_disk = cluster(stored, scores, OPTIONS)
    in_memory = cluster(features.astype(np.float16).astype(np.float32), scores, OPTIONS)
    np.testing.assert_array_equal(on_disk.linkage, in_memory.linkage)
    np.testing.assert_array_equal(on_disk.error, in_memory.error)


def test_what_the_approximate_engine_needs_does_not_grow_with_the_features():
    needs = []
    for count in (1_000_000, 2_000_000):
        features = np.broadcast_to(np.float16(0), (count, 256))
        with pytest.raises(InputError) as error:
            matrix_budget(features, LinkageOptions(memory=1), "approximate")
        needs.append(int(str(error.value).split("at least ")[1].split()[0]))
    assert needs[1] - needs[0] < 256 * 1_000_000
