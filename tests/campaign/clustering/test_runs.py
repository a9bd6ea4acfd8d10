import numpy as np
import pytest

from campaign.clustering import LinkageOptions, Tree, linkage
from campaign.clustering.runs import cluster_class, clustering_facts, join_class
from tests.campaign.clustering.reference import masks

OPTIONS = LinkageOptions(device="cpu", threads=2)


class InterruptedRunError(Exception):
    pass


def interrupt(step: str, done: int, total: int) -> None:
    if step == "matrix":
        raise InterruptedRunError


def must_not_work(step: str, done: int, total: int) -> None:
    raise AssertionError("worked again")


def test_finished_class_is_not_done_again(tmp_path):
    features, scores = masks("normal", 100, 4, 0)
    tree = cluster_class(tmp_path / "class", features, scores, OPTIONS)
    np.testing.assert_array_equal(tree.linkage(), linkage(features, scores, OPTIONS))
    again = cluster_class(tmp_path / "class", features, scores, LinkageOptions(device="cpu"), must_not_work)
    np.testing.assert_array_equal(again.linkage(), tree.linkage())
    facts = clustering_facts(tmp_path / "class")
    assert facts["engine"] == "exact" and facts["masks"] == 100 and facts["feature_scale"] > 0


def test_interrupted_class_is_done_by_the_next_call(tmp_path):
    features, scores = masks("normal", 100, 4, 0)
    with pytest.raises(InterruptedRunError):
        cluster_class(tmp_path, features, scores, OPTIONS, interrupt)
    tree = cluster_class(tmp_path, features, scores, OPTIONS)
    np.testing.assert_array_equal(tree.linkage(), linkage(features, scores, OPTIONS))


def test_interruption_leaves_the_tree_before_it(tmp_path):
    features, scores = masks("normal", 100, 4, 0)
    before = cluster_class(tmp_path, features, scores, OPTIONS).linkage()
    with pytest.raises(InterruptedRunError):
        cluster_class(tmp_path, features[:60], scores[:60], OPTIONS, interrupt)
    np.testing.assert_array_equal(Tree.load(tmp_path).linkage(), before)
    assert cluster_class(tmp_path, features[:60], scores[:60], OPTIONS).n == 60


@pytest.mark.parametrize("change", ["features", "scores", "options"])
def test_other_input_is_clustered_anew(tmp_path, change):
    features, scores = masks("normal", 100, 4, 0)
    before = cluster_class(tmp_path, features, scores, OPTIONS).linkage()
    options = OPTIONS
    if change == "features":
        features = features * [1, 2, 1, 1]
    elif change == "scores":
        scores = scores**2
    else:
        options = LinkageOptions(engine="approximate", device="cpu", micro_size=10)
    after = cluster_class(tmp_path, features, scores, options)
    assert not np.array_equal(after.linkage(), before)
    assert (tmp_path / "error.npy").is_file() == (change == "options")


def test_a_class_that_others_join_has_the_tree_of_a_rebuild_and_is_done_once(tmp_path):
    rng = np.random.default_rng(0)
    features, scores = np.repeat(10 * np.eye(4), 50, axis=0) + rng.normal(size=(200, 4)), rng.random(200)
    cluster_class(tmp_path / "old", features[:195], scores[:195], OPTIONS)
    tree = join_class(tmp_path / "new", tmp_path / "old", features, scores, OPTIONS)
    facts, old = clustering_facts(tmp_path / "new"), clustering_facts(tmp_path / "old")
    assert facts["rebuilt"] == "" and facts["masks"] == 200
    scales = LinkageOptions(device="cpu", feature_scale=old["feature_scale"], score_scale=old["score_scale"])
    np.testing.assert_allclose(tree.linkage()[:, 2], linkage(features, scores, scales)[:, 2], rtol=1e-5)
    again = join_class(tmp_path / "new", tmp_path / "old", features, scores, OPTIONS, must_not_work)
    np.testing.assert_array_equal(again.linkage(), tree.linkage())


def test_a_tree_of_unknown_make_is_built_anew(tmp_path):
    features, scores = masks("normal", 60, 4, 0)
    Tree.build(linkage(features[:50], scores[:50]), scores[:50]).save(tmp_path / "old")
    tree = join_class(tmp_path / "new", tmp_path / "old", features, scores, OPTIONS)
    np.testing.assert_array_equal(tree.linkage(), linkage(features, scores, OPTIONS))
    assert "nothing is known" in clustering_facts(tmp_path / "new")["rebuilt"]


@pytest.mark.parametrize("n", [0, 1])
def test_classes_of_hardly_any_masks(tmp_path, n):
    assert cluster_class(tmp_path, np.zeros((n, 3)), np.zeros(n), OPTIONS).n == n
