"""A search that catches up in parts, is written down and restored anywhere, goes the way of one that did not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from campaign.clustering import Tree, linkage
from campaign.records.verdict import Verdict
from campaign.search.policies import POLICIES, make_policy
from campaign.search.thresholds import Thresholds
from campaign.search.tree_search import Search


def grown(seed: int, n: int) -> tuple[Tree, np.ndarray]:
    """A tree over `n` masks in a few groups, and the truth of each."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(4, 6)) * 3
    group = rng.integers(0, 4, n)
    score = np.clip(rng.normal(0.4 + 0.15 * group, 0.1), 0.01, 0.99).astype(np.float32)
    features = (centre[group] + rng.normal(size=(n, 6))).astype(np.float16)
    return Tree.build(linkage(features, score), score), rng.random(n) < score


def plain(search: Search) -> tuple:
    """All that can be seen of a search, in no order of arrival."""
    decisions = sorted(search.decisions, key=lambda d: d.cluster)
    return decisions, search.wishes(), search.open, search.questions, search.outstanding, sorted(search.pending)


@pytest.mark.parametrize("policy", sorted(POLICIES))
@given(data=st.data(), seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_same_facts_same_search(policy, data, seed):
    tree, truth = grown(seed, data.draw(st.integers(2, 60)))
    thresholds = Thresholds(0.05, 0.3)

    def fresh() -> Search:
        return Search(tree, make_policy(policy), thresholds, seed)

    search = fresh()
    asked: list[int] = []
    answered: list[int] = []
    for _ in range(data.draw(st.integers(1, 12))):
        search.catch_up()
        wanted = [leaf for ask in search.wishes() for leaf in ask.leaves]
        chosen = data.draw(st.lists(st.sampled_from(wanted), unique=True)) if wanted else []
        ahead = data.draw(st.lists(st.integers(0, tree.n - 1), max_size=2, unique=True))
        new = [leaf for leaf in dict.fromkeys(chosen + ahead) if leaf not in asked]
        search.asked(new)
        asked += new
        open_ = [leaf for leaf in asked if leaf not in answered]
        for leaf in data.draw(st.lists(st.sampled_from(open_), unique=True)) if open_ else []:
            search.answer(leaf, Verdict(int(truth[leaf])))
            answered.append(leaf)
        if data.draw(st.booleans()):
            search.catch_up()
            search = Search.restore(tree, make_policy(policy), thresholds, seed, search.state())
    search.catch_up()
    once = fresh()
    once.asked(data.draw(st.permutations(asked)))
    for leaf in data.draw(st.permutations(answered)):
        once.answer(leaf, Verdict(int(truth[leaf])))
    once.catch_up()
    assert plain(search) == plain(once)
    again = Search.restore(tree, make_policy(policy), thresholds, seed, search.state())
    assert plain(again) == plain(search)


def test_only_a_search_that_caught_up_has_a_state():
    tree, _ = grown(0, 10)
    with pytest.raises(ValueError, match="caught up"):
        Search(tree, make_policy("paper"), Thresholds(), 0).state()
