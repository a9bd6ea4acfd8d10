import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util
from scipy.cluster.hierarchy import linkage

from campaign.clustering import Tree
from campaign.dataset.propagation import drop_duplicates, drop_known, nearest_decided, propagate
from campaign.records.dataset_masks import VOTED_RULE, DatasetMasks
from campaign.records.decision import Decision
from campaign.records.verdict import Verdict
from ml_backend.mask_ids import mask_id
from ml_backend.predictions import Predictions

SIZE = 40


def rectangle(x, y, width, height):
    mask = np.zeros((SIZE, SIZE), np.uint8, order="F")
    mask[y : y + height, x : x + width] = 1
    return mask


def predictions(masks, *, image=1, class_id=1, round_number=1, shard=0, confidence=0.9, predicted_iou=1.0):
    """Predictions from 0/1 arrays; the other columns are one value for all, or one per mask."""
    n = len(masks)
    rles = [mask_util.encode(np.asfortranarray(m, np.uint8)) for m in masks]
    counts = np.empty(n, object)
    counts[:] = [r["counts"] for r in rles]
    return Predictions(
        mask_id=mask_id(round_number, shard, 0) + np.arange(n),
        image_id=np.broadcast_to(image, n),
        class_id=np.broadcast_to(class_id, n),
        box=mask_util.toBbox(rles) if n else np.zeros((0, 4)),
        rle=counts,
        size=np.full((n, 2), SIZE),
        confidence=np.broadcast_to(confidence, n),
        predicted_iou=np.broadcast_to(predicted_iou, n),
        features=np.zeros((n, 0)),
    )


def decision(cluster, kind, *, asked=15, yes=14, rule="quality"):
    return Decision(cluster, kind, rule, asked, yes, yes / asked, 0.8, 0.7)


def tree_of(merges):
    """The tree of n - 1 merges of two clusters each, in the order of their heights."""
    n = len(merges) + 1
    sizes = [1] * n
    for left, right in merges:
        sizes.append(sizes[left] + sizes[right])
    rows = [(left, right, height, sizes[n + height]) for height, (left, right) in enumerate(merges)]
    return Tree.build(np.array(rows, float).reshape(-1, 4), np.full(n, 0.8))


# Leaves 0..4; 5 = {0, 1}, 6 = {2, 3}, 7 = {5, 4} = {0, 1, 4}, 8 = all.
TREE = tree_of([(0, 1), (2, 3), (5, 4), (6, 7)])
FIVE = predictions([rectangle(8 * i, 0, 6, 6) for i in range(5)])
IDS = FIVE.mask_id.tolist()


def taken(decisions, verdicts, tree=TREE):
    by_row = {IDS[row]: verdict for row, verdict in verdicts.items()}
    masks = propagate(FIVE, tree, decisions, by_row, round_number=1, model_version="v")
    return masks, [IDS.index(m) for m in masks.mask_id]


@pytest.mark.parametrize(
    ("decisions", "verdicts", "rows"),
    [
        ([], {}, []),
        ([decision(8, "accept")], {}, [0, 1, 2, 3, 4]),
        ([decision(8, "reject")], {}, []),
        ([decision(8, "split"), decision(7, "accept"), decision(6, "reject")], {}, [0, 1, 4]),
        ([decision(6, "reject"), decision(7, "accept"), decision(8, "split")], {}, [0, 1, 4]),
        ([decision(8, "split"), decision(4, "accept")], {}, [4]),
        ([decision(8, "accept")], {2: Verdict.NO}, [0, 1, 3, 4]),
        ([decision(8, "accept")], {2: Verdict.UNSURE}, [0, 1, 3, 4]),
        ([decision(8, "reject")], {2: Verdict.YES, 3: Verdict.NO}, [2]),
        ([decision(8, "split"), decision(6, "reject")], {0: Verdict.YES, 2: Verdict.YES}, [0, 2]),
        ([], {1: Verdict.YES, 3: Verdict.UNSURE}, [1]),
    ],
)
def test_which_masks_are_taken(decisions, verdicts, rows):
    assert taken(decisions, verdicts)[1] == rows


