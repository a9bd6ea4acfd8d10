"""Cluster: one class at a time, the masks that are new to the dataset."""

from __future__ import annotations

import numpy as np

from campaign.clustering import LinkageOptions, cluster_class
from campaign.clustering.runs import clustering_facts
from campaign.dataset.propagation import drop_known
from campaign.derived.duplicates import duplicates
from campaign.store import Store
from ml_backend.detector import Progress


def linkage_options(store: Store) -> LinkageOptions:
    """How a campaign's settings want trees to be built."""
    chosen = store.settings.clustering
    memory = None if chosen.memory_gib is None else int(chosen.memory_gib * 2**30)
    return LinkageOptions(engine=chosen.engine, device=chosen.device, memory=memory, seed=store.settings.seed)


def cluster(store: Store, round_number: int, class_id: int, progress: Progress | None = None) -> None:
    """Builds the tree of a class's new masks and stores it. A stored tree is left as it is.

    Masks on copies of images are left out: the first image of the same bytes has them. A mask is new where no mask of
    its class already in the dataset overlaps it by more than `rounds.dedupe_iou` (Papadopoulos et al., section 3.4).
    A run that was interrupted begins the class again; a class that is done is not touched.
    Raises InputError where `clustering.memory_gib` is less than the engine needs.
    """
    if any(t.class_id == class_id for t in store.trees.rows(round_number)):
        return
    known = store.datasets.read(before=round_number, class_id=class_id)
    predictions = store.bundles.read(round_number, class_id, masks=len(known) > 0)
    copies = list(duplicates(store).copy_of)
    counted = predictions.select(~np.isin(predictions.image_id, copies)) if copies else predictions
    new = drop_known(counted, known, store.settings.rounds.dedupe_iou) if len(known) else counted
    thresholds = store.rounds.get(round_number).metrics["thresholds"][str(class_id)]
    if len(new):
        folder = store.trees.folder(round_number, class_id)
        cluster_class(folder, new.features, new.score, linkage_options(store), progress)
        done = clustering_facts(folder)
        name = store.classes()[class_id]
        store.log(f"clustered {done['masks']} masks of {name}: {done['engine']}, {done['device']}, {done['seconds']} s")
        if done["engine"] == "approximate" and store.settings.clustering.engine == "auto":
            store.log(
                f"{name} has more masks than an exact tree is built of here, so its tree is approximate: merges of "
                f"clusters may be up to {done['largest_error']:.2f} too low; `clustering.engine=exact` insists"
            )
    store.trees.save(round_number, class_id, new.mask_id, len(predictions) - len(new), thresholds)
