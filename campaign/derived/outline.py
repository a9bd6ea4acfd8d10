"""The dataset in outline: how many masks came together, and on what they rest, without looking at any mask.

Of rounds that ended the stored datasets are read once, a few columns of them, and what was found is kept. Of the
running round the decisions of the last turn and the verdicts say it; there masks of the same object are not dropped
yet. Under the policy of a target it is what the last turn found delivered.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from campaign.derived.answers import counted_verdicts
from campaign.derived.live import live
from campaign.derived.promises import standing
from campaign.records.dataset_masks import VOTED_RULE, chance_of
from campaign.records.decision import Kind
from campaign.records.stage import Stage
from campaign.records.verdict import Verdict
from campaign.search.selection import NONE
from campaign.store import Store

FORM = "1"  # of what is kept of a round
NO_MASK, NO_CLUSTER = 0, -1

# Masks that came together: of one round, class and cluster, voted yes or not. `mask` is that of a mask which only its
# own answer brought in. `yes` of `asked` were the answers that accepted the cluster; of masks chosen one by one
# `chance` and `spread` are the sums of their chances p and of p (1 - p), NaN where there are none.
GROUP = np.dtype(
    [
        ("round", np.int32), ("class_id", np.int32), ("cluster", np.int64), ("voted", np.bool_), ("mask", np.int64),
        ("masks", np.int64), ("yes", np.int32), ("asked", np.int32), ("chance", np.float64), ("spread", np.float64),
    ]
)  # fmt: skip
_COLUMNS = ("mask_id", "class_id", "cluster", "voted", "yes", "asked", "rule")


@dataclass(frozen=True)
class Outline:
    """Rows of `GROUP`; `provisional` says that some masks of the running round may be of the same object."""

    groups: np.ndarray
    provisional: bool

    @property
    def masks(self) -> int:
        """How many masks the dataset has."""
        return int(self.groups["masks"].sum())

    @property
    def voted(self) -> int:
        """How many of them a person said yes to."""
        return int(self.groups["masks"][self.groups["voted"]].sum())

    def by_class(self) -> dict[int, int]:
        """{class: masks}."""
        classes = np.unique(self.groups["class_id"]).tolist()
        return {c: int(self.groups["masks"][self.groups["class_id"] == c].sum()) for c in classes}


def outline(store: Store) -> Outline:
    """The outline of the dataset as it stands; under the policy of a target as it stood after the last turn."""
    from campaign.derived.delivery import delivered, work_out

    if store.settings.search.policy == "target":
        groups = (delivered(store) or {}).get("groups")
        return Outline(_rows(work_out(store)["groups"] if groups is None else groups), False)
    running = _running(store)
    parts = [ended(store), *([] if running is None else [_of_views(store, running)]), _voted_down(store)]
    return Outline(np.concatenate(parts), running is not None)


def ended(store: Store) -> np.ndarray:
    """Rows of `GROUP` of the rounds that ended."""
    running = _running(store)
    numbers = [r.number for r in store.rounds.all() if r.number != running]
    return np.concatenate([np.zeros(0, GROUP), *(_of_file(store, n) for n in numbers)])


def is_obtained(store: Store, round_number: int, mask_ids: np.ndarray) -> np.ndarray:
    """Which of these predictions of a round are in the dataset, (n,) bool; as they stand, see `outline`."""
    if store.settings.search.policy == "target":
        return np.isin(mask_ids, _delivered_ids(store, round_number))
    if round_number != _running(store):
        columns = _columns(store, round_number, ("mask_id",))
        return np.isin(mask_ids, columns["mask_id"])
    found = np.zeros(len(mask_ids), bool)
    for one in _classes(store, round_number):
        place = np.minimum(np.searchsorted(one.mask_ids, mask_ids), len(one.mask_ids) - 1)
        rows = np.flatnonzero(np.asarray(one.mask_ids)[place] == mask_ids)
        if not len(rows):
            continue
        leaves = place[rows]
        verdict = dict(zip(one.leaves.tolist(), one.said.tolist(), strict=True))
        said = np.array([verdict.get(leaf, NONE) for leaf in leaves.tolist()])
        found[rows] = (said == Verdict.YES) | ((one.accepted_around(leaves) >= 0) & (said == NONE))
    return found


def _running(store: Store) -> int | None:
    """The round whose masks are no stored dataset yet."""
    current = store.rounds.newest()
    return current.number if current is not None and current.stage in (Stage.VERIFY, Stage.PROPAGATE) else None


def _rows(groups: list[list]) -> np.ndarray:
    return np.array([tuple(np.nan if v is None else v for v in row) for row in groups], GROUP)


# stored datasets


def _of_file(store: Store, number: int) -> np.ndarray:
    """Rows of `GROUP` of a stored dataset, worked out once for each time that it was written."""
    path = store.datasets.path(number)
    if not path.exists():
        return np.zeros(0, GROUP)
    stat = path.stat()
    text = repr((FORM, number, stat.st_size, stat.st_mtime_ns))
    version = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    kept = store.views.kept(f"outline/{number}", version)
    if kept is None:
        kept = {"groups": grouped(number, _columns(store, number, _COLUMNS))}
        store.views.keep(f"outline/{number}", version, kept)
    return kept["groups"]


def _columns(store: Store, number: int, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Some columns of a stored dataset; the rule as a number, with the rules themselves as `rules`."""
    import pyarrow.parquet as pq

    table = pq.ParquetFile(store.datasets.path(number), read_dictionary=["rule"]).read(columns=list(names))
    columns = {name: table[name].to_numpy() for name in names if name != "rule"}
    if "rule" in names:
        rule = table["rule"].combine_chunks()
        parts = rule.chunks if hasattr(rule, "chunks") else [rule]
        rules = [str(text) for part in parts for text in part.dictionary.to_pylist()]
        offsets = np.cumsum([0, *(len(part.dictionary) for part in parts)])
        indices = [part.indices.to_numpy() + at for part, at in zip(parts, offsets[:-1].tolist(), strict=True)]
        columns["rule"] = np.concatenate([np.zeros(0, np.int64), *indices]).astype(np.int64)
        columns["rules"] = np.array(rules, object)
    return columns


