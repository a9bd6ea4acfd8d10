"""What each policy does with the answers of one cluster."""

from __future__ import annotations

import numpy as np
import pytest

from campaign.clustering import Tree
from campaign.records.verdict import Verdict
from campaign.search.evidence import Evidence, Outcome
from campaign.search.policies import ORDERS, Curtailed, Paper, lower_bound, make_policy, oracle_order
from campaign.search.thresholds import Thresholds
from campaign.search.tree_search import Search
from ml_backend.errors import InputError
from tests.campaign.search.builders import LINKAGE, SCORES, random_tree, run

THRESHOLDS = Thresholds(0.2, 0.7)


def evidence(yes=0, no=0, unsure=0, size=1000, score=0.9) -> Evidence:
    return Evidence(0, size, score, yes=yes, no=no, unsure=unsure)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (evidence(score=0.2), "reject"),
        (evidence(score=0.21), "split"),
        (evidence(score=0.7), "split"),
        (evidence(score=0.71), 15),
        (evidence(size=4), 4),
        (evidence(13, 2), "accept"),
        (evidence(12, 3), "split"),
        (evidence(3, 12), "split"),
        (evidence(2, 13), "reject"),
        (evidence(12, 2, 1), 1),
        (evidence(0, 0, 15), 15),
        (evidence(0, 0, 30), "split"),
        (evidence(14, 0, 16), "accept"),
        (evidence(1, 0, size=1), "accept"),
        (evidence(0, 1, size=1), "reject"),
    ],
)
def test_paper(given, expected):
    outcome = Paper().consider(given, THRESHOLDS)
    assert (outcome.kind if isinstance(outcome, Outcome) else outcome) == expected


@pytest.mark.parametrize(
    ("n_s", "k_a", "yes", "kind"), [(20, 0.85, 17, "accept"), (20, 0.85, 3, "reject"), (5, 0.8, 4, "accept")]
)
def test_paper_at_the_very_threshold(n_s, k_a, yes, kind):
    assert Paper(n_s, k_a).consider(evidence(yes, n_s - yes), THRESHOLDS).kind == kind


@pytest.mark.parametrize(
    ("yes", "n", "size", "expected"),
    # 0.6366 is the table value of the exact binomial bound for 13 of 15
    [
        (13, 15, 10**6, 0.6366),
        (15, 15, 10**6, 0.05 ** (1 / 15)),
        (4, 4, 4, 1.0),
        (0, 15, 100, 0.0),
        (13, 15, 16, 13 / 16),
    ],
)
def test_lower_bound(yes, n, size, expected):
    assert lower_bound(yes, n, size) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Paper(n_s=0), "n_s: expected a whole number of at least 1, got 0"),
        (lambda: Paper(k_a=0.5), "k_a: expected a quality above 0.5 and up to 1, got 0.5"),
        (lambda: make_policy("papr"), "policy: expected one of adaptive, paper, curtailed, target, got papr"),
    ],
)
def test_bad_settings(build, message):
    with pytest.raises(InputError) as error:
        build()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (evidence(), 6),  # three no and three yes settle that it is split
        (evidence(3, 3), "split"),
        (evidence(12, 0), 1),
        (evidence(13, 0), "accept"),
        (evidence(0, 12), 1),
        (evidence(0, 13), "reject"),
        (evidence(10, 2), 1),
        (evidence(10, 3), "split"),
        (evidence(3, 2), 1),
        (evidence(size=4), 2),  # of four masks, one yes and one no
        (evidence(1, 1, size=4), "split"),
        (evidence(score=0.1), "reject"),
    ],
)
def test_curtailed(given, expected):
    outcome = Curtailed().consider(given, THRESHOLDS)
    assert (outcome.kind if isinstance(outcome, Outcome) else outcome) == expected


@pytest.mark.parametrize(("n_s", "k_a"), [(15, 0.85), (6, 0.7), (10, 1.0)])
@pytest.mark.parametrize("share", [0.0, 0.2])
def test_curtailed_decides_as_paper(n_s, k_a, share):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        tree = random_tree(500, seed)
        verdicts = np.where(rng.random(500) < 0.8, Verdict.YES, Verdict.NO)
        verdicts[rng.random(500) < share] = Verdict.UNSURE
        searches = [Search(tree, policy(n_s, k_a), Thresholds(0.3, 0.45), seed) for policy in (Paper, Curtailed)]
        for search in searches:
            run(search, verdicts)
        paper, curtailed = ({d.cluster: d.kind for d in s.decisions} for s in searches)
        assert paper == curtailed
        assert searches[1].questions <= searches[0].questions


@pytest.mark.parametrize("order", ORDERS)
def test_orders_visit_the_same_clusters(order):
    tree = random_tree(300, 1)
    verdicts = np.random.default_rng(1).integers(0, 2, 300)
    usual, other = (Search(tree, Paper(5, order=o), Thresholds(0.3, 0.4), 1) for o in (None, ORDERS[order]))
    assert set(run(usual, verdicts, limit=1)) == set(run(other, verdicts, limit=1))


@pytest.mark.parametrize(
    ("order", "first"),
    [
        ("score", [14, 12, 8, 0, 9, 2, 1, 3, 13, 10, 4, 5]),
        ("bfs", [14, 12, 13, 8, 9, 10, 11, 0, 1, 2, 3, 4]),
        ("dfs", [14, 12, 8, 0, 1, 9, 2, 3, 13, 10, 4, 5]),
        ("dfs-score", [14, 12, 8, 0, 1, 9, 2, 3, 13, 10, 4, 5]),
    ],
)
def test_orders(order, first):
    tree = Tree.build(LINKAGE, SCORES)
    search = Search(tree, Paper(order=ORDERS[order]), Thresholds(0.0, 1.0), 0)  # every cluster is split
    search.step()
    assert [d.cluster for d in search.decisions][: len(first)] == first


def test_oracle_order():
    tree = Tree.build(LINKAGE, SCORES)
    quality = np.zeros(15)
    quality[[13, 11, 7]] = 1, 2, 3
    search = Search(tree, Paper(order=oracle_order(quality)), Thresholds(0.0, 1.0), 0)
    search.step()
    assert [d.cluster for d in search.decisions][:4] == [14, 13, 11, 7]