def test_provenance_is_that_of_the_smallest_decided_cluster():
    decisions = [
        decision(8, "split", asked=15, yes=9, rule="mixed"),
        decision(7, "accept", asked=15, yes=14, rule="quality"),
        decision(6, "reject", asked=4, yes=0, rule="bad"),
    ]
    masks, rows = taken(decisions, {0: Verdict.YES, 2: Verdict.YES})
    assert rows == [0, 1, 2, 4]
    assert masks.cluster.tolist() == [7, 7, 6, 7]
    assert masks.asked.tolist() == [15, 15, 4, 15]
    assert masks.yes.tolist() == [14, 14, 0, 14]
    assert masks.rule.tolist() == ["quality", "quality", VOTED_RULE, "quality"]
    assert masks.voted.tolist() == [True, False, True, False]
    assert masks.model_version.tolist() == ["v"] * 4
    assert masks.round.tolist() == [1] * 4


def test_class_without_a_tree_keeps_what_was_voted_yes():
    masks, rows = taken([], {3: Verdict.YES, 4: Verdict.NO}, tree=None)
    assert rows == [3]
    assert masks.cluster.tolist() == [-1]


def test_no_predictions_no_masks():
    assert len(propagate(Predictions.empty(), None, [], {7: Verdict.YES}, round_number=1, model_version="v")) == 0


def test_nearest_decided_in_a_chain_of_ten_thousand():
    n = 10_000
    chain = tree_of([(0, 1)] + [(n + i, i + 2) for i in range(n - 2)])
    middle = n + 4_000
    found = nearest_decided(chain.parent, n, [decision(2 * n - 2, "split"), decision(middle, "accept")])
    assert (found[:4_002] == middle).all()
    assert (found[4_002:] == 2 * n - 2).all()