def grouped(number: int, columns: dict[str, np.ndarray]) -> np.ndarray:
    """Rows of `GROUP` of the masks of a round, given as columns."""
    rules = columns["rules"].tolist()
    alone = np.array([rule == VOTED_RULE for rule in rules], bool)[columns["rule"]] & columns["voted"]
    chances = np.array([np.nan if (p := chance_of(rule)) is None else p for rule in rules], np.float64)
    chance = np.where(columns["voted"], np.nan, chances[columns["rule"]])
    cluster, likely = np.where(alone, NO_CLUSTER, columns["cluster"]), ~np.isnan(chance)
    mask = np.where(alone, columns["mask_id"], NO_MASK)
    keys = [mask, likely, columns["voted"], cluster, columns["class_id"]]
    order = np.lexsort(keys)
    first = np.ones(len(order), bool)
    for key in keys:
        first[1:] &= key[order[1:]] == key[order[:-1]]
    starts = np.flatnonzero(np.append(True, ~first[1:])) if len(order) else np.zeros(0, np.int64)
    rows = np.zeros(len(starts), GROUP)
    at = order[starts]
    rows["round"], rows["class_id"], rows["cluster"] = number, columns["class_id"][at], cluster[at]
    rows["voted"], rows["mask"] = columns["voted"][at], mask[at]
    rows["masks"] = np.diff(np.append(starts, len(order)))
    rows["yes"], rows["asked"] = columns["yes"][at], columns["asked"][at]
    if len(starts):
        rows["chance"] = np.add.reduceat(chance[order], starts)
        rows["spread"] = np.add.reduceat((chance * (1 - chance))[order], starts)
    return rows


def _voted_down(store: Store) -> np.ndarray:
    """Masks of stored datasets that an audit's answers voted down since; each takes one away."""
    rows: list[tuple] = []
    for page_class, keys in _audit_pages(store).items():
        down = [i for i, v in counted_verdicts(store, keys).items() if v != Verdict.YES]
        if not down:
            continue
        for row in store.rounds.all():
            if row.number == _running(store) or not store.datasets.path(row.number).exists():
                continue
            gone = int(np.isin(_columns(store, row.number, ("mask_id",))["mask_id"], down).sum())
            rows += [(row.number, page_class, NO_CLUSTER, False, NO_MASK, -gone, 0, 0, 0.0, 0.0)] if gone else []
    return np.array(rows, GROUP)


def _audit_pages(store: Store) -> dict[int, list[str]]:
    return {c: keys for c in store.classes() if (keys := store.pages.drawn_of_class(c))}


# the running round


