import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage as scipy_linkage
from scipy.cluster.hierarchy import to_tree

from campaign.clustering import Tree
from ml_backend.errors import InputError


def small_tree(n: int, seed: int = 0) -> tuple[Tree, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features, scores = rng.normal(size=(n, 3)), rng.random(n)
    merges = scipy_linkage(features, "complete") if n > 1 else np.empty((0, 4))
    return Tree.build(merges, scores), merges, features, scores


@pytest.mark.parametrize("n", [1, 2, 3, 50])
def test_members_are_those_of_scipy(n):
    tree, merges, _, scores = small_tree(n)
    if n == 1:
        assert tree.root == 0 and tree.members(0).tolist() == [0]
        return
    _, nodes = to_tree(merges, rd=True)
    for cluster, node in enumerate(nodes):
        leaves = node.pre_order()
        assert sorted(tree.members(cluster)) == sorted(leaves)
        assert tree.mean_score[cluster] == pytest.approx(scores[leaves].mean())
        assert tree.size[cluster] == len(leaves)
        assert tree.height[cluster] == node.dist
        for child in tree.children[cluster]:
            assert child < 0 or tree.parent[child] == cluster
    assert tree.parent[tree.root] == -1
    np.testing.assert_array_equal(tree.linkage(), merges)


def test_empty_tree_has_no_root():
    tree, *_ = small_tree(0)
    assert tree.n == len(tree) == 0
    with pytest.raises(InputError, match="at least one mask"):
        _ = tree.root


@pytest.mark.parametrize("n", [0, 1, 2, 40])
@pytest.mark.parametrize("mmap", [True, False])
def test_saved_tree_comes_back(tmp_path, n, mmap):
    tree, *_ = small_tree(n)
    tree.save(tmp_path)
    back = Tree.load(tmp_path, mmap=mmap)
    for name in vars(tree):
        np.testing.assert_array_equal(getattr(back, name), getattr(tree, name))
    assert isinstance(back.parent, np.memmap) == (mmap and n > 0)


def test_unfinished_tree_is_refused(tmp_path):
    small_tree(5)[0].save(tmp_path)
    (tmp_path / "tree.json").unlink()
    with pytest.raises(InputError, match="a saved tree"):
        Tree.load(tmp_path)


def test_million_deep_tree():
    n = 1_000_000
    merges = np.empty((n - 1, 4))
    merges[:, 0] = np.arange(n, 2 * n - 1) - 1
    merges[0, 0] = 0
    merges[:, 1] = np.arange(1, n)
    merges[:, 2] = merges[:, 1]
    merges[:, 3] = np.arange(2, n + 1)
    tree = Tree.build(merges, np.ones(n))
    assert tree.members(tree.root).size == n
    assert tree.members(n + 5).tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "merges, scores, message",
    [
        (np.zeros((2, 4)), np.zeros(2), "shape"),
        (np.array([[0, 1, 1, 2], [0, 2, 1, 3.0]]), np.zeros(3), "merged once"),
        (np.array([[0, 4, 1, 2], [1, 2, 1, 3.0]]), np.zeros(3), "merged once"),
        (np.array([[0, 9, 1, 2], [1, -2, 1, 3.0]]), np.zeros(3), "merged once"),
    ],
)
def test_malformed_linkage_is_refused(merges, scores, message):
    with pytest.raises(InputError, match=message):
        Tree.build(merges, scores)


def test_medoid_is_the_most_central_member():
    tree, _, features, scores = small_tree(30)
    for cluster in (0, 35, tree.root):
        leaves = np.sort(tree.members(cluster))
        distance = np.linalg.norm(features[leaves, None] - features[leaves], axis=2)
        assert tree.medoid(cluster, features) == leaves[distance.sum(1).argmin()]
        fused = distance / 2 + np.abs(scores[leaves, None] - scores[leaves]) / 0.1
        assert tree.medoid(cluster, features, scores, 2.0, 0.1) == leaves[fused.sum(1).argmin()]