@st.composite
def rounds(draw):
    """A class with a random tree, decisions as a search leaves them, and answers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(2, 24))
    masks = [rectangle(*rng.integers(0, 28, 2), *rng.integers(3, 12, 2)) for _ in range(n)]
    found = predictions(
        masks, image=rng.integers(1, 3, n), confidence=rng.choice([0.5, 0.7, 0.9], n), predicted_iou=0.8
    )
    tree = Tree.build(linkage(rng.random((n, 2)), "complete"), np.full(n, 0.8))
    decisions, todo = [], [2 * n - 2]
    while todo:
        cluster = todo.pop()
        kind = rng.choice(["accept", "reject", "split"])
        if kind == "split":
            todo += np.flatnonzero(tree.parent == cluster).tolist()
        decisions.append(decision(cluster, str(kind)))
    verdicts = {int(m): Verdict(int(rng.integers(3))) for m in found.mask_id if rng.random() < 0.4}
    return found, tree, decisions, verdicts, rng


def iou(a, b):
    return float(mask_util.iou(a.rles(), b.rles(), [0] * len(b))[0, 0])


@settings(max_examples=150, deadline=None)
@given(rounds())
def test_votes_bind(case):
    found, tree, decisions, verdicts, _ = case
    masks = propagate(found, tree, decisions, verdicts, round_number=1, model_version="v")
    dataset = drop_duplicates(masks)
    inside = set(dataset.mask_id.tolist())
    for mask, verdict in verdicts.items():
        if verdict == Verdict.NO:
            assert mask not in inside
        elif verdict == Verdict.YES and mask not in inside:
            # Only as the duplicate of one that was voted yes too.
            row = masks.select(masks.mask_id == mask)
            same = (dataset.image_id == row.image_id[0]) & dataset.voted
            assert any(iou(row, dataset.select([i])) > 0.5 for i in np.flatnonzero(same))
    assert inside <= set(masks.mask_id.tolist())


@settings(max_examples=100, deadline=None)
@given(rounds())
def test_kept_masks_are_no_duplicates_and_dropped_ones_are(case):
    found, tree, decisions, verdicts, _ = case
    masks = propagate(found, tree, decisions, verdicts, round_number=1, model_version="v")
    dataset = drop_duplicates(masks, covered=None)
    for group in (dataset.select(dataset.image_id == i) for i in (1, 2)):
        if len(group):
            overlaps = np.asarray(mask_util.iou(group.rles(), group.rles(), [0] * len(group)))
            assert (overlaps[~np.eye(len(group), dtype=bool)] <= 0.5).all()
    for row in np.flatnonzero(~np.isin(masks.mask_id, dataset.mask_id)):
        mask = masks.select([row])
        better = [
            i
            for i in np.flatnonzero(dataset.image_id == mask.image_id[0])
            if iou(mask, dataset.select([i])) > 0.5
            and (-int(dataset.voted[i]), -dataset.score[i], dataset.mask_id[i])
            < (-int(mask.voted[0]), -mask.score[0], mask.mask_id[0])
        ]
        assert better


@settings(max_examples=60, deadline=None)
@given(rounds())
def test_order_of_masks_answers_and_decisions_does_not_matter(case):
    found, tree, decisions, verdicts, rng = case
    masks = propagate(found, tree, decisions, verdicts, round_number=1, model_version="v")
    shuffled = [decisions[i] for i in rng.permutation(len(decisions))]
    backwards = dict(reversed(verdicts.items()))
    again = propagate(found, tree, shuffled, backwards, round_number=1, model_version="v")
    again = drop_duplicates(again.select(rng.permutation(len(again))))
    dataset = drop_duplicates(masks)
    for name in ("mask_id", "cluster", "voted", "rule", "box", "rle"):
        assert np.array_equal(getattr(again, name), getattr(dataset, name))


@settings(max_examples=60, deadline=None)
@given(rounds())
def test_dropping_duplicates_twice_changes_nothing(case):
    found, tree, decisions, verdicts, _ = case
    once = drop_duplicates(propagate(found, tree, decisions, verdicts, round_number=1, model_version="v"))
    assert drop_duplicates(once).mask_id.tolist() == once.mask_id.tolist()


def dataset_of(masks, *, voted=False, round_number=1, **columns):
    found = predictions(masks, round_number=round_number, **columns)
    verdicts = {int(m): Verdict.YES for m in found.mask_id[np.broadcast_to(voted, len(found))]}
    accept = [decision(i, "accept") for i in range(len(found))]
    tree = Tree.build(linkage(np.random.default_rng(0).random((len(found), 2))), found.score)
    return propagate(found, tree, accept, verdicts, round_number=round_number, model_version="v")


WIDE, SHIFTED = rectangle(0, 0, 20, 10), rectangle(2, 0, 20, 10)  # IoU 0.82
APART = rectangle(0, 20, 20, 10)


@pytest.mark.parametrize(
    ("parts", "kept"),
    [
        pytest.param([dict(confidence=[0.6, 0.9])], [(1, 1)], id="higher score"),
        pytest.param([dict(confidence=[0.7, 0.7])], [(1, 0)], id="lower id"),
        pytest.param([dict(confidence=[0.9, 0.6], voted=[False, True])], [(1, 1)], id="voted yes before score"),
        pytest.param([dict(image=[1, 2])], [(1, 0), (1, 1)], id="different images"),
        pytest.param([dict(class_id=[1, 2])], [(1, 0), (1, 1)], id="different classes"),
        pytest.param([dict(confidence=0.6), dict(confidence=0.9)], [(1, 0)], id="earlier round before score"),
        pytest.param([dict(), dict(voted=[False, True])], [(2, 1)], id="voted yes before earlier round"),
    ],
)
def test_which_of_two_duplicates_stays(parts, kept):
    masks = DatasetMasks.concatenate(
        [dataset_of([WIDE, SHIFTED], round_number=r, **columns) for r, columns in enumerate(parts, 1)]
    )
    assert drop_duplicates(masks).mask_id.tolist() == [mask_id(r, 0, row) for r, row in kept]


@pytest.mark.parametrize(
    ("masks", "columns", "kept"),
    [
        pytest.param([WIDE, rectangle(2, 2, 6, 6)], dict(confidence=[0.9, 0.8]), [0], id="part of a kept mask"),
        pytest.param([WIDE, rectangle(2, 2, 6, 6)], dict(confidence=[0.8, 0.9]), [0, 1], id="part ranks first"),
        pytest.param([WIDE, rectangle(2, 2, 6, 6)], dict(voted=[False, True]), [0, 1], id="part that was voted yes"),
        pytest.param(
            [WIDE, rectangle(20, 0, 20, 10), rectangle(10, 0, 20, 10)],
            dict(confidence=[0.9, 0.8, 0.7]),
            [0, 1],
            id="halves of two kept masks",
        ),
        pytest.param(
            [WIDE, rectangle(10, 0, 20, 10)], dict(confidence=[0.9, 0.8]), [0, 1], id="half of its pixels taken"
        ),
        pytest.param([WIDE, APART], {}, [0, 1], id="apart"),
    ],
)
def test_masks_whose_pixels_are_taken(masks, columns, kept):
    whole = dataset_of(masks, **columns)
    assert drop_duplicates(whole).mask_id.tolist() == [mask_id(1, 0, row) for row in kept]
    assert len(drop_duplicates(whole, covered=None)) == len(masks)


def test_a_ring_does_not_swallow_what_lies_in_its_hole():
    ring = rectangle(0, 0, 30, 30) - rectangle(8, 8, 14, 14)
    masks = dataset_of([ring, rectangle(10, 10, 10, 10)], confidence=[0.9, 0.8])
    assert len(drop_duplicates(masks)) == 2


def test_more_masks_of_an_image_than_one_block():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 30, (1300, 2))
    masks = dataset_of([rectangle(x, y, 6, 6) for x, y in corners], confidence=rng.random(1300))
    kept = drop_duplicates(masks, covered=None)
    expected: list[int] = []
    for i in np.argsort(-masks.score, kind="stable"):
        common = np.clip(6 - np.abs(corners[expected] - corners[i]), 0, None).prod(axis=1) if expected else np.zeros(1)
        if (common / (72 - common)).max() <= 0.5:
            expected.append(int(i))
    assert kept.mask_id.tolist() == [mask_id(1, 0, row) for row in sorted(expected)]


@pytest.mark.parametrize(
    ("mask", "columns", "covered", "stays"),
    [
        (SHIFTED, {}, 0.8, False),
        (SHIFTED, dict(image=2), 0.8, True),
        (SHIFTED, dict(class_id=2), 0.8, True),
        (APART, {}, 0.8, False),
        (rectangle(22, 0, 15, 10), {}, 0.8, True),
        (rectangle(10, 0, 20, 10), {}, 0.8, True),
        (rectangle(2, 2, 6, 6), {}, 0.8, False),
        (rectangle(2, 2, 6, 6), {}, None, True),
        (rectangle(0, 6, 20, 20), {}, 0.8, True),  # touches both dataset masks by less than the limit
        (rectangle(0, 1, 20, 28), {}, 0.6, False),  # most of it lies in the two together
    ],
)
def test_drop_known(mask, columns, covered, stays):
    dataset = dataset_of([WIDE, APART])
    new = predictions([mask], round_number=2, **columns)
    assert drop_known(new, dataset, covered=covered).mask_id.tolist() == ([mask_id(2, 0, 0)] if stays else [])


def test_drop_known_without_a_dataset_keeps_all():
    assert drop_known(FIVE, DatasetMasks.empty()).mask_id.tolist() == IDS
    assert len(drop_known(Predictions.empty(), dataset_of([WIDE, APART]))) == 0


def test_a_column_of_the_wrong_length_is_refused():
    masks = dataset_of([WIDE, APART])
    columns = {name: getattr(masks, name) for name in masks.COLUMNS}
    with pytest.raises(ValueError, match=r"^box: expected shape \(n, 4\) with n = 2, got \(1, 4\)$"):
        DatasetMasks(**{**columns, "box": masks.box[:1]})
