"""What the store holds, gathered into a `ReportData`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone

import numpy as np

from campaign.derived.answers import counted_answers
from campaign.derived.certificates import standing_certificate
from campaign.derived.classes import class_line
from campaign.derived.dataset import final_masks
from campaign.derived.delivery import promise_of
from campaign.derived.eyes import campaign_eyes
from campaign.derived.outlook import forecast_of
from campaign.derived.pace import work
from campaign.derived.recall import recall_figures
from campaign.derived.spending import promise_kinds
from campaign.quality.answers import verdicts
from campaign.records.dataset_masks import VOTED_RULE, DatasetMasks, chance_of
from campaign.records.page import PageKind
from campaign.records.verdict import Verdict
from campaign.report.estimates import Estimate, estimate, expected_correct
from campaign.report.free_start import free_start
from campaign.report.records import (
    KINDS,
    ClassFigures,
    Crop,
    ExampleCluster,
    Kind,
    Progress,
    ReportData,
    RoundFigures,
)
from campaign.search.thresholds import Curves
from campaign.store import Store
from campaign.store import models as m
from campaign.store.answers import Fact
from ml_backend.errors import InputError
from ml_backend.masks.rendering import CropStyle, ImageCache, render_crop

EXAMPLES = 3  # clusters shown of each kind
EXAMPLE_CROPS = 10  # masks shown of each, the asked ones first, at most half of them where others are left
CROP_STYLE = CropStyle(size=120, quality=80)

BASIS = (
    "Precision is estimated from the answers: a mask voted yes counts as correct, and a propagated one as correct "
    "with the probability that its cluster's sample suggests. The band is a 95 % interval. Annotators are taken to be "
    "right, and a cluster is accepted because its sample was good, so this is a guide and no certificate."
)

_Key = tuple[int, int, int]  # round, class, cluster


def report_data(store: Store, truth: Mapping[str, float] | None = None) -> ReportData:
    """What the report of a campaign shows, as it stands; `truth` holds figures against ground truth, by name."""
    classes, rounds, trees = store.classes(), store.rounds.all(), _trees(store)
    decisions = {(d.round, d.class_id, d.cluster): d for d in store.decisions.rows()}
    kinds = [PageKind.VERIFY, *(kind for _, kind in promise_kinds(store))]
    questions = [row for kind in kinds for row in store.questions.rows(kind=kind)]
    answers = counted_answers(store)
    known = verdicts(answers)
    render = _renderer(store, known)
    masks = final_masks(store)
    labelled = store.images.annotated("labelled")
    times = {a.mask_id: _moment(a) for a in answers}
    obtained = _obtained(masks, decisions, times)
    recall, recall_note = _recall(store, masks)
    progress = _progress(obtained, answers, {q.mask_id: p.class_id for q, p in questions})
    return ReportData(
        name=store.settings.name,
        made=datetime.now(timezone.utc),
        started=min(times.values(), default=None),
        detector=store.settings.detector.name,
        classes=classes,
        images={"labelled": len(labelled.images), "pool": len(store.images.records("pool"))},
        labelled_masks=len(labelled.annotations),
        masks=len(masks),
        voted=int(masks.voted.sum()),
        questions=len(questions),
        answers=len(answers),
        annotators=len({a.annotator for a in answers}),
        seconds=_seconds(store, answers),
        precision=_precision(obtained),
        basis=BASIS,
        rounds=tuple(_round(r) for r in rounds),
        figures=_figures(trees, decisions, questions, obtained),
        progress=progress,
        examples=_examples(store, decisions, known, render),
        free_start=free_start(store, masks, known, render, EXAMPLE_CROPS),
        settings=_settings(store),
        gold=sum(map(store.questions.count_gold, kinds)),
        cut=_cut(store),
        k_iou=store.settings.search.k_iou,
        truth=dict(truth or {}),
        recall=recall,
        recall_note=recall_note,
        forecast=_forecast(store),
        course=tuple(store.course.rows()),
        certificate=_certificate(store, masks),
    )


def _certificate(store: Store, masks: DatasetMasks) -> dict[str, str]:
    """What is promised of exactly these masks, or certified of them by an audit, by name."""
    if store.settings.search.policy == "target":
        promise = promise_of(store, masks.mask_id)
        words = {
            "target": f"{promise['target']:g}, with {promise['confidence']:.0%} confidence",
            "promise": promise["sentence"],
            "questions": f"{promise['questions']}, {promise['draws']} of them drawn by chance",
            "the set": promise["digest"],
            "missing": None if promise["met"] and promise["classes"] else promise["missing"],
        } | {f"class {name}": class_line(one) for name, one in promise["classes"].items()}
        return {k: v for k, v in words.items() if v is not None}
    return {k: str(v) for k, v in (standing_certificate(store, masks) or {}).items()}


def _cut(store: Store) -> tuple[float, float, float] | None:
    eyes = campaign_eyes(store)
    return (eyes.crowd.cut, *eyes.cut_interval) if eyes.answers else None


def _recall(store: Store, masks: DatasetMasks) -> tuple[dict[str, tuple[str, ...]], str]:
    """The rows of the table of recall, and what it rests on; empty where nobody was asked what is missing."""
    figures = recall_figures(store, masks)
    if figures is None:
        return {}, ""
    looked = (
        f"{figures['images_answered']} of {figures['images']} images looked through, {figures['complete']} complete"
    )
    if figures["estimate"] is None:
        return {}, f"{looked}."
    rows = {"all": figures} | figures["per_class"]
    table: dict[str, tuple[str, ...]] = {
        name: (
            f"{row['estimate']:.3f}", "–" if row["bound"] is None else f"{row['bound']:.3f}", f"{row['masks']:,}",
            f"{row['clicked']:,}",
        )
        for name, row in rows.items()
    }  # fmt: skip
    sure = "" if figures["confidence"] is None else f" Each bound holds at {100 * figures['confidence']:g} %."
    return table, "; ".join([looked, *figures["notes"]]) + "." + sure


def _forecast(store: Store) -> dict[str, tuple[str, ...]]:
    """The rows of the table of what was expected before the first question; empty where nothing was."""
    known = forecast_of(store)
    if known is None:
        return {}

    def span(figure: Mapping[str, float] | None, form: str) -> str:
        return "–" if figure is None else "{0:{3}} ({1:{3}} to {2:{3}})".format(*figure.values(), form)

    rows = {"all": known["all"]} | known["classes"]
    forms = {"correct": ",.0f", "objects": ",.0f", "recall": ".2f", "questions": ",.0f", "hours": ",.1f"}
    return {name: tuple(span(row[k], form) for k, form in forms.items()) for name, row in rows.items()}


def _trees(store: Store) -> list[m.ClassTree]:
    return [row for r in store.rounds.all() for row in store.trees.rows(r.number)]


def _round(row: m.Round) -> RoundFigures:
    metrics = row.metrics.get("ap") or {}
    mask, box = metrics.get("mask") or {}, metrics.get("box") or {}
    ap = {"ap": mask.get("ap"), "ap50": mask.get("ap50"), "ap75": mask.get("ap75"), "box_ap": box.get("ap")}
    kept = {name: value for name, value in ap.items() if value is not None}
    return RoundFigures(row.number, row.model_version or "", row.stage, kept)


def _figures(
    trees: list[m.ClassTree],
    decisions: Mapping[_Key, m.Decision],
    questions: list[tuple[m.Question, m.Page]],
    obtained: list[_Obtained],
) -> tuple[ClassFigures, ...]:
    clusters: Counter[tuple[int, int, str]] = Counter((d.round, d.class_id, d.kind) for d in decisions.values())
    sizes: Counter[tuple[int, int, str]] = Counter()
    for d in decisions.values():
        sizes[d.round, d.class_id, d.kind] += d.size
    unseen = Counter((d.round, d.class_id) for d in decisions.values() if d.asked == 0)
    gains: dict[tuple[int, int], list[_Obtained]] = defaultdict(list)
    for gain in obtained:
        gains[gain.round, gain.class_id].append(gain)
    asked: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)
    for question, page in questions:
        cluster = -1 if question.cluster is None else question.cluster
        decision = decisions.get((page.round, page.class_id, cluster))
        asked[page.round, page.class_id][decision.kind if decision else "open"] += 1
    classes = []
    for row in trees:
        key, curves = (row.round, row.class_id), row.thresholds.get("curves")
        figures = ClassFigures(
            *key,
            predictions=row.masks + row.known,
            known=row.known,
            masks=sum(gain.masks for gain in gains[key]),
            precision=_precision(gains[key]),
            clusters={kind: clusters[(*key, kind)] for kind in KINDS},
            decided={"accept": sizes[(*key, "accept")], "reject": sizes[(*key, "reject")]},
            questions=dict(asked[key]),
            unseen=unseen[key],
            k_pr=row.thresholds["k_pr"],
            k_pa=row.thresholds["k_pa"],
            note=row.thresholds.get("note") or "",
            curves=Curves(**{name: tuple(column) for name, column in curves.items()}) if curves else None,
        )
        classes.append(figures)
    return tuple(classes)


# Time and precision


def _moment(answer: Fact) -> datetime:
    """When an answer was given."""
    try:
        return _utc(datetime.fromisoformat(answer.answered_at.replace("Z", "+00:00")))
    except ValueError:  # of a Label Studio that writes its times otherwise
        return datetime(1970, 1, 1)


def _utc(moment: datetime) -> datetime:
    """The moment in UTC, without a zone: databases return their times with one or without."""
    return moment.astimezone(timezone.utc).replace(tzinfo=None) if moment.tzinfo else moment


def _seconds(store: Store, answers: list[Fact]) -> float | None:
    """Seconds that annotators are believed to have spent on the pages of these answers; None where none says."""
    rows = work(store).believed()
    seconds = rows["seconds"][np.isin(rows["annotation"], [a.annotation_id for a in answers])]
    return None if np.isnan(seconds).all() else float(np.nansum(seconds))


@dataclass(frozen=True)
class _Obtained:
    """Masks that came in together, with the mean and variance of how many of them are correct."""

    moment: datetime
    round: int
    class_id: int
    masks: int
    mean: float
    variance: float


def _obtained(
    masks: DatasetMasks, decisions: Mapping[_Key, m.Decision], times: Mapping[int, datetime]
) -> list[_Obtained]:
    """The dataset by clusters: a cluster's masks came with its decision, a mask of its own with its answer."""
    last = max(times.values(), default=datetime.min)
    groups: dict[tuple[_Key, bool], list[int]] = defaultdict(list)
    keys = zip(masks.round.tolist(), masks.class_id.tolist(), masks.cluster.tolist(), strict=True)
    for index, (key, voted) in enumerate(zip(keys, masks.voted.tolist(), strict=True)):
        groups[key, voted].append(index)
    gains = []
    for (key, voted), members in groups.items():
        decision = decisions.get(key)
        if voted and masks.rule[members[0]] == VOTED_RULE:
            for moment in (times.get(int(masks.mask_id[i]), last) for i in members):
                gains.append(_Obtained(moment, key[0], key[1], 1, 1.0, 0.0))
            continue
        n, mean, variance = len(members), float(len(members)), 0.0
        likely = [chance_of(str(masks.rule[i])) for i in members]
        if not voted and None not in likely:
            chances = np.array(likely, np.float64)
            mean, variance = float(chances.sum()), float((chances * (1 - chances)).sum())
        elif not voted:
            yes, asked = int(masks.yes[members[0]]), int(masks.asked[members[0]])
            certain = _certain(decision) if decision else asked
            mean, variance = (float(v[0]) for v in expected_correct(*np.array([[n], [yes], [certain]])))
        gains.append(_Obtained(_utc(decision.decided_at) if decision else last, key[0], key[1], n, mean, variance))
    return gains


