"""Pictures for the report: of every kind of decision some large clusters with some of their masks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from campaign.derived.answers import verdicts_on
from campaign.derived.cluster_masks import ClusterMasks, spread
from campaign.report.records import KINDS, Crop, ExampleCluster, Kind
from campaign.store import Store
from campaign.store import models as m
from ml_backend.errors import InputError
from ml_backend.masks.rendering import CropStyle, ImageCache, render_crop

EXAMPLES = 3  # clusters shown of each kind
EXAMPLE_CROPS = 10  # masks shown of each, the asked ones first, at most half of them where others are left
LARGEST = 20  # classes among which clusters are looked for, of all rounds
CROP_STYLE = CropStyle(size=120, quality=80)

Renderer = Callable[[list[int]], tuple[Crop, ...]]


def examples(store: Store, trees: list[m.ClassTree], render: Renderer) -> tuple[ExampleCluster, ...]:
    """Of each kind the largest clusters somebody was asked about, of different classes first, with some crops."""
    known: dict[tuple[int, int], ClusterMasks] = {}
    shown = []
    for kind in KINDS:
        for decision in _picked(store, trees, kind):
            place = decision.round, decision.class_id
            if place not in known:
                known[place] = ClusterMasks(store, *place)
            if crops := render(_shown(known[place], decision.cluster)):
                shown.append(_example(decision, kind, crops))
    return tuple(shown)


def _picked(store: Store, trees: list[m.ClassTree], kind: Kind) -> list[m.Decision]:
    """The `EXAMPLES` to show: asked before unseen, the best of every class before a second of one."""
    largest = sorted((t for t in trees if t.masks), key=lambda t: -t.masks)[:LARGEST]
    decisions: list[m.Decision] = []
    for asked in (True, False):
        if len(decisions) < EXAMPLES:
            for t in largest:
                decisions += store.decisions.largest(t.round, t.class_id, EXAMPLES, kind=kind, asked=asked)
    ranked = sorted(decisions, key=lambda d: (d.asked == 0, -d.size, d.round, d.class_id, d.cluster))
    place: Counter[int] = Counter()
    ordered = []
    for rank, decision in enumerate(ranked):
        ordered.append((decision.asked == 0, place[decision.class_id], rank, decision))
        place[decision.class_id] += 1
    return [entry[-1] for entry in sorted(ordered, key=lambda e: e[:3])[:EXAMPLES]]


def _example(decision: m.Decision, kind: Kind, crops: tuple[Crop, ...]) -> ExampleCluster:
    return ExampleCluster(
        kind=kind,
        round=decision.round,
        class_id=decision.class_id,
        cluster=decision.cluster,
        size=decision.size,
        asked=decision.asked,
        yes=decision.yes,
        mean_score=decision.mean_score,
        lower_bound=decision.lower_bound,
        rule=decision.rule,
        crops=crops,
    )


def _shown(masks: ClusterMasks, cluster: int) -> list[int]:
    """The masks of a cluster to show, those with a verdict first."""
    asked, others = sorted(masks.asked(cluster).tolist()), masks.unasked(cluster)[:EXAMPLE_CROPS]
    shown = spread(asked, max(EXAMPLE_CROPS // 2, EXAMPLE_CROPS - len(others)))
    shown += others[: EXAMPLE_CROPS - len(shown)]
    return [masks.mask(leaf) for leaf in shown]


def renderer(store: Store) -> Renderer:
    """Renders pool masks, those whose image is gone left out."""
    cache = ImageCache(64 << 20)

    def render(shown: list[int]) -> tuple[Crop, ...]:
        masks, known = store.masks.read(shown), verdicts_on(store, shown)
        images = store.images.some(masks.image_id.tolist())
        crops = []
        for row, (mask, rle) in enumerate(zip(shown, masks.rles(), strict=True)):
            try:
                image = cache.get(images[int(masks.image_id[row])].path)
            except InputError:  # an image that is gone by now costs its crop, not the report
                continue
            verdict = known.get(mask)
            jpeg = render_crop(image, masks.box[row], rle, CROP_STYLE)
            crops.append(Crop(jpeg, None if verdict is None else verdict.word))
        return tuple(crops)

    return render
