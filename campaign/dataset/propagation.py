"""From decisions and answers to the dataset: pure functions over columnar records.

Every mask of an accepted cluster takes the cluster's label, except one voted "no" or "unsure"; a mask voted "yes" is
taken whatever becomes of its cluster. Of masks that show the same object one stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from pycocotools import mask as mask_util

from campaign.records.dataset_masks import VOTED_RULE, DatasetMasks
from campaign.records.decision import Kind
from campaign.records.verdict import Verdict
from ml_backend.masks.rle import areas
from ml_backend.predictions import Predictions

if TYPE_CHECKING:
    from campaign.clustering import Tree

_CHUNK = 65_536  # masks whose run lengths are handed to pycocotools together
_BLOCK = 512  # masks compared with all kept ones at a time, which bounds the IoU matrix of a crowded image


class Decided(Protocol):
    """A decision as far as it is needed here: one of `campaign.search.tree_search`, or the store's row of one."""

    @property
    def cluster(self) -> Any:
        """The cluster's id in its tree."""

    @property
    def kind(self) -> Any:
        """Accept, reject or split."""

    @property
    def rule(self) -> Any:
        """The rule that decided."""

    @property
    def asked(self) -> Any:
        """The masks whose answers were weighed."""

    @property
    def yes(self) -> Any:
        """How many of those were voted "yes"."""


def propagate(
    predictions: Predictions,
    tree: Tree | None,
    decisions: Sequence[Decided],
    verdicts: Mapping[int, Verdict],
    *,
    round_number: int,
    model_version: str,
) -> DatasetMasks:
    """The dataset masks of one class in one round, duplicates included, in the order of the predictions.

    A mask voted "no" is never among them, one voted "yes" always is. One voted "unsure" stays out even if its cluster
    is accepted: a person looked at it and could not confirm it, so the sample's evidence does not speak for it.
    (Papadopoulos et al., section 3.3, with the export of voted-down masks mended.)

    Args:
        predictions: the class's masks; row i is leaf i of the tree.
        tree: the class's tree, or None where it was not clustered and only votes count.
        decisions: those made about clusters of this tree, in any order.
        verdicts: mask id to verdict, one per mask after the answers of several annotators
            were brought together; ids of other masks are ignored.
        round_number: the round that the predictions belong to.
        model_version: version of the detector that predicted them.
    """
    rows = propagated_rows(predictions.mask_id, tree, decisions, verdicts)
    return rows.of(predictions.select(rows.row), round_number, model_version)


