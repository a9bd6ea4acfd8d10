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
from campaign.search.growth import SHARED, groups_of, growth_plan, in_group, own_groups
from campaign.search.portions import portions
from campaign.search.verifier import grow
from campaign.store import Store

FORM = 1  # of snapshots; another form is worked out anew


@dataclass(frozen=True)
class Said:
    """The chances of a round's masks, `pool` (n,); `crossed` are of some by trees that saw nothing of their images.

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
    """What is thought of masks before any answer: answers tell what annotators say, and cannot tell what they pass.

    `crossed` (n,) is of all masks; it and `pool` lie on disk.
    """
    version, name = _version(store, columns, (), b""), f"unseen/{round_number}"
    mapped = "pool", "crossed"
    arrays = store.views.kept(name, version, mapped=mapped)
    if arrays is None:
        inputs = round_columns(store).inputs(round_number)
        nothing = np.zeros(0, np.int64)
        grown = _grown(store, inputs, np.ones(len(inputs.pool), bool), np.ones(len(inputs.heldout), bool), nothing)
        grown |= {
            "heldout_iou": inputs.heldout_iou, "heldout_image": inputs.heldout.image,
            "heldout_class": inputs.heldout.class_id,
        }  # fmt: skip
        store.views.keep(name, version, grown)
        arrays = store.views.kept(name, version, mapped=mapped) or grown  # another process may have kept newer ones
    return Said(**arrays)


def said(store: Store, round_number: int, columns: Columns, rows: np.ndarray, verdict: np.ndarray) -> Said:
    """What trees say that are grown on the verdicts of these rows, in the order in which they came, as far as planned.

    `verdict` (n,) int8 is that of every mask; `crossed` (a,) is of these rows.
    """
    unseen = said_unseen(store, round_number, columns)
    own = own_groups(unseen.heldout_class, unseen.heldout_iou >= store.settings.search.k_iou)
    group = groups_of(columns.class_id[rows], own)
    plan, crossed = growth_plan(group), unseen.crossed[rows]
    if not plan:
        return replace(unseen, crossed=crossed)
    inputs = cache(lambda: round_columns(store).inputs(round_number))  # large, and seldom needed
    pool, heldout = unseen.pool.copy(), unseen.heldout.copy()
    for number, count in sorted(plan.items()):
        used = rows[group == number][:count]
        version = _version(store, columns, (number, *own.tolist()), used.tobytes() + verdict[used].tobytes())
        name = f"trees/{round_number}/{'shared' if number == SHARED else number}"
        here, there = (in_group(c, own, number) for c in (columns.class_id, unseen.heldout_class))
        arrays = store.views.kept(name, version, mapped=("pool", "crossed"))
        if arrays is None:
            arrays = _grown(store, inputs(), here, there, used, verdict[used] == Verdict.YES)
            store.views.keep(name, version, arrays)
        pool[here], heldout[there] = arrays["pool"], arrays["heldout"]
        mine = group == number
        crossed[mine] = arrays["crossed"][np.searchsorted(np.flatnonzero(here), rows[mine])]
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
    wanted = np.flatnonzero(here)
    order = np.argsort(pool.class_id[wanted], kind="stable")  # classes have trees of their own
    chances, crossed = np.empty(len(wanted)), np.empty(len(wanted))
    for portion in portions(len(wanted)):
        some = order[portion]
        part = pool.select(wanted[some])
        chances[some], crossed[some] = forest.chances(part), forest.crossed(part, np.ones(len(part), bool))
    return {
        "pool": chances, "crossed": crossed,
        "heldout": forest.crossed(heldout, np.zeros(len(heldout), bool)),
    }  # fmt: skip
