"""What the cluster explorer shows: a tree drawn as an icicle, a cluster with its crops, a mask with its neighbours."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from campaign.derived.answers import counted_answers, verdicts_on
from campaign.derived.cluster_masks import ClusterMasks, spread
from campaign.quality.answers import standing_answers
from campaign.records.names import Name
from campaign.records.page import Screen
from campaign.records.verdict import Verdict
from campaign.store import Store
from campaign.store import models as m
from campaign.store.pages import Asked
from ml_backend.mask_ids import round_of

WIDTH, ROW, DEPTH = 1200, 30, 14  # of the icicle: its own units, and the rows at most
SMALLEST = 5.0  # units; narrower clusters are left out
ASKED_CROPS, CROPS = 120, 60  # masks shown of a cluster, with a verdict and without
CHILD_CROPS = 8
DECISIONS = 60  # on one page


class Listing(Name):
    """Which decisions of a class are listed: those that people were asked for, those without, or of one kind."""

    ASKED = "asked"
    ACCEPT = "accept"
    REJECT = "reject"
    SPLIT = "split"
    UNSEEN = "unseen"


KINDS_LISTED = (Listing.ACCEPT, Listing.REJECT, Listing.SPLIT)


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

    `ruling` is the decision that its masks follow: its own, or that of the nearest decided ancestor. Of its masks
    `with_verdict` have one; `asked` shows some of them, `others` some without.
    """

    cluster: int
    size: int
    mean_score: float
    height: float
    decision: m.Decision | None
    ruling: m.Decision | None
    override: str | None
    path: tuple[tuple[int, int], ...]  # (cluster, size) from the root down, itself last
    with_verdict: int
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
    """The tree of one class in one round, opened for looking at. Raises KeyError where there is none.

    Decisions are asked for as they are shown, and of a large cluster a sample of its masks is drawn: nothing here takes
    longer where there are more masks.
    """

    def __init__(self, store: Store, round_number: int, class_id: int):
        entries = {t.class_id: t for t in store.trees.rows(round_number)}
        if class_id not in entries or not entries[class_id].masks:
            raise KeyError(class_id)
        self.store, self.round_number, self.class_id, self.entry = store, round_number, class_id, entries[class_id]
        self.masks = ClusterMasks(store, round_number, class_id, self.entry.generation)
        self.tree, self.leaf = self.masks.tree, self.masks.leaf
        self.overrides = store.overrides.standing(round_number, class_id)

    def icicle(self, top: int | None = None) -> tuple[list[Block], int]:
        """The tree below `top` (the root by default) as blocks, and how many rows they take.

        A block is as wide as its share of the masks. Accepted and rejected clusters are not divided further.
        """
        tree, top = self.tree, self.tree.root if top is None else top
        unit = WIDTH / int(tree.size[top])
        first = int(tree.start[top])
        blocks: list[Block] = []
        row, depth = [top], 0
        while row:
            decided = self.decisions(row)
            below: list[int] = []
            for cluster in row:
                size = int(tree.size[cluster])
                kind = decided[cluster].kind if cluster in decided else None
                x = (int(tree.start[cluster]) - first) * unit
                score = float(tree.mean_score[cluster])
                blocks.append(Block(cluster, x, depth * ROW, size * unit, size, kind, score))
                if size > 1 and (cluster == top or kind not in ("accept", "reject")):
                    below += [int(c) for c in tree.children[cluster] if int(tree.size[c]) * unit >= SMALLEST]
            depth += 1
            row = below if depth < DEPTH else []
        return blocks, depth

    def decisions(self, clusters: Collection[int]) -> dict[int, m.Decision]:
        """The decisions of those of these clusters that have one."""
        return self.store.decisions.of_clusters(self.round_number, self.class_id, clusters)

    def cluster(self, cluster: int) -> ClusterView:
        """A cluster with its crops. Raises KeyError for a number that is none."""
        tree = self.tree
        if not 0 <= cluster < len(tree):
            raise KeyError(cluster)
        path = [cluster]
        while (parent := int(tree.parent[path[-1]])) >= 0:
            path.append(parent)
        children = [int(c) for c in tree.children[cluster] if c >= 0]
        decided = self.decisions([*path, *children])
        asked, others = self._crops(cluster, ASKED_CROPS, CROPS)
        return ClusterView(
            cluster=cluster,
            size=int(tree.size[cluster]),
            mean_score=float(tree.mean_score[cluster]),
            height=float(tree.height[cluster]),
            decision=decided.get(cluster),
            ruling=next((decided[c] for c in path if c in decided), None),
            override=self.overrides.get(cluster),
            path=tuple((c, int(tree.size[c])) for c in reversed(path)),
            with_verdict=len(self.masks.asked(cluster)),
            asked=asked,
            others=others,
            children=tuple(self._child(c, decided.get(c)) for c in children),
        )

    def decided(self, choice: Listing, page: int) -> list[m.Decision]:
        """One page of the decided clusters of a choice, the largest first, and one more where there is another page."""
        kind = choice.value if choice in KINDS_LISTED else None
        asked = None if kind else choice == Listing.ASKED
        return self.store.decisions.largest(
            self.round_number, self.class_id, DECISIONS + 1, page * DECISIONS, kind, asked
        )

    def _child(self, cluster: int, decision: m.Decision | None) -> ChildView:
        asked, others = self._crops(cluster, CHILD_CROPS // 2, CHILD_CROPS)
        shown = asked + others[: CHILD_CROPS - len(asked)]
        return ChildView(cluster, int(self.tree.size[cluster]), float(self.tree.mean_score[cluster]), decision, shown)

    def _crops(self, cluster: int, most_asked: int, most_others: int) -> tuple[tuple[Crop, ...], tuple[Crop, ...]]:
        """Masks of a cluster that have a verdict, and a random sample of the others."""
        asked = spread(self.masks.asked(cluster).tolist(), most_asked)
        crops = tuple(Crop(self.masks.mask(leaf), self.masks.verdicts[leaf].word) for leaf in asked)
        return crops, tuple(Crop(self.masks.mask(leaf)) for leaf in self.masks.unasked(cluster)[:most_others])


def page_facts(store: Store, number: int) -> dict[str, Any]:
    """A page with the masks on it, in the order in which they are shown. Raises KeyError where there is none."""
    page = store.pages.numbered(number)
    asked = sorted(store.questions.on_pages([page.key]), key=lambda a: (a.name or "", a.mask_id))
    known = verdicts_on(store, [a.mask_id for a in asked])
    names, facts = store.values.people(), standing_answers(store.answers.rows([page.key]))
    said: dict[int, list[tuple[str, str, str]]] = {}
    for f in facts:
        said.setdefault(f.mask_id, []).append((f.annotator, names.get(f.annotator, f"user {f.annotator}"), f.verdict))
    project = store.values.project(page.screen) if page.screen in set(Screen) else None
    url = store.settings.label_studio.url
    return {
        "number": page.number,
        "round": page.round,
        "class_id": page.class_id,
        "kind": page.kind,
        "opened": page.created_at,
        "task": page.task_id,
        "url": f"{url}/projects/{project}/data?task={page.task_id}" if url and project and page.task_id else None,
        "answered": len({f.annotation_id for f in facts}),
        "masks": [
            {
                "mask_id": a.mask_id,
                "verdict": _verdict_on(a, known, said),
                "gold": a.gold,
                "said": said.get(a.mask_id, []),
            }
            for a in asked
        ],
    }


def _verdict_on(
    asked: Asked, known: dict[int, Verdict], said: dict[int, list[tuple[str, str, str]]]
) -> str | None:  # fmt: skip
    """The verdict that counts; of gold what was said last, for its answers make no verdict."""
    if asked.gold is not None:
        return said[asked.mask_id][-1][2] if said.get(asked.mask_id) else None
    return known[asked.mask_id].word if asked.mask_id in known else None


def mask_facts(store: Store, mask_id: int) -> dict[str, Any]:
    """A mask with its scores and every standing answer on it. Raises KeyError where there is none."""
    mask = store.masks.read([mask_id])
    names = store.values.people()
    asked = {a.page_key: a for a in store.questions.on_masks([mask_id])}
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
                "gold": asked[a.page_key].gold if a.page_key in asked else None,
                "page": asked[a.page_key].number if a.page_key in asked else None,
                "counted": a.id in counted,
            }
            for a in answers
        ],
    }
