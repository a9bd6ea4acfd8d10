import numpy as np
import pytest

from campaign.clustering import Tree, linkage
from campaign.clustering.counterparts import counterparts
from tests.campaign.clustering.reference import masks


def trees(seed: int, old: int, new: int) -> tuple[Tree, Tree]:
    features, scores = masks("normal", new, 3, seed)
    built = [Tree.build(linkage(features[:n], scores[:n]), scores[:n]) for n in (old, new)]
    return built[0], built[1]


@pytest.mark.parametrize(("seed", "old_n", "new_n"), [(0, 20, 20), (1, 20, 21), (2, 30, 45), (3, 5, 40), (4, 1, 3)])
def test_old_masks_stay_together_and_no_other_old_one_comes_to_them(seed, old_n, new_n):
    old, new = trees(seed, old_n, new_n)
    for cluster in range(len(old)):
        want = set(old.members(cluster).tolist())
        found = [set(new.members(c).tolist()) for c in counterparts(old, new, cluster)]
        assert sum(map(len, found)) == len(set().union(*found)), "they share no mask"
        assert {leaf for members in found for leaf in members if leaf < old.n} == want
        for members, c in zip(found, counterparts(old, new, cluster), strict=True):
            inside = [set(new.members(int(child)).tolist()) for child in new.children[c] if child >= 0]
            assert all(members & want != child & want for child in inside), "a half has all its old masks"
            parent = int(new.parent[c])
            while parent >= 0 and {leaf for leaf in new.members(parent).tolist() if leaf < old.n} == members & want:
                parent = int(new.parent[parent])
            assert parent < 0 or {leaf for leaf in new.members(parent).tolist() if leaf < old.n} - want


def test_newcomers_inside_belong_to_it_and_those_beside_do_not():
    old = Tree.build(np.array([[0, 1, 1.0, 2]]), np.zeros(2))
    inside = Tree.build(np.array([[0, 2, 0.5, 2], [1, 3, 1.0, 3]]), np.zeros(3))
    beside = Tree.build(np.array([[0, 1, 1.0, 2], [2, 3, 2.0, 3]]), np.zeros(3))
    apart = Tree.build(np.array([[0, 2, 0.5, 2], [1, 3, 0.6, 2], [4, 5, 9.0, 4]]), np.zeros(4))
    assert [counterparts(old, tree, 2) for tree in (inside, beside, apart)] == [[4], [3], [6]]