def _progress(obtained: list[_Obtained], answers: list[Fact], class_of: Mapping[int, int]) -> Progress:
    asked = Counter((_moment(a), class_of[a.mask_id]) for a in answers if a.mask_id in class_of)
    rows = [(moment, class_id, n, 0, 0.0, 0.0) for (moment, class_id), n in asked.items()]
    rows += [(o.moment, o.class_id, 0, o.masks, o.mean, o.variance) for o in obtained]
    rows.sort(key=lambda r: (r[0], r[1], -r[2]))
    if not asked:
        return Progress(*(np.zeros(0, t) for t in _PROGRESS_TYPES))
    first = min(moment for moment, _ in asked)
    seconds = [max((row[0] - first).total_seconds(), 0.0) for row in rows]
    columns = zip([seconds, *list(zip(*rows, strict=True))[1:]], _PROGRESS_TYPES, strict=True)
    return Progress(*(np.array(column, dtype) for column, dtype in columns))


_PROGRESS_TYPES = (np.float64, np.int32, np.int32, np.int32, np.float64, np.float64)


def _certain(decision: m.Decision) -> int:
    """Answers of a decision that were yes or no; `asked` counts the unsure ones too."""
    return round(decision.yes / decision.quality) if decision.quality else decision.asked


def _precision(obtained: list[_Obtained]) -> Estimate | None:
    return estimate(sum(o.mean for o in obtained), sum(o.variance for o in obtained), sum(o.masks for o in obtained))


