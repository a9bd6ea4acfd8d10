"""Clustering one class into a folder: done once, picked up where it was left, the same for the same input."""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from campaign.clustering.engine import Clustering, Progress, cluster
from campaign.clustering.joining import join
from campaign.clustering.options import LinkageOptions
from campaign.clustering.tree import Tree

PERFORMANCE = ("memory", "threads")  # options that do not change the tree


def cluster_class(
    folder: str | os.PathLike[str],
    features: np.ndarray,
    scores: np.ndarray,
    options: LinkageOptions | None = None,
    progress: Progress | None = None,
) -> Tree:
    """The tree of a class's masks, from its folder where it is there, otherwise built and saved.

    A run that was interrupted leaves no tree behind and is made again by the next call; a class that is done
    costs one look at its input. Beside the tree the folder gets `clustering.json` (engine, device, scales,
    seconds) and, for an approximate tree, `error.npy` with each merge's bound.
    """
    options = options or LinkageOptions()
    folder = Path(folder)
    source = fingerprint(features, scores, options)
    if (folder / "tree.json").is_file() and clustering_facts(folder).get("source") == source:
        return Tree.load(folder)
    began = time.monotonic()
    result = cluster(features, scores, options, progress)
    return _kept(folder, result, scores, {"source": source}, began)


def join_class(
    folder: str | os.PathLike[str],
    old: str | os.PathLike[str],
    features: np.ndarray,
    scores: np.ndarray,
    options: LinkageOptions | None = None,
    progress: Progress | None = None,
) -> Tree:
    """The tree of a class's old masks, whose tree lies in the folder `old`, and of those that came after them.

    As `cluster_class` makes one, by `join`: features and scores are those of all masks, the old ones first. Where the
    old tree does not help it is built anew, and `clustering.json` says why (`rebuilt`, empty where it was joined).
    """
    options, folder, old = options or LinkageOptions(), Path(folder), Path(old)
    facts = clustering_facts(old)
    source = fingerprint(features, scores, options) + str(facts.get("source", ""))
    if (folder / "tree.json").is_file() and clustering_facts(folder).get("source") == source:
        return Tree.load(folder)
    began = time.monotonic()
    if "engine" in facts:
        scales = facts["feature_scale"], facts["score_scale"]
        known = Clustering(Tree.load(old).linkage(), facts["engine"], facts["device"], None, *scales)
        joined = join(known, features, scores, options, progress)
        result, reason = joined.clustering, joined.reason
    else:  # a tree that was not built here
        result, reason = cluster(features, scores, options, progress), "nothing is known of how the old tree was made"
    return _kept(folder, result, scores, {"source": source, "rebuilt": reason}, began)


def _kept(folder: Path, result: Clustering, scores: np.ndarray, said: dict[str, Any], began: float) -> Tree:
    """The tree of a clustering, saved with what is known of it."""
    tree = Tree.build(result.linkage, scores)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tree.json").unlink(missing_ok=True)
    (folder / "error.npy").unlink(missing_ok=True)
    facts: dict[str, Any] = {
        **said,
        "masks": len(scores),
        "engine": result.engine,
        "device": result.device,
        "feature_scale": result.feature_scale,
        "score_scale": result.score_scale,
        "seconds": round(time.monotonic() - began, 3),
    }
    if result.error is not None:
        np.save(folder / "error.npy", result.error)
        facts["largest_error"] = float(result.error.max(initial=0))
    (folder / "clustering.json").write_text(json.dumps(facts, indent=2) + "\n")
    tree.save(folder)
    return Tree.load(folder)


def clustering_facts(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What `cluster_class` wrote about a folder's tree; empty where nothing is."""
    path = Path(folder) / "clustering.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def fingerprint(features: np.ndarray, scores: np.ndarray, options: LinkageOptions) -> str:
    """A digest of everything that decides the tree."""
    settings = {key: value for key, value in asdict(options).items() if key not in PERFORMANCE}
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for array in (features, scores):
        digest.update(f"{array.shape} {array.dtype.str}".encode())
        for low in range(0, len(array), 1 << 16):
            digest.update(np.ascontiguousarray(array[low : low + (1 << 16)]).tobytes())
    return digest.hexdigest()