@dataclass(frozen=True)
class PropagatedRows:
    """Which k of a class's n masks become masks of the dataset, `row` (k,), and what each rests on, (k,) each."""

    row: np.ndarray
    cluster: np.ndarray
    asked: np.ndarray
    yes: np.ndarray
    rule: np.ndarray
    voted: np.ndarray

    @classmethod
    def concatenate(cls, parts: Sequence[PropagatedRows]) -> PropagatedRows:
        """Those of several classes; each row then is one of its own class still."""
        types = np.int64, np.int64, np.int32, np.int32, object, np.bool_
        none = cls(*(np.zeros(0, dtype) for dtype in types))
        columns = {f.name: [getattr(part, f.name) for part in (none, *parts)] for f in fields(cls)}
        return cls(**{name: np.concatenate(column) for name, column in columns.items()})

    def select(self, index: np.ndarray) -> PropagatedRows:
        """Some of them."""
        return PropagatedRows(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def of(self, predictions: Predictions, round_number: int, model_version: str) -> DatasetMasks:
        """The masks of the dataset; `predictions` are those of the k rows."""
        names = "mask_id", "image_id", "class_id", "box", "rle", "size", "confidence", "predicted_iou"
        return DatasetMasks(
            **{name: getattr(predictions, name) for name in names},
            round=np.full(len(self.row), round_number),
            cluster=self.cluster,
            asked=self.asked,
            yes=self.yes,
            rule=self.rule,
            model_version=np.full(len(self.row), model_version, object),
            voted=self.voted,
        )


def propagated_rows(
    mask_ids: np.ndarray, tree: Tree | None, decisions: Sequence[Decided], verdicts: Mapping[int, Verdict]
) -> PropagatedRows:
    """What `propagate` takes, by the ids of the class's masks alone: the masks themselves need not be read for it."""
    n = len(mask_ids)
    verdict = _verdict_column(mask_ids, verdicts)
    cluster = np.full(n, -1, np.int64) if tree is None else nearest_decided(tree.parent, n, decisions)
    by_cluster = {d.cluster: d for d in decisions}
    known = np.array(sorted(by_cluster), np.int64)
    ordered = [by_cluster[int(c)] for c in known]
    at = np.searchsorted(known, cluster)  # position of each mask's decision; len(known) or wrong where cluster is -1
    decided = cluster >= 0

    def column(values: list, missing: object, dtype: type) -> np.ndarray:
        table: np.ndarray = np.empty(len(values) + 1, dtype)
        table[:-1], table[-1] = values, missing
        return table[np.where(decided, at, len(values))]

    accepted = column([d.kind == Kind.ACCEPT for d in ordered], False, bool)
    keep = (verdict == Verdict.YES) | (accepted & (verdict == -1))
    rule = np.where(accepted, column([d.rule for d in ordered], "", object), VOTED_RULE)
    asked, yes = column([d.asked for d in ordered], 0, np.int32), column([d.yes for d in ordered], 0, np.int32)
    row = np.flatnonzero(keep)
    return PropagatedRows(row, cluster[row], asked[row], yes[row], rule[row], verdict[row] == Verdict.YES)


def nearest_decided(parent: np.ndarray, n: int, decisions: Sequence[Decided]) -> np.ndarray:
    """For each of the n leaves the smallest decided cluster that holds it, (n,) int64; -1 where there is none.

    `parent` is (2n-1,), the tree's; ids of a merge are above those of its children, the root's parent is negative or
    itself. O(n log depth), by doubling pointers.
    """
    parent = np.asarray(parent, np.int64)
    clusters = np.arange(len(parent))
    decided = np.zeros(len(parent), bool)
    decided[[d.cluster for d in decisions]] = True
    top = (parent < 0) | (parent == clusters)
    above = np.where(decided | top, clusters, parent)
    while not np.array_equal(further := above[above], above):
        above = further
    return np.where(decided[above[:n]], above[:n], -1)


def drop_duplicates(masks: DatasetMasks, iou: float = 0.5, covered: float | None = 0.8) -> DatasetMasks:
    """The masks without duplicates, ordered by mask id; the order of the input does not matter.

    Within one image and class the masks are taken in the order voted "yes" first, then earlier round, then higher
    score, then lower mask id. One is left out if its IoU with a mask taken before it is above `iou`. A propagated mask
    is left out too if more than `covered` of its pixels belong to masks taken before it: a part of an object already
    there, or two such objects in one, has a low IoU with each of them and yet shows nothing new. A mask voted "yes"
    never falls to that second rule, because a person called it right. `covered=None` turns the rule off.
    """
    return masks.select(unlike_rows(masks, iou, covered))


def unlike_rows(masks: DatasetMasks, iou: float = 0.5, covered: float | None = 0.8) -> np.ndarray:
    """The rows that `drop_duplicates` leaves, (k,) int64, by mask id."""
    order = np.lexsort((masks.mask_id, -masks.score, masks.round, ~masks.voted))
    touching = _touching(masks)
    kept = ~touching
    for group in _groups(masks, order[touching[order]]):
        kept[group] = True if len(group) == 1 else _unlike(_rles(masks, group), masks.voted[group], iou, covered)
    chosen = np.flatnonzero(kept)
    return chosen[np.argsort(masks.mask_id[chosen], kind="stable")]


def _touching(masks: DatasetMasks) -> np.ndarray:
    """Which masks have a box that another one of their image and class overlaps, (n,) bool: all others are alone."""
    touching, by_group = np.zeros(len(masks), bool), np.lexsort((masks.class_id, masks.image_id))
    if not len(masks):
        return touching
    boxes = np.concatenate(
        [mask_util.toBbox(_rles(masks, by_group[n : n + _CHUNK])) for n in range(0, len(by_group), _CHUNK)]
    )
    start, end = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    image, class_id = masks.image_id[by_group], masks.class_id[by_group]
    first: np.ndarray = np.arange(len(masks))
    for step in range(1, len(masks)):  # as far as the largest group reaches
        first = first[first + step < len(masks)]
        first = first[(image[first] == image[first + step]) & (class_id[first] == class_id[first + step])]
        if not len(first):
            break
        second = first + step
        common = ((start[first] < end[second]) & (start[second] < end[first])).all(axis=1)
        touching[by_group[first[common]]] = touching[by_group[second[common]]] = True
    return touching


def _unlike(rles: list[dict], voted: np.ndarray, iou: float, covered: float | None) -> np.ndarray:
    """Which masks of one image and class to keep, best first; (n,) bool."""
    kept = np.zeros(len(rles), bool)
    for start in range(0, len(rles), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(rles)))
        columns = np.concatenate([np.flatnonzero(kept), block])
        overlaps = _overlaps([rles[i] for i in block], [rles[c] for c in columns])
        for row, i in enumerate(block):
            before = np.flatnonzero(kept[columns] & (overlaps.iou[row] > 0) & (columns < i))
            if len(before):
                if overlaps.iou[row, before].max() > iou:
                    continue
                touching = [rles[c] for c in columns[before]]
                shares = overlaps.share[row, before].sum()
                if covered is not None and not voted[i] and _covered(rles[i], touching, shares, covered):
                    continue
            kept[i] = True
    return kept


