"""Cluster: one class at a time, the masks that are new to the dataset."""

from __future__ import annotations

from campaign.clustering import LinkageOptions, Tree, linkage
from campaign.propagation import drop_known
from campaign.store import Store
from ml_backend.detector import Progress


def cluster(store: Store, round_number: int, class_id: int, progress: Progress | None = None) -> None:
    """Builds the tree of a class's new masks and stores it. A stored tree is left as it is.

    A mask is new where no mask of its class already in the dataset overlaps it by more than `rounds.dedupe_iou`
    (Papadopoulos et al., section 3.4).
    """
    if any(t.class_id == class_id for t in store.trees(round_number)):
        return
    found = store.predictions(round_number, "pool", class_id)
    new = drop_known(found, store.dataset(before=round_number), store.settings.rounds.dedupe_iou)
    thresholds = next(r.metrics for r in store.rounds() if r.number == round_number)["thresholds"][str(class_id)]
    tree = None
    if len(new):
        merges = linkage(new.features, new.score, LinkageOptions(seed=store.settings.seed), progress)
        tree = Tree.build(merges, new.score)
    store.save_tree(round_number, class_id, tree, new.mask_id, len(found) - len(new), thresholds)
