import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaign.clustering import LinkageOptions, Tree, cluster, engine, linkage
from campaign.clustering import neighbours as lists
from ml_backend.errors import InputError
from tests.campaign.clustering.reference import assert_complete_linkage, assert_same_tree, fused, masks

CPU = LinkageOptions(device="cpu", threads=2)
sizes, dimensions, seeds = st.integers(2, 90), st.integers(1, 12), st.integers(0, 2**32 - 1)


@pytest.fixture
def small_passes(monkeypatch):
    """Lists, blocks and the direct limit so small that a hundred masks take every path of a large run."""
    monkeypatch.setattr(engine, "DIRECT", 10)
    for module in ("neighbours", "points"):
        monkeypatch.setattr(f"campaign.clustering.{module}.BLOCK", 16)
    monkeypatch.setattr(lists, "LIST", 4)
    monkeypatch.setattr("campaign.clustering.pruning.PIECE", 8)


@settings(max_examples=60, deadline=None)
@given(sizes, dimensions, seeds, st.sampled_from(["normal", "blobs", "duplicates"]))
def test_matrix_gives_scipys_tree(n, d, seed, kind):
    features, scores = masks(kind, n, d, seed)
    assert_same_tree(linkage(features, scores, CPU), fused(features, scores))


@settings(max_examples=40, deadline=None)
@given(sizes, dimensions, seeds)
def test_ties_are_broken_rightly(n, d, seed):
    features, scores = masks("grid", n, d, seed)
    assert_complete_linkage(linkage(features, scores, CPU), fused(features, scores))


@pytest.mark.usefixtures("small_passes")
@pytest.mark.parametrize("direct", [10, 100], ids=["lists", "matrix"])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_what_float32_calls_a_tie_is_told_apart(monkeypatch, direct, order):
    monkeypatch.setattr(engine, "DIRECT", direct)
    # the middle one is nearer to the first by 5e-9
    triple = np.array([[-1, 0], [0, 0], [1, 1e-4]])
    rim = 50 * np.array([[np.cos(a), np.sin(a)] for a in np.arange(16) * np.pi / 8])
    features = np.concatenate([triple[list(order)], rim])
    merges = linkage(features, np.zeros(len(features)), CPU)
    assert sorted(merges[0, :2].astype(int)) == sorted(order.index(i) for i in (0, 1))


@pytest.mark.usefixtures("small_passes")
@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["normal", "blobs", "duplicates", "grid"])
@pytest.mark.parametrize("fits", [40, 12, 3])
def test_passes_make_the_same_tree(monkeypatch, seed, kind, fits):
    rng = np.random.default_rng(seed)
    features, scores = masks(kind, int(rng.integers(41, 160)), int(rng.integers(1, 8)), seed)
    monkeypatch.setattr(engine, "_fixed", lambda n, d, threads: 0)
    merges = linkage(features, scores, LinkageOptions(device="cpu", threads=2, memory=4 * fits**2))
    check = assert_complete_linkage if kind == "grid" else assert_same_tree
    check(merges, fused(features, scores))


@pytest.mark.parametrize("n", [700, 2500])
@pytest.mark.parametrize("kind", ["normal", "blobs", "duplicates"])
def test_larger_ones(n, kind):
    features, scores = masks(kind, n, 24, n)
    assert_same_tree(linkage(features, scores, CPU), fused(features, scores))


def test_a_chain_is_followed_where_rounds_do_not_pay(monkeypatch):
    monkeypatch.setattr("campaign.clustering.dense.PATIENCE", 0)
    features, scores = masks("normal", 300, 5, 1)
    assert_same_tree(linkage(features, scores, CPU), fused(features, scores))


@pytest.mark.parametrize(
    "features, scores, heights",
    [
        (np.empty((0, 4)), np.empty(0), []),
        (np.ones((1, 4)), np.ones(1), []),
        (np.zeros((2, 4)), np.zeros(2), [0]),
        (np.array([[0.0], [3.0]]), np.zeros(2), [3]),
        (np.full((5, 3), 7e30), np.full(5, 0.5), [0, 0, 0, 0]),
        (np.empty((3, 0)), np.array([0.0, 0.0, 1.0]), [0, 1 / np.std([0, 1, 1])]),
        (np.array([[True], [False], [True]]), np.array([1, 1, 1], np.int8), [0, 1 / np.std([0, 1, 1])]),
    ],
    ids=["none", "one", "two alike", "two", "constant", "no features", "booleans and integers"],
)
def test_small_and_degenerate_input(features, scores, heights):
    merges = linkage(features, scores, CPU)
    assert merges.shape == (max(len(features) - 1, 0), 4)
    np.testing.assert_allclose(merges[:, 2], heights, rtol=1e-6, atol=1e-12)
    assert Tree.build(merges, scores).n == len(features)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, ">f4"])
