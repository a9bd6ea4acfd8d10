"""Which trees are grown anew, and on which answers."""

import numpy as np
import pytest

from campaign.search import growth
from campaign.search.growth import MOST_AT_ONCE, SHARED, groups_of, growth_plan, own_groups
from campaign.search.verifier import growth_milestone, milestone


def test_one_class_is_grown_by_all_answers():
    for answers in (0, 150, 299, 300, 914, 1426, 6000):
        fitted = milestone(answers)
        plan = growth_plan(np.zeros(fitted, np.int64))
        assert plan.get(0, 0) == growth_milestone(fitted)


def test_no_fit_grows_more_groups_than_a_turn_can_bear():
    group, before = np.random.default_rng(0).integers(0, 30, 40_000), dict[int, int]()
    fits = sorted({milestone(n) for n in range(0, 40_000, 20)})
    for known in fits:
        plan = growth_plan(group[:known])
        changed = [g for g in plan if plan[g] != before.get(g)]
        assert len(changed) <= MOST_AT_ONCE and set(before) <= set(plan)
        assert all(plan[g] <= (group[:known] == g).sum() for g in plan)
        before = plan
    assert len(before) > 10


def test_the_plan_follows_from_the_answers_so_far(monkeypatch):
    monkeypatch.setattr(growth, "MOST_AT_ONCE", 1)
    group = np.arange(1426) % 2
    assert growth_plan(group[:731]) == {0: 300} and growth_plan(group[:913]) == {0: 300, 1: 300}
    assert growth_plan(group[:731]) == {0: 300}, "whatever was asked of it before"


@pytest.mark.parametrize(
    "masks, right, alone", [(399, 200, False), (400, 200, True), (400, 39, False), (2000, 40, True)]
)
def test_classes_stand_alone_by_what_is_held_out(masks, right, alone):
    class_id = np.repeat([3, 5], [masks, 10])
    correct = np.arange(masks + 10) < right
    own = own_groups(class_id, correct)
    assert own.tolist() == ([3] if alone else [])
    assert groups_of(np.array([3, 5, 7]), own).tolist() == [3 if alone else SHARED, SHARED, SHARED]
    assert not len(own_groups(class_id[:masks], correct[:masks])), "the only class"