# Examples


def _examples(
    store: Store,
    decisions: Mapping[_Key, m.Decision],
    known: Mapping[int, Verdict],
    render: Callable[[list[int]], tuple[Crop, ...]],
) -> tuple[ExampleCluster, ...]:
    """Of each kind the largest clusters somebody was asked about, of different classes first, with some crops."""
    examples = []
    for kind in KINDS:
        of_kind = [d for d in decisions.values() if d.kind == kind]
        for decision in _picked(of_kind):
            crops = render(_shown(store, decision, known))
            if crops:
                examples.append(_example(decision, kind, crops))
    return tuple(examples)


def _picked(decisions: list[m.Decision]) -> list[m.Decision]:
    """The `EXAMPLES` to show: asked before unseen, the best of every class before a second of one."""
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


def _shown(store: Store, decision: m.Decision, known: Mapping[int, Verdict]) -> list[int]:
    tree, mask_ids = store.trees.read(decision.round, decision.class_id)
    members = np.sort(np.asarray(mask_ids)[tree.members(decision.cluster)])
    asked = [int(i) for i in members if int(i) in known]
    others = [int(i) for i in members if int(i) not in known]
    from_asked = max(EXAMPLE_CROPS // 2, EXAMPLE_CROPS - len(others))
    shown = _spread(asked, from_asked)
    return shown + _spread(others, EXAMPLE_CROPS - len(shown))


def _renderer(store: Store, known: Mapping[int, Verdict]) -> Callable[[list[int]], tuple[Crop, ...]]:
    """Renders pool masks, those whose image is gone left out."""
    images, cache = {i.id: i for i in store.images.records("pool")}, ImageCache(64 << 20)

    def render(shown: list[int]) -> tuple[Crop, ...]:
        masks = store.masks.read(shown)
        crops = []
        for row, (mask, rle) in enumerate(zip(shown, masks.rles(), strict=True)):
            try:
                image = cache.get(images[int(masks.image_id[row])].path)
            except InputError:  # an image that is gone by now costs its crop, not the report
                continue
            verdict = known.get(mask)
            jpeg = render_crop(image, masks.box[row], rle, CROP_STYLE)
            crops.append(Crop(jpeg, None if verdict is None else verdict.name.lower()))
        return tuple(crops)

    return render


def _spread(values: list[int], count: int) -> list[int]:
    """At most `count` of the values, evenly from first to last."""
    if len(values) <= count:
        return list(values)
    return [values[i] for i in np.linspace(0, len(values) - 1, count).round().astype(int)] if count > 0 else []


_HIDDEN = {"jobs.redis_url", "jobs.database_url"}  # addresses that may hold a password


def _settings(store: Store) -> dict[str, str]:
    shown: dict[str, str] = {}
    for name, value in store.settings.model_dump(mode="json").items():
        inner = value if isinstance(value, dict) else {"": value}
        for key, entry in inner.items():
            full = f"{name}.{key}".rstrip(".")
            if full not in _HIDDEN and full != "name":
                shown[full] = "unset" if entry is None or entry == {} else str(entry)
    return shown
