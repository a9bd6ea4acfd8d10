"""What the verifier's trees say of a round's masks, kept for every group of classes that is grown by itself.

What they say before any answer is worked out when a round opens, so that no turn waits for it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from campaign.derived.columns import Columns, Inputs, round_columns
from campaign.records.verdict import Verdict
from campaign.search.growth import SHARED, groups_of, growth_plan, own_groups
from campaign.search.verifier import grow
from campaign.store import Store

PART = 1 << 16  # masks that trees are asked about at a time
FORM = 1  # of snapshots; another form is worked out anew


@dataclass(frozen=True)
class Said:
    """The chances of a round's masks, `pool` (n,), also by trees that saw nothing of their images, `crossed` (n,).

    `heldout` (h,) are those of held-out masks by trees that saw nothing of their images, whose true IoU, image and
    class stand beside.
    """

    pool: np.ndarray
    crossed: np.ndarray
    heldout: np.ndarray
    heldout_iou: np.ndarray
    heldout_image: np.ndarray
    heldout_class: np.ndarray


def prepare(store: Store, round_number: int) -> None:
    """Works out what the first turn of a round needs: columns, and trees grown on held-out masks alone."""
    said_unseen(store, round_number, round_columns(store).of_round(round_number))


def said_unseen(store: Store, round_number: int, columns: Columns) -> Said:
    """What is thought of masks before any answer: answers tell what annotators say, and cannot tell what they pass."""
    version, name = _version(store, columns, (), b""), f"unseen/{round_number}"
    arrays = store.views.kept(name, version)
    if arrays is None:
        inputs = round_columns(store).inputs(round_number)
        nothing = np.zeros(0, np.int64)
        arrays = _grown(store, inputs, np.ones(len(inputs.pool), bool), np.ones(len(inputs.heldout), bool), nothing)
        arrays |= {
            "heldout_iou": inputs.heldout_iou, "heldout_image": inputs.heldout.image,
            "heldout_class": inputs.heldout.class_id,
        }  # fmt: skip
        store.views.keep(name, version, arrays)
    return Said(**arrays)


def said(store: Store, round_number: int, columns: Columns, rows: np.ndarray, verdict: np.ndarray) -> Said:
    """What trees say that are grown on the verdicts of these rows, in the order in which they came, as far as planned.

    `verdict` (n,) int8 is that of every mask.
    """
    unseen = said_unseen(store, round_number, columns)
    own = own_groups(unseen.heldout_class, unseen.heldout_iou >= store.settings.search.k_iou)
    group, of_heldout = groups_of(columns.class_id, own), groups_of(unseen.heldout_class, own)
    plan = growth_plan(group[rows])
    if not plan:
        return unseen
    inputs = cache(lambda: round_columns(store).inputs(round_number))  # large, and seldom needed
    pool, crossed, heldout = unseen.pool.copy(), unseen.crossed.copy(), unseen.heldout.copy()
    for number, count in sorted(plan.items()):
        used = rows[group[rows] == number][:count]
        version = _version(store, columns, (number, *own.tolist()), used.tobytes() + verdict[used].tobytes())
        name = f"trees/{round_number}/{'shared' if number == SHARED else number}"
        here, there = group == number, of_heldout == number
        arrays = store.views.kept(name, version)
        if arrays is None:
            arrays = _grown(store, inputs(), here, there, used, verdict[used] == Verdict.YES)
            store.views.keep(name, version, arrays)
        pool[here], crossed[here], heldout[there] = arrays["pool"], arrays["crossed"], arrays["heldout"]
    return replace(unseen, pool=pool, crossed=crossed, heldout=heldout)


def _version(store: Store, columns: Columns, group: tuple[int, ...], answers: bytes) -> str:
    """Names all that trees follow from."""
    mark = FORM, columns.version, store.settings.search.k_iou, store.settings.seed, *group
    told = hashlib.blake2b(repr(mark).encode(), digest_size=16)
    told.update(answers)
    return told.hexdigest()


def _grown(
    store: Store, inputs: Inputs, here: np.ndarray, there: np.ndarray, rows: np.ndarray, yes: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """What trees say of the masks `here` (n,) bool and of held-out ones `there` (h,) bool, grown on the latter.

    And on the answers `yes` about these rows.
    """
    pool, heldout = inputs.pool, inputs.heldout.select(there)
    correct = inputs.heldout_iou[there] >= store.settings.search.k_iou
    given = np.zeros(len(rows), bool) if yes is None else yes
    forest = grow(heldout, correct, pool.select(rows), given, store.settings.seed)
    chances, crossed = np.empty(len(pool)), np.empty(len(pool))
    wanted = np.flatnonzero(here)
    wanted = wanted[np.argsort(pool.class_id[wanted], kind="stable")]  # classes have trees of their own
    for start in range(0, len(wanted), PART):
        some = wanted[start : start + PART]
        part = pool.select(some)
        chances[some], crossed[some] = forest.chances(part), forest.crossed(part, np.ones(len(part), bool))
    return {
        "pool": chances[here], "crossed": crossed[here],
        "heldout": forest.crossed(heldout, np.zeros(len(heldout), bool)),
    }  # fmt: skip