@dataclass(frozen=True)
class _Class:
    """A class of the running round: the k leaves that have a verdict, and its c accepted clusters by their place.

    `start` and `size` (c,) say where these lie in the drawn tree, `evidence` (c, 3) are their numbers, `asked`, `yes`.
    """

    class_id: int
    mask_ids: np.ndarray
    place: np.ndarray
    leaves: np.ndarray
    said: np.ndarray
    start: np.ndarray
    size: np.ndarray
    evidence: np.ndarray

    def accepted_around(self, leaves: np.ndarray) -> np.ndarray:
        """The accepted cluster that each of these leaves lies in, by its row, -1 where there is none."""
        at = np.asarray(self.place[leaves], np.int64)
        row = np.searchsorted(self.start, at, side="right") - 1
        return np.where((row >= 0) & (at < np.append(self.start + self.size, 0)[row]), row, -1)


def _classes(store: Store, number: int) -> Iterator[_Class]:
    """The classes of the running round, as the last turn decided and with the verdicts of now."""
    decided: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for class_id, cluster, _, asked, yes in store.decisions.of_kind(number, Kind.ACCEPT):
        decided[class_id].append((cluster, asked, yes))
    views = live(store)
    for entry in store.trees.rows(number):
        if entry.masks:
            tree, mask_ids = store.trees.read(number, entry.class_id)
            evidence = np.array(decided[entry.class_id], np.int64).reshape(-1, 3)
            start, size = (np.asarray(column[evidence[:, 0]], np.int64) for column in (tree.start, tree.size))
            order = np.argsort(start, kind="stable")
            said = views.verdicts(number, entry.class_id)
            yield _Class(entry.class_id, mask_ids, tree.start, *said, start[order], size[order], evidence[order])


def _of_views(store: Store, number: int) -> np.ndarray:
    """Rows of `GROUP` of the running round, from the decisions and verdicts of its classes."""
    parts: list[np.ndarray] = [np.zeros(0, GROUP)]
    for one in _classes(store, number):
        yes, row = one.said == Verdict.YES, one.accepted_around(one.leaves)
        inside = row >= 0
        asked, voted = (np.bincount(row[which], minlength=len(one.start)) for which in (inside, inside & yes))
        rows = np.zeros(2 * len(one.start), GROUP)
        rows["cluster"], rows["asked"], rows["yes"] = np.repeat(one.evidence, 2, axis=0).T
        rows["voted"] = np.tile([False, True], len(one.start))
        rows["masks"] = np.stack([one.size - asked, voted], axis=1).reshape(-1)
        single = np.zeros(int((yes & ~inside).sum()), GROUP)
        single["cluster"], single["voted"], single["masks"] = NO_CLUSTER, True, 1
        single["mask"] = np.asarray(one.mask_ids)[one.leaves[yes & ~inside]]
        both = np.concatenate([rows[rows["masks"] > 0], single])
        both["round"], both["class_id"] = number, one.class_id
        both["chance"] = both["spread"] = np.nan
        parts.append(both)
    return np.concatenate(parts)


# the policy of a target


def _delivered_ids(store: Store, round_number: int) -> np.ndarray:
    """The predictions of a round that are delivered."""
    from campaign.derived.selection import round_selection

    promised = standing(store)
    if promised is not None:
        return promised.mask_id
    if round_number != _running(store):
        return _columns(store, round_number, ("mask_id",))["mask_id"]
    chosen = round_selection(store, round_number)
    return chosen.columns.mask_id[chosen.delivered]


def chosen_groups(round_number: np.ndarray, class_id: np.ndarray, voted: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Rows of `GROUP` of masks that were chosen one by one: (n,) each, `chance` NaN where there is none."""
    likely = ~np.isnan(chance) & ~voted
    keys = np.stack([np.asarray(k, np.int64) for k in (round_number, class_id, voted, likely)], axis=1)
    kinds, of = np.unique(keys, axis=0, return_inverse=True)
    rows, of = np.zeros(len(kinds), GROUP), of.reshape(-1)
    rows["round"], rows["class_id"], rows["voted"] = kinds[:, 0], kinds[:, 1], kinds[:, 2]
    rows["cluster"], rows["masks"] = NO_CLUSTER, np.bincount(of, minlength=len(kinds))
    known = np.where(likely, chance, 0.0)
    for name, values in (("chance", known), ("spread", known * (1 - known))):
        rows[name] = np.where(kinds[:, 3] == 1, np.bincount(of, values, minlength=len(kinds)), np.nan)
    return rows


def as_lists(groups: np.ndarray) -> list[list]:
    """The rows for JSON, which has no NaN."""
    return [[None if v != v else v for v in row] for row in groups.tolist()]