def drop_known(
    predictions: Predictions, dataset: DatasetMasks | Predictions, iou: float = 0.5, covered: float | None = 0.8
) -> Predictions:
    """The predictions that show something new, in their order.

    Dropped is one that a dataset mask of its image and class overlaps by an IoU above `iou`, and one of whose pixels
    more than `covered` belong to dataset masks of its class (see `drop_duplicates`). `covered=None` leaves only the
    published rule (Papadopoulos et al., section 3.4).
    """
    kept = np.ones(len(predictions), bool)
    present = {_key(dataset, group[0]): group for group in _groups(dataset, np.arange(len(dataset)))}
    for group in _groups(predictions, np.arange(len(predictions))):
        known = present.get(_key(predictions, group[0]))
        if known is None:
            continue
        there = _rles(dataset, known)
        for start in range(0, len(group), _BLOCK):
            block = group[start : start + _BLOCK]
            new = _rles(predictions, block)
            overlaps = _overlaps(new, there)
            kept[block] = overlaps.iou.max(axis=1) <= iou
            if covered is None:
                continue
            for row in np.flatnonzero(kept[block] & (overlaps.share.sum(axis=1) > covered)):
                touching = [there[c] for c in np.flatnonzero(overlaps.share[row] > 0)]
                kept[block[row]] = not _covered(new[row], touching, overlaps.share[row].sum(), covered)
    return predictions.select(kept)


def unlike(masks: Predictions, iou: float = 0.5) -> np.ndarray:
    """Rows of the masks that no earlier one of them overlaps, on its image and in its class, by an IoU above `iou`.

    Of several that show one object that is the first alone.
    """
    kept = np.zeros(len(masks), bool)
    for group in _groups(masks, np.arange(len(masks))):
        kept[group] = _unlike(_rles(masks, group), np.zeros(len(group), bool), iou, None)
    return np.flatnonzero(kept)


@dataclass(frozen=True)
class _Overlaps:
    iou: np.ndarray  # (rows, columns)
    share: np.ndarray  # (rows, columns): part of the row's pixels that the column's mask holds


def _overlaps(rows: list[dict], columns: list[dict]) -> _Overlaps:
    iou = np.asarray(mask_util.iou(rows, columns, [0] * len(columns)))
    row_area, column_area = areas(rows).astype(float), areas(columns)
    common = np.rint(iou * (row_area[:, None] + column_area) / (1 + iou))
    return _Overlaps(iou, common / np.maximum(row_area[:, None], 1))


def _covered(rle: dict, touching: list[dict], sum_of_shares: float, limit: float) -> bool:
    """Whether more than `limit` of a mask lies in the union of others; the sum of shares bounds it from above."""
    if sum_of_shares <= limit:
        return False
    if len(touching) == 1:
        return True
    # pycocotools divides by the first mask's area where the second is a crowd.
    return float(mask_util.iou([rle], [mask_util.merge(touching)], [1])[0, 0]) > limit


def _groups(masks: DatasetMasks | Predictions, order: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of one image and class at a time, each in the order of `order`."""
    if not len(order):
        return
    by_group = order[np.lexsort((masks.class_id[order], masks.image_id[order]))]  # lexsort is stable
    image, class_id = masks.image_id[by_group], masks.class_id[by_group]
    cuts = np.flatnonzero((image[1:] != image[:-1]) | (class_id[1:] != class_id[:-1])) + 1
    yield from np.split(by_group, cuts)


def _key(masks: DatasetMasks | Predictions, row: int) -> tuple[int, int]:
    return int(masks.image_id[row]), int(masks.class_id[row])


def _rles(masks: DatasetMasks | Predictions, index: np.ndarray | slice) -> list[dict]:
    sizes = masks.size[index].tolist()
    return [{"size": s, "counts": c} for s, c in zip(sizes, masks.rle[index], strict=True)]


def _verdict_column(mask_ids: np.ndarray, verdicts: Mapping[int, Verdict]) -> np.ndarray:
    """Verdict of each mask, (n,) int8; -1 where there is none."""
    column = np.full(len(mask_ids), -1, np.int8)
    if not verdicts or not len(mask_ids):
        return column
    ids = np.fromiter(verdicts.keys(), np.int64, len(verdicts))
    values = np.fromiter((int(v) for v in verdicts.values()), np.int8, len(verdicts))
    order = np.argsort(ids)
    at = np.minimum(np.searchsorted(ids, mask_ids, sorter=order), len(ids) - 1)
    hit = ids[order[at]] == mask_ids
    column[hit] = values[order[at[hit]]]
    return column
