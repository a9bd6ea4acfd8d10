"""Join: masks of images that came while a round is verified become leaves of its trees, at one moment for all classes.

The trees are made beside those that count, one class at a time (`join`). Then they take their place together, with all
that rests on numbers of clusters (`follow`): the lead's orders, decisions and snapshots. Pages, questions and answers
name masks, so they stay as they are, and what is decided follows from them over the new trees as it does over any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from sqlalchemy.orm import Session

from campaign.clustering import Tree, cluster_class, join_class
from campaign.clustering.counterparts import counterparts
from campaign.clustering.runs import clustering_facts
from campaign.derived.duplicates import duplicates
from campaign.derived.forests import prepare
from campaign.derived.live import LiveViews
from campaign.records.decision import Kind
from campaign.records.stage import Stage
from campaign.steps.cluster import linkage_options
from campaign.store import Store
from campaign.store import models as m
from campaign.store.rounds import JOINED
from ml_backend.detector import Progress
from ml_backend.mask_ids import mask_id, shard_number


def join(store: Store, round_number: int, class_id: int, progress: Progress | None = None) -> None:
    """Makes the tree of a class's old and new masks and stores it beside the one that counts.

    A stored one is left as it is. Masks on copies of images are left out, as `campaign.steps.cluster` does; the dataset
    has none on these images yet.
    """
    entry = next((t for t in store.trees.rows(round_number) if t.class_id == class_id), None)
    first = store.trees.joining(round_number)
    if entry is None or first is None or any(t.class_id == class_id for t in store.trees.prepared(round_number)):
        return
    predictions = store.bundles.read(round_number, class_id, masks=False)
    came = predictions.mask_id >= mask_id(round_number, shard_number(True, first), 0)
    new = came & ~np.isin(predictions.image_id, list(duplicates(store).copy_of))
    left_out = int(came.sum() - new.sum())
    if not new.any():
        store.trees.prepare(entry, None, left_out)
        return
    old_ids = store.trees.mask_ids(round_number, class_id, entry.generation)
    rows = np.append(np.searchsorted(predictions.mask_id, old_ids), np.flatnonzero(new))
    # Where none is left out the features stay where they lie.
    masks = predictions if len(rows) == len(predictions) else predictions.select(rows)
    folder = store.trees.folder(round_number, class_id, entry.generation + 1)
    options = linkage_options(store)
    if entry.masks:
        old = store.files.folder(store.trees.folder(round_number, class_id, entry.generation))
        join_class(folder, old, masks.features, masks.score, options, progress)
    else:
        cluster_class(folder, masks.features, masks.score, options, progress)
    store.trees.prepare(entry, masks.mask_id, left_out)
    said, name = clustering_facts(folder), store.classes()[class_id]
    how = f"; the tree was built anew: {said['rebuilt']}" if said.get("rebuilt") else ""
    store.log(
        f"{int(new.sum())} masks are to join {len(old_ids)} of {name}: {said['engine']}, {said['seconds']} s{how}"
    )


def follow(store: Store, round_number: int) -> None:
    """Puts the trees that were made in the place of a round's, with what rests on numbers of clusters: all or nothing.

    A turn sees the old trees or these. One that is interrupted leaves all as it was, and is run again.
    """
    with store.locked():
        first, prepared = store.trees.joining(round_number), store.trees.prepared(round_number)
        entries = store.trees.rows(round_number)
        if first is None or len(prepared) < len(entries) or store.rounds.get(round_number).stage != Stage.VERIFY:
            return
        before = {e.class_id: (e.generation, e.masks) for e in entries}
        for entry, row in zip(entries, prepared, strict=True):
            entry.generation, entry.masks, entry.known = row.generation, row.masks, row.known
        grown = [e for e in entries if e.generation != before[e.class_id][0]]
        standing = {e.class_id: store.overrides.standing(round_number, e.class_id) for e in grown}
        orders = {e.class_id: _moved(store, e, before[e.class_id], standing[e.class_id]) for e in grown}
        masks = sum(e.masks - before[e.class_id][1] for e in grown)
        shards = store.masks.shards(round_number, "pool")
        images = sum(s.images for s in shards if s.number >= first)
        facts = {"masks": masks, "images": images, "page": store.pages.newest(), "at": m.now().isoformat()}

        def within(session: Session) -> None:
            _order_anew(session, round_number, standing, orders)
            store.trees.follow(session, round_number)
            row = session.get_one(m.Round, round_number)
            row.metrics = row.metrics | {JOINED: [*row.metrics.get(JOINED, []), facts]}
            session.add(m.Event(text=f"{masks} masks of {images} images joined the trees of round {round_number}"))

        LiveViews(store).refresh().follow_trees(round_number, entries, orders, within)
        if store.settings.search.policy == "target":
            prepare(store, round_number)
    store.bundles.drop(round_number)


def _moved(
    store: Store, entry: m.ClassTree, before: tuple[int, int], standing: Mapping[int, str]
) -> dict[int, str]:  # fmt: skip
    """{cluster: kind} of the lead's orders in a class under the numbers of its new tree.

    An order goes to the clusters that hold its masks and no other old one; of orders that would meet in one cluster
    that of the smaller old cluster stands, as it does for its masks before. A single mask cannot be split.
    """
    generation, masks = before
    if not standing or not masks:
        return {}
    old, _ = store.trees.read(entry.round, entry.class_id, generation)
    new, _ = store.trees.read(entry.round, entry.class_id, entry.generation)
    moved: dict[int, str] = {}
    for cluster in _largest_first(old, standing):
        kind = standing[cluster]
        for place in counterparts(old, new, cluster):
            if kind != Kind.SPLIT or new.size[place] > 1:
                moved[place] = kind
    return moved


def _largest_first(tree: Tree, clusters: Mapping[int, str]) -> Sequence[int]:
    return sorted(clusters, key=lambda cluster: (-int(tree.size[cluster]), cluster))


def _order_anew(
    session: Session, round_number: int, standing: Mapping[int, Mapping[int, str]],
    orders: Mapping[int, Mapping[int, str]],
) -> None:  # fmt: skip
    """Adds the facts that the old orders are taken back, and given of the clusters that hold their masks now."""
    for kinds in ({c: dict.fromkeys(clusters) for c, clusters in standing.items()}, orders):
        for class_id, clusters in kinds.items():
            for cluster, kind in sorted(clusters.items()):
                session.add(m.Override(round=round_number, class_id=class_id, cluster=cluster, kind=kind))
        session.flush()  # in this order: a number may be of both
