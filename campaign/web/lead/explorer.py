"""What the cluster explorer shows: a tree drawn as an icicle, a cluster with its crops, a mask with its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from campaign.derived.answers import counted_answers
from campaign.quality.answers import standing_answers, verdicts
from campaign.search.sampling import draw_keys
from campaign.store import Store
from campaign.store import models as m
from campaign.store.shards import feature_path
from ml_backend.mask_ids import first_of_place, place_of, round_of, row_of

if TYPE_CHECKING:
    from campaign.clustering import Tree

WIDTH, ROW, DEPTH = 1200, 30, 14  # of the icicle: its own units, and the rows at most
SMALLEST = 5.0  # units; narrower clusters are left out
CROPS = 60  # unasked masks shown of a cluster
CHILD_CROPS = 8
NEIGHBOURS = 15
SEARCHED = 200_000  # masks among which neighbours are sought


@dataclass(frozen=True)
class Block:
    """One cluster in the icicle, `x`, `y` and `width` in its units; `kind` is None where nothing is decided of it."""

    cluster: int
    x: float
    y: float
    width: float
    size: int
    kind: str | None
    mean_score: float


@dataclass(frozen=True)
class Crop:
    """A mask to be shown; `verdict` as counted, `distance` to the mask that it is a neighbour of."""

    mask_id: int
    verdict: str | None = None
    distance: float | None = None


@dataclass(frozen=True)
class ClusterView:
    """A cluster with what was decided of it, of its ancestors and of its children.

    `ruling` is the decision that its masks follow: its own, or that of the nearest decided ancestor.
    """

    cluster: int
    size: int
    mean_score: float
    height: float
    decision: m.Decision | None
    ruling: m.Decision | None
    override: str | None
    path: tuple[tuple[int, int], ...]  # (cluster, size) from the root down, itself last
    asked: tuple[Crop, ...]
    others: tuple[Crop, ...]
    children: tuple[ChildView, ...]


@dataclass(frozen=True)
class ChildView:
    """One of the two halves of a cluster."""

    cluster: int
    size: int
    mean_score: float
    decision: m.Decision | None
    crops: tuple[Crop, ...]


class ClassExplorer:
    """The tree of one class in one round, opened for looking at. Raises KeyError where there is none."""

    def __init__(self, store: Store, round_number: int, class_id: int):
        entries = {t.class_id: t for t in store.trees.rows(round_number)}
        if class_id not in entries or not entries[class_id].masks:
            raise KeyError(class_id)
        self.store, self.round_number, self.class_id, self.entry = store, round_number, class_id, entries[class_id]
        self.tree: Tree
        self.tree, self.mask_ids = store.trees.read(round_number, class_id)
        self.decisions = {d.cluster: d for d in store.decisions.rows(round_number, class_id)}
        self.overrides = store.overrides.standing(round_number, class_id)
        pages = {page.key for page in store.pages.rows() if page.class_id == class_id}
        self.verdicts = {mask: v.name.lower() for mask, v in verdicts(counted_answers(store, pages)).items()}

    def icicle(self, top: int | None = None) -> tuple[list[Block], int]:
        """The tree below `top` (the root by default) as blocks, and how many rows they take.

        A block is as wide as its share of the masks. Accepted and rejected clusters are not divided further.
        """
        tree, top = self.tree, self.tree.root if top is None else top
        unit = WIDTH / int(tree.size[top])
        first = int(tree.start[top])
        blocks: list[Block] = []
        todo = [(top, 0)]
        while todo:
            cluster, depth = todo.pop()
            size = int(tree.size[cluster])
            decision = self.decisions.get(cluster)
            kind = decision.kind if decision else None
            x = (int(tree.start[cluster]) - first) * unit
            blocks.append(Block(cluster, x, depth * ROW, size * unit, size, kind, float(tree.mean_score[cluster])))
            if size > 1 and depth + 1 < DEPTH and (cluster == top or kind not in ("accept", "reject")):
                todo += [(int(c), depth + 1) for c in tree.children[cluster] if int(tree.size[c]) * unit >= SMALLEST]
        return blocks, 1 + max(int(b.y) for b in blocks) // ROW

    def cluster(self, cluster: int) -> ClusterView:
        """A cluster with its crops. Raises KeyError for a number that is none."""
        tree = self.tree
        if not 0 <= cluster < len(tree):
            raise KeyError(cluster)
        path = [cluster]
        while (parent := int(tree.parent[path[-1]])) >= 0:
            path.append(parent)
        ruling = next((self.decisions[c] for c in path if c in self.decisions), None)
        asked, others = self._crops(cluster)
        return ClusterView(
            cluster=cluster,
            size=int(tree.size[cluster]),
            mean_score=float(tree.mean_score[cluster]),
            height=float(tree.height[cluster]),
            decision=self.decisions.get(cluster),
            ruling=ruling,
            override=self.overrides.get(cluster),
            path=tuple((c, int(tree.size[c])) for c in reversed(path)),
            asked=asked,
            others=others[:CROPS],
            children=tuple(self._child(int(c)) for c in tree.children[cluster] if c >= 0),
        )

    def decided(self) -> list[m.Decision]:
        """Decided clusters, the largest first; of those asked about and those decided by their score alone."""
        return sorted(self.decisions.values(), key=lambda d: (d.asked == 0, -d.size, d.cluster))

    def leaf(self, mask_id: int) -> int | None:
        """The leaf of a mask, None where it is not in this tree: the dataset knew it, or another class has it."""
        leaves = np.flatnonzero(np.asarray(self.mask_ids) == mask_id)
        return int(leaves[0]) if len(leaves) else None

    def neighbours(self, mask_id: int) -> list[Crop]:
        """The masks nearest in feature space, nearest first, with their distances.

        Features are read by memory map, shard by shard. In a large class they are sought in the smallest cluster of
        at least `SEARCHED` masks that holds the mask.
        """
        leaf = self.leaf(mask_id)
        if leaf is None:
            return []
        cluster = leaf
        while int(self.tree.size[cluster]) < SEARCHED and (parent := int(self.tree.parent[cluster])) >= 0:
            cluster = parent
        ids = np.sort(np.asarray(self.mask_ids)[self.tree.members(cluster)][: 2 * SEARCHED])
        feature = self._features(np.array([mask_id]))[0]
        distance = np.concatenate(
            [
                np.linalg.norm(self._features(ids[start : start + 8192]) - feature, axis=1)
                for start in range(0, len(ids), 8192)
            ]
        )
        distance[ids == mask_id] = np.inf
        order = np.argsort(distance, kind="stable")[: min(NEIGHBOURS, len(ids) - 1)]
        return [
            Crop(int(ids[i]), self.verdicts.get(int(ids[i])), float(distance[i]) if np.isfinite(distance[i]) else None)
            for i in order
        ]

    def _features(self, ids: np.ndarray) -> np.ndarray:
        parts = []
        for place in np.unique(place_of(ids)):
            path, _ = self.store.masks.place(first_of_place(place))
            rows = row_of(ids[place_of(ids) == place])
            parts.append(np.load(feature_path(path), mmap_mode="r")[rows].astype(np.float32))
        return np.concatenate(parts)

    def _child(self, cluster: int) -> ChildView:
        asked, others = self._crops(cluster)
        shown = asked[: CHILD_CROPS // 2]
        shown += others[: CHILD_CROPS - len(shown)]
        size, score = int(self.tree.size[cluster]), float(self.tree.mean_score[cluster])
        return ChildView(cluster, size, score, self.decisions.get(cluster), shown)

    def _crops(self, cluster: int) -> tuple[tuple[Crop, ...], tuple[Crop, ...]]:
        """The masks of a cluster that have a verdict, and a random sample of the others."""
        leaves = np.asarray(self.tree.members(cluster))
        ids = np.asarray(self.mask_ids)[leaves].tolist()
        asked = tuple(Crop(i, self.verdicts[i]) for i in ids if i in self.verdicts)
        order = np.argsort(draw_keys(self.store.settings.seed, cluster, leaves), kind="stable")
        return asked, tuple(Crop(ids[i]) for i in order if ids[i] not in self.verdicts)


def mask_facts(store: Store, mask_id: int) -> dict[str, Any]:
    """A mask with its scores and every standing answer on it. Raises KeyError where there is none."""
    mask = store.masks.read([mask_id])
    names, gold = store.values.people(), {(q.page_key, q.mask_id): q.gold for q, _ in store.questions.gold()}
    answers = standing_answers(store.answers.on_masks([mask_id]))
    counted = {a.id for a in counted_answers(store, {a.page_key for a in answers})}
    return {
        "mask_id": mask_id,
        "round": round_of(mask_id),
        "class_id": int(mask.class_id[0]),
        "image": store.images.get(int(mask.image_id[0])),
        "box": [round(float(v)) for v in mask.box[0]],
        "confidence": float(mask.confidence[0]),
        "predicted_iou": float(mask.predicted_iou[0]),
        "score": float(mask.score[0]),
        "answers": [
            {
                "name": names.get(a.annotator, f"user {a.annotator}"),
                "user": a.annotator,
                "verdict": a.verdict,
                "at": a.answered_at,
                "gold": gold.get((a.page_key, a.mask_id)),
                "counted": a.id in counted,
            }
            for a in answers
        ],
    }