def test_any_real_dtype(dtype):
    features, scores = masks("normal", 60, 4, 3)
    features = (features * 10).astype(dtype)
    assert_same_tree(linkage(features, scores.astype(np.float16), CPU), fused(features, scores.astype(np.float16)))


def test_distant_centre_and_tiny_differences():
    features, scores = masks("normal", 200, 6, 2)
    features[:100] *= 1e-3  # a tight group: its distances are far below the lengths
    assert_same_tree(linkage(features + 1e5, scores, CPU), fused(features + 1e5, scores))


@pytest.mark.parametrize(
    "features, scores, options, message",
    [
        (np.zeros(3), np.zeros(3), {}, r"features: expected shape \(n, d\)"),
        (np.zeros((3, 2)), np.zeros(4), {}, "scores"),
        (np.zeros((3, 2), complex), np.zeros(3), {}, "real numbers"),
        (np.zeros((3, 2), object), np.zeros(3), {}, "real numbers"),
        (np.array([[0, 1], [np.nan, 1]]), np.zeros(2), {}, "features of mask 1: expected finite"),
        (np.zeros((2, 2)), np.array([0, np.inf]), {}, "scores of mask 1: expected finite"),
        (np.zeros((2, 2)), np.zeros(2), {"memory": 1000}, "memory: expected at least"),
        (np.zeros((2, 2)), np.zeros(2), {"engine": "magic"}, "engine: expected one of"),
        (np.zeros((2, 2)), np.zeros(2), {"device": "tpu"}, "device: expected one of"),
        (np.zeros((2, 2)), np.zeros(2), {"threads": 0}, "threads: expected a positive"),
        (np.zeros((2, 2)), np.zeros(2), {"micro_size": 1}, "micro_size"),
        (np.zeros((2, 2)), np.zeros(2), {"feature_scale": 0.0}, "feature_scale"),
    ],
)
def test_bad_input_is_named(features, scores, options, message):
    with pytest.raises(InputError, match=message):
        linkage(features, scores, LinkageOptions(**options))


def test_given_scales_are_used():
    features, scores = masks("normal", 50, 3, 0)
    whole = cluster(features, scores, CPU)
    halved = LinkageOptions(device="cpu", feature_scale=2 * whole.feature_scale, score_scale=2 * whole.score_scale)
    np.testing.assert_allclose(cluster(features, scores, halved).linkage[:, 2] * 2, whole.linkage[:, 2], rtol=1e-6)


def test_input_is_left_alone():
    features, scores = (array.astype(np.float32) for array in masks("normal", 40, 3, 0))
    before = features.copy(), scores.copy()
    linkage(features, scores, CPU)
    np.testing.assert_array_equal(features, before[0])
    np.testing.assert_array_equal(scores, before[1])


def test_same_input_same_tree_whatever_the_threads():
    features, scores = masks("blobs", 3000, 8, 0)
    trees = [linkage(features, scores, LinkageOptions(device="cpu", threads=threads)) for threads in (1, 2, 3)]
    for tree in trees[1:]:
        np.testing.assert_array_equal(tree, trees[0])


@pytest.mark.usefixtures("small_passes")
def test_ties_fall_the_same_way_whatever_the_threads(monkeypatch):
    features, scores = masks("grid", 400, 3, 0)
    trees = [linkage(features, scores, LinkageOptions(device="cpu", threads=threads)) for threads in (1, 2, 2, 3)]
    for tree in trees[1:]:
        np.testing.assert_array_equal(tree, trees[0])


@pytest.mark.usefixtures("small_passes")
def test_interruption_stops_a_pass(monkeypatch):
    features, scores = masks("normal", 2000, 3, 0)
    computed = []
    distances = lists._distances
    monkeypatch.setattr(lists, "_distances", lambda *given: (computed.append(1), distances(*given))[1])

    def interrupt(step, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        linkage(features, scores, CPU, interrupt)
    assert len(computed) < 20


def test_progress_counts_up_to_the_whole():
    seen = {}
    features, scores = masks("normal", 400, 3, 0)
    linkage(features, scores, CPU, lambda step, done, total: seen.__setitem__(step, (done, total)))
    assert set(seen) == {"scale", "matrix", "merge"}
    assert all(done == total for done, total in seen.values())


@pytest.mark.parametrize(
    "n, device, options, engine_name",
    [
        (1000, "cpu", {}, "exact"),
        (200_001, "cpu", {}, "approximate"),
        (200_001, "cuda", {}, "exact"),
        (1_000_001, "cuda:1", {}, "approximate"),
        (1000, "cpu", {"exact_limit": 999}, "approximate"),
        (10**7, "cpu", {"engine": "exact"}, "exact"),
    ],
)
def test_engine_by_size_and_device(n, device, options, engine_name):
    assert engine.choose_engine(n, device, LinkageOptions(**options)) == engine_name
