"""The search as a deterministic fold, and Algorithm 1 by hand."""

from __future__ import annotations

import numpy as np
import pytest

from campaign.clustering import Tree
from campaign.records.decision import Decision
from campaign.records.verdict import Verdict
from campaign.search.policies import Paper
from campaign.search.thresholds import Thresholds
from campaign.search.tree_search import Search
from ml_backend.errors import InputError
from tests.campaign.search.builders import LINKAGE, SCORES, random_tree, run

NO, YES, UNSURE = Verdict


@pytest.fixture
def tree() -> Tree:
    return Tree.build(LINKAGE, SCORES)


def test_paper_follows_algorithm_1_step_by_step(tree):
    # Correct: 0, 1, 2, 4. K_pr = 0.2, K_pa = 0.55, K_a = 0.85, N_s = 15, so every sample is a whole cluster.
    truth = [1, 1, 1, 0, 1, 0, 0, 0]
    search = Search(tree, Paper(), Thresholds(0.2, 0.55), seed=3)
    # 1. The root, S = 0.60 > K_pa: all eight are asked about, Q = 4/8: split.
    (ask,) = search.step(limit=1)
    assert ask.cluster == 14 and sorted(ask.leaves) == list(range(8))
    for leaf in ask.leaves:
        search.answer(leaf, truth[leaf])
    # 2. Every answer is known by now and no mask is asked about twice, so the rest follows:
    #    12 (0.875) Q = 3/4 split; 8 (0.90) Q = 1 accept; 9 (0.85) Q = 1/2 split; 2 (0.90) accept; 3 (0.80) reject;
    #    13 (0.325) split on its score; 10 (0.55) split on its score; 4 (0.60) accept; 5 (0.50) on its score, and a
    #    leaf that would be split is rejected; 11 (0.10) rejected on its score.
    assert search.step(limit=1) == []
    assert search.done and search.questions == 8
    assert [(d.cluster, d.kind, d.asked, d.yes) for d in search.decisions] == [
        (14, "split", 8, 4),
        (12, "split", 4, 3),
        (8, "accept", 2, 2),
        (9, "split", 2, 1),
        (2, "accept", 1, 1),
        (3, "reject", 1, 0),
        (13, "split", 0, 0),
        (10, "split", 0, 0),
        (4, "accept", 1, 1),
        (5, "reject", 0, 0),
        (11, "reject", 0, 0),
    ]
    assert search.decisions[0] == Decision(14, "split", "1 - K_a < Q < K_a", 8, 4, 0.5, pytest.approx(0.6), 0.5)
    assert search.decisions[6].rule == "S <= K_pa" and search.decisions[6].quality is None
    assert search.decisions[9].rule == "S <= K_pa, not divisible"
    assert search.decisions[10].rule == "S <= K_pr"
    assert sorted(search.accepted()) == [0, 1, 2, 4]


