"""Groups of masks that were chosen one by one."""

import numpy as np

from campaign.derived.groups import chosen_groups


def test_masks_are_grouped_by_round_class_vote_and_whether_there_is_a_chance():
    rounds = np.array([1, 2, 1, 1, 1, 1])
    classes = np.array([7, 7, 2_000_000_000, 7, 7, 7])  # category ids are as large as they like
    voted = np.array([False, False, False, True, False, False])
    chance = np.array([0.9, 0.8, 0.5, np.nan, 0.7, np.nan])
    rows = chosen_groups(rounds, classes, voted, chance)
    found = {(r["round"], r["class_id"], r["voted"], bool(np.isnan(r["chance"]))): r["masks"] for r in rows}
    likely = [(1, 7, False, False), (2, 7, False, False), (1, 2_000_000_000, False, False)]
    assert found == dict(zip(likely, (2, 1, 1), strict=True)) | {(1, 7, True, True): 1, (1, 7, False, True): 1}
    (own,) = rows[(rows["class_id"] == 7) & (rows["round"] == 1) & ~np.isnan(rows["chance"])]
    np.testing.assert_allclose([own["chance"], own["spread"]], [1.6, 0.09 + 0.21])
    assert len(chosen_groups(*(np.zeros(0, t) for t in (int, int, bool, float)))) == 0
