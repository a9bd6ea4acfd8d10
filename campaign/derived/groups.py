"""Masks of the dataset that came together, as rows: of stored datasets, and of masks that were chosen one by one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from campaign.records.dataset_masks import VOTED_RULE, chance_of
from campaign.records.stage import Stage
from campaign.search.portions import portions
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


def ended(store: Store) -> np.ndarray:
    """Rows of `GROUP` of the rounds that ended."""
    running = running_round(store)
    numbers = [r.number for r in store.rounds.all() if r.number != running]
    return np.concatenate([np.zeros(0, GROUP), *(_of_file(store, n) for n in numbers)])


def running_round(store: Store) -> int | None:
    """The round whose masks are no stored dataset yet."""
    current = store.rounds.newest()
    return current.number if current is not None and current.stage in (Stage.VERIFY, Stage.PROPAGATE) else None


def from_lists(groups: list[list]) -> np.ndarray:
    """The rows that `as_lists` wrote."""
    return np.array([tuple(np.nan if v is None else v for v in row) for row in groups], GROUP)


def _of_file(store: Store, number: int) -> np.ndarray:
    """Rows of `GROUP` of a stored dataset, worked out once for each time that it was written."""
    path = store.datasets.file(number)
    if path is None:
        return np.zeros(0, GROUP)
    stat = path.stat()
    text = repr((FORM, number, stat.st_size, stat.st_mtime_ns))
    version = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    kept = store.views.kept(f"outline/{number}", version)
    if kept is None:
        kept = {"groups": grouped(number, stored_columns(store, number, _COLUMNS))}
        store.views.keep(f"outline/{number}", version, kept)
    return kept["groups"]


def stored_columns(store: Store, number: int, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Some columns of a stored dataset; the rule as a number, with the rules themselves as `rules`."""
    import pyarrow.parquet as pq

    table = pq.ParquetFile(store.datasets.file(number), read_dictionary=["rule"]).read(columns=list(names))
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


def chosen_groups(round_number: np.ndarray, class_id: np.ndarray, voted: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """Rows of `GROUP` of masks that were chosen one by one: (n,) each, `chance` NaN where there is none."""
    classes = np.unique(class_id)
    count = max(len(classes), 1)
    masks = np.zeros(4 * count * (int(np.max(round_number, initial=0)) + 1), np.int64)
    sums = {"chance": np.zeros(len(masks)), "spread": np.zeros(len(masks))}
    for part in portions(len(class_id)):
        likely = ~np.isnan(chance[part]) & ~voted[part]
        code = round_number[part].astype(np.int64) * count + np.searchsorted(classes, class_id[part])
        code = code * 4 + 2 * voted[part] + likely  # few, so rows need not be sorted
        masks += np.bincount(code, minlength=len(masks))
        known = np.where(likely, chance[part], 0.0)
        np.add.at(sums["chance"], code, known)
        np.add.at(sums["spread"], code, known * (1 - known))
    kinds = np.flatnonzero(masks)
    rows = np.zeros(len(kinds), GROUP)
    rows["round"], rows["class_id"] = kinds // 4 // count, classes[kinds // 4 % count]
    rows["voted"] = kinds // 2 % 2
    rows["cluster"], rows["masks"] = NO_CLUSTER, masks[kinds]
    for name, values in sums.items():
        rows[name] = np.where(kinds % 2 == 1, values[kinds], np.nan)
    return rows


def as_lists(groups: np.ndarray) -> list[list]:
    """The rows for JSON, which has no NaN."""
    return [[None if v != v else v for v in row] for row in groups.tolist()]
