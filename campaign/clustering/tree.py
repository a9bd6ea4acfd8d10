"""The binary tree of a class's clusters, as flat arrays."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

import numpy as np

from ml_backend.errors import InputError

MEDOID_LIMIT = 2048  # members compared pair by pair; larger clusters take the member nearest their mean


_IN_MEMORY = 200_000  # masks of a tree that is read rather than mapped: 16 MB


@dataclass(frozen=True)
class Tree:
    """A complete-linkage tree of n masks: 2n-1 clusters in arrays, memory-mappable, no objects.

    Cluster ids are SciPy's: 0 … n-1 are single masks (leaves), n … 2n-2 the merges in order of height; the
    last is the root. Every cluster's members are a slice of `order`.

    parent: int (2n-1,), -1 for the root.
    children: int (2n-1, 2), -1 for leaves.
    size: int (2n-1,) masks in the cluster.
    mean_score: float64 (2n-1,) mean score of the cluster's masks.
    height: float64 (2n-1,) fused distance at which the cluster was merged, 0 for leaves.
    order: int (n,) the leaves in the order of the drawn tree.
    start: int (2n-1,) where the cluster's members begin in `order`.
    """

    parent: np.ndarray
    children: np.ndarray
    size: np.ndarray
    mean_score: np.ndarray
    height: np.ndarray
    order: np.ndarray
    start: np.ndarray

    @property
    def n(self) -> int:
        """Number of masks."""
        return len(self.order)

    @property
    def root(self) -> int:
        """The cluster of all masks; InputError for an empty tree."""
        if self.n == 0:
            raise InputError("tree", "at least one mask", "none")
        return 2 * self.n - 2

    def __len__(self) -> int:
        return len(self.parent)

    def members(self, cluster: int) -> np.ndarray:
        """Leaves of a cluster, (size,), as a view of `order`."""
        start = int(self.start[cluster])
        return self.order[start : start + int(self.size[cluster])]

    def medoid(
        self,
        cluster: int,
        features: np.ndarray,
        scores: np.ndarray | None = None,
        feature_scale: float = 1.0,
        score_scale: float = 1.0,
    ) -> int:
        """The cluster's leaf with the smallest mean distance to its other members, the lowest on ties.

        Distances are fused ones where `scores` is given. Above 2048 members it is the leaf nearest to the mean.
        """
        leaves = np.sort(self.members(cluster))
        points = np.asarray(features[leaves], dtype=np.float64)
        points = (points - points.mean(0)) / feature_scale
        marks = np.zeros(len(leaves)) if scores is None else np.asarray(scores[leaves], np.float64) / score_scale
        if len(leaves) > MEDOID_LIMIT:
            cost = np.sqrt((points**2).sum(1)) + np.abs(marks - marks.mean())
        else:
            norms = (points**2).sum(1)
            square = np.maximum(norms[:, None] + norms - 2 * points @ points.T, 0)
            cost = (np.sqrt(square) + np.abs(marks[:, None] - marks)).sum(1)
        return int(leaves[np.argmin(cost)])

    def linkage(self) -> np.ndarray:
        """The SciPy linkage array this tree was built from, (n-1, 4) float64."""
        merges = slice(self.n, None)
        return np.column_stack(
            [self.children[merges].astype(np.float64), self.height[merges], self.size[merges].astype(np.float64)]
        ).reshape(-1, 4)

    @classmethod
    def build(cls, linkage: np.ndarray, scores: np.ndarray) -> Tree:
        """The tree of a SciPy linkage array over n masks with these scores; O(n), without recursion."""
        scores = np.asarray(scores, dtype=np.float64)
        n = len(scores)
        if linkage.shape != (max(n - 1, 0), 4):
            raise InputError("linkage", f"shape {(max(n - 1, 0), 4)} for {n} scores", linkage.shape)
        total = max(2 * n - 1, 0)
        index = np.dtype(np.int32 if n < 2**30 else np.int64)
        children = np.full((total, 2), -1, dtype=index)
        children[n:] = linkage[:, :2]
        merges = np.arange(n, total, dtype=index)
        parent = np.full(total, -1, dtype=index)
        early = (children[n:] < 0) | (children[n:] >= merges[:, None])
        if not early.any():
            parent[children[n:, 0]] = merges
            parent[children[n:, 1]] = merges
        if early.any() or (parent[: max(total - 1, 0)] < 0).any():
            raise InputError("linkage", "every cluster merged once, after it was made", "another order")
        size = np.ones(total, dtype=index)
        size[n:] = linkage[:, 3]
        height = np.zeros(total)
        height[n:] = linkage[:, 2]
        start = np.zeros(total, dtype=index)
        if n > 1:
            from campaign.clustering.walks import descend

            descend(children, size, start, n)
        order = np.empty(n, dtype=index)
        order[start[:n]] = np.arange(n, dtype=index)
        sums = np.concatenate([[0.0], np.cumsum(scores[order])])
        mean = (sums[start + size] - sums[start]) / size if n else np.zeros(0)
        mean[:n] = scores
        return cls(parent, children, size, mean, height, order, start)

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write one .npy per array; `tree.json`, written last, marks the folder complete."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tree.json").unlink(missing_ok=True)
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))
        marker = folder / "tree.json.part"
        marker.write_text(json.dumps({"n": self.n}) + "\n")
        marker.replace(folder / "tree.json")
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str], mmap: bool | None = None) -> Tree:
        """Open a saved tree; InputError where it is not complete.

        With `mmap` it is memory-mapped and read-only; by default large trees are, and small ones are read, for a
        process that has hundreds open would run out of files.
        """
        folder = Path(folder)
        if not (folder / "tree.json").is_file():
            raise InputError(folder, "a saved tree", "no tree.json")
        n = json.loads((folder / "tree.json").read_text())["n"]
        mapped = n > _IN_MEMORY if mmap is None else mmap
        mode: Literal["r"] | None = "r" if mapped and n else None
        arrays = {field.name: np.load(folder / f"{field.name}.npy", mmap_mode=mode) for field in fields(cls)}
        if len(arrays["order"]) != n:
            raise InputError(folder, f"a tree of {n} masks", f"{len(arrays['order'])} leaves")
        return cls(**arrays)