def test_paper_samples_of_two(tree):
    # N_s = 2 of a cluster of 4: the sample of cluster 12 is two of its masks, all of which are correct.
    truth = [1, 1, 1, 1, 0, 0, 0, 0]
    search = Search(tree, Paper(n_s=2), Thresholds(0.2, 0.6), seed=0)
    (ask,) = search.step(limit=1)  # the root, S = 0.60 <= K_pa, is split unseen; 12 is the best child
    assert ask.cluster == 12 and len(set(ask.leaves)) == 2 and set(ask.leaves) <= {0, 1, 2, 3}
    run(search, truth, limit=1) if search.outstanding == 0 else [search.answer(leaf, YES) for leaf in ask.leaves]
    run(search, truth, limit=1)
    assert [(d.cluster, d.kind) for d in search.decisions] == [
        (14, "split"), (12, "accept"), (13, "split"), (10, "split"), (4, "reject"), (5, "reject"), (11, "reject"),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_order_of_facts_does_not_matter(seed):
    tree, rng = random_tree(400, seed), np.random.default_rng(seed)
    verdicts = rng.choice([NO, YES, YES, YES, UNSURE], size=400)
    thresholds = Thresholds(0.3, 0.45)
    live = Search(tree, Paper(n_s=15, k_a=0.95), thresholds, seed)
    told: list[int] = []
    hands: list[int] = []
    while not live.done:
        hands += [leaf for ask in live.step(limit=int(rng.integers(1, 40))) for leaf in ask.leaves]
        rng.shuffle(hands)
        for _ in range(int(rng.integers(1, 10))):
            if hands:
                told.append(hands.pop())
                live.answer(told[-1], verdicts[told[-1]])
    replayed = Search(tree, Paper(n_s=15, k_a=0.95), thresholds, seed)
    for leaf in rng.permutation(told):
        replayed.answer(int(leaf), verdicts[leaf])
    assert replayed.step() == []
    assert replayed.done
    by_cluster = lambda decisions: sorted(decisions, key=lambda d: d.cluster)  # noqa: E731
    assert by_cluster(replayed.decisions) == by_cluster(live.decisions)
    assert len(live.decisions) > 20 and replayed.questions == live.questions == len(told)


def test_resumed_search_asks_what_was_open():
    tree = random_tree(200, 5)
    live = Search(tree, Paper(n_s=5), Thresholds(0.0, 0.0), 5)
    facts = {}
    for _ in range(6):
        for ask in live.step():
            for leaf in ask.leaves[: 5 if ask.cluster % 2 else 2]:
                facts[leaf] = YES if leaf % 3 else NO
                live.answer(leaf, facts[leaf])
    resumed = Search(tree, Paper(n_s=5), Thresholds(0.0, 0.0), 5)
    for leaf, verdict in facts.items():
        resumed.answer(leaf, verdict)
    live.step()
    resumed.step()
    assert resumed.open == live.open and len(live.open) > 0
    assert sorted(resumed.decisions, key=lambda d: d.cluster) == sorted(live.decisions, key=lambda d: d.cluster)


def test_disjoint_clusters_are_open_together(tree):
    search = Search(tree, Paper(), Thresholds(0.05, 0.9), seed=1)
    asks = search.step()
    # everything at or below 0.9 is split unseen: 0 (0.95) alone is asked about
    assert [(a.cluster, a.leaves) for a in asks] == [(0, (0,))]
    search = Search(tree, Paper(), Thresholds(0.05, 0.6), seed=1)
    assert sorted(a.cluster for a in search.step()) == [12]


@pytest.mark.parametrize(
    ("budget", "asked", "undecided"),
    [(0, 0, [12]), (3, 0, [12]), (4, 4, []), (None, 4, [])],
)
def test_budget(tree, budget, asked, undecided):
    search = Search(tree, Paper(), Thresholds(0.2, 0.6), seed=1, budget=budget)
    run(search, [1] * 8)
    assert (search.questions, search.pending) == (asked, undecided)
    assert search.done


def test_budget_can_be_raised(tree):
    search = Search(tree, Paper(), Thresholds(0.2, 0.6), seed=1, budget=0)
    run(search, [1] * 8)
    search.afford(10)
    assert not search.done
    run(search, [1] * 8)
    assert sorted(search.accepted()) == [0, 1, 2, 3] and search.pending == []


def test_published_masks_count_against_the_budget(tree):
    search = Search(tree, Paper(), Thresholds(0.2, 0.6), seed=1, budget=4)
    search.asked([7])
    assert search.step() == [] and search.questions == 1


def test_unsure_is_replaced_and_ends(tree):
    search = Search(tree, Paper(n_s=2), Thresholds(0.0, 0.6), seed=1)
    (first,) = search.step(limit=1)
    search.answer(first.leaves[0], UNSURE)
    search.answer(first.leaves[1], YES)
    (second,) = search.step(limit=1)
    assert second.cluster == 12 and len(second.leaves) == 1 and not set(second.leaves) & set(first.leaves)
    search.answer(second.leaves[0], YES)
    search.step(limit=1)
    assert [(d.asked, d.yes, d.quality) for d in search.decisions if d.cluster == 12] == [(3, 2, 1.0)]


def test_only_unsure_answers_accept_nothing():
    tree = random_tree(60, 2)
    search = Search(tree, Paper(n_s=4), Thresholds(0.0, 0.0), 2)
    run(search, None, verdict=lambda leaf: UNSURE)
    assert list(search.accepted()) == [] and search.questions <= 60


def test_single_mask():
    tree = Tree.build(np.zeros((0, 4)), np.array([0.9]))
    search = Search(tree, Paper(), Thresholds(0.2, 0.7), 0)
    run(search, [1])
    assert [(d.cluster, d.kind, d.quality, d.lower_bound) for d in search.decisions] == [(0, "accept", 1.0, 1.0)]


@pytest.mark.parametrize(
    ("tell", "message"),
    [
        ([(8, YES)], "mask: expected a leaf from 0 to 7, got 8"),
        ([(1, YES), (1, NO)], "answer for mask 1: expected the verdict recorded before, YES, got NO"),
    ],
)
def test_bad_answers(tree, tell, message):
    search = Search(tree, Paper(), Thresholds(), 0)
    with pytest.raises(InputError) as error:
        for leaf, verdict in tell:
            search.answer(leaf, verdict)
    assert str(error.value) == message


def test_samples_are_uniform():
    tree = random_tree(40, 0)
    count = np.zeros(40)
    for seed in range(2000):
        (ask,) = Search(tree, Paper(n_s=10), Thresholds(0.0, 0.0), seed).step(limit=1)
        count[list(ask.leaves)] += 1
    # 2,000 samples of 10 of 40: 500 expected for each mask, standard deviation 19.4
    assert np.all(abs(count - 500) < 5 * 19.4)


def test_fork_goes_its_own_way():
    tree = random_tree(300, 4)
    truth = np.random.default_rng(4).integers(0, 2, 300)
    search = Search(tree, Paper(n_s=6), Thresholds(0.2, 0.4), 4)
    for _ in range(3):
        for ask in search.step():
            for leaf in ask.leaves[:4]:
                search.answer(leaf, truth[leaf])
    twin = search.fork()
    before = list(search.decisions), search.open, search.questions, search.pending
    for ask in twin.open:
        for leaf in ask.leaves:
            twin.answer(leaf, YES)
    run(twin, np.ones(300))
    assert (list(search.decisions), search.open, search.questions, search.pending) == before
    for ask in search.open:
        for leaf in ask.leaves:
            search.answer(leaf, truth[leaf])
    straight = Search(tree, Paper(n_s=6), Thresholds(0.2, 0.4), 4)
    assert set(run(search, truth)) == set(run(straight, truth)) != set(twin.decisions)
