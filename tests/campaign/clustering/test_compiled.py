"""What stands in for compiled functions where there is no numba."""

import numpy as np
import pytest

from campaign.clustering import chains, kernels
from tests.bare_python import run_bare

SAME_TREE = """
from campaign.clustering import LinkageOptions, linkage
from ml_backend.errors import InputError
from tests.campaign.clustering.reference import assert_same_tree, fused, masks

for kind in ("normal", "blobs", "duplicates"):
    features, scores = masks(kind, 300, 6, 0)
    assert_same_tree(linkage(features, scores, LinkageOptions(device="cpu:0")), fused(features, scores))
try:
    linkage(features, scores, LinkageOptions(device="cpu"))
except InputError as error:
    print(error)
"""


def test_without_numba_the_engine_for_gpus_gives_scipys_tree():
    done = run_bare(SAME_TREE)
    assert done.stdout == "numba: expected installed, for clustering on a CPU, got none\n", done.stderr


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def both(plain, compiled, arguments):
    """The results of both, and the arguments as each leaves them."""
    copies = [[a.copy() if isinstance(a, np.ndarray) else a for a in arguments] for _ in range(2)]
    return (plain(*copies[0]), copies[0]), (compiled(*copies[1]), copies[1])


def assert_alike(plain, compiled, arguments):
    (result, left), (expected, expected_left) = both(plain, compiled, arguments)
    np.testing.assert_allclose(result if result is not None else 0, expected if expected is not None else 0, rtol=1e-6)
    for own, other in zip(left, expected_left, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-6)


@pytest.mark.parametrize("ties", [False, True])
def test_pairing(rng, ties):
    n = 200
    for _ in range(20):
        least = rng.integers(1, 4, n).astype(np.float32) if ties else rng.random(n).astype(np.float32)
        exact = np.where(rng.random(n) < 0.5, -1.0, least * (1 + 1e-9 * rng.integers(0, 2, n)))
        flags = rng.random(n) < 0.8, rng.random(n) < 0.9
        arguments = [n, rng.integers(0, n, n), least, *flags, exact, np.zeros(n, int), np.zeros(n, int)]
        assert_alike(kernels._pair_up, kernels.pair_up, arguments)


def test_forgetting(rng):
    n = 200
    flags = [rng.random(n) < share for share in (0.8, 0.9, 0.3)]
    assert_alike(kernels._forget, kernels.forget, [n, rng.integers(0, n, n), *flags, np.zeros(n, int)])


def test_end_of_a_chain():
    nearest, known = np.array([0, 3, 0, 2, 1]), np.array([False, True, False, True, True])
    alive = np.array([False, True, True, True, True])
    assert kernels._tip(nearest, known, alive) == kernels.tip(nearest, known, alive) == 2


def test_distances_of_clusters(rng):
    x, mark = rng.normal(size=(60, 5)).astype(np.float32), rng.random(60).astype(np.float32)
    x[7] = x[3]
    following = np.full(60, -1, np.int32)
    following[[0, 1, 2]], following[[10, 11, 12, 13]] = [1, 2, 3], [11, 12, 13, 7]
    assert_alike(kernels._pair, kernels.pair, [x[0], x[1]])
    for a, b in ((0, 10), (3, 7), (20, 10)):
        assert_alike(chains._apart_in_numpy, chains._apart, [x, mark, following, a, b])


def test_representatives(rng):
    x, mark = rng.normal(size=(100, 5)).astype(np.float32), rng.random(100).astype(np.float32)
    x[60:], mark[60:] = x[60], mark[60]
    arguments = [x, mark, rng.permutation(60).tolist() + list(range(60, 100)), np.array([0, 3, 30, 60, 100])]
    arguments[2] = np.array(arguments[2])
    chosen, reach = np.zeros(100, bool), np.zeros(100, np.float32)
    assert_alike(chains._represent, chains.represent, [*arguments, 0, 4, 4, chosen, reach])
