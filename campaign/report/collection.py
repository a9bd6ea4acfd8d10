"""What the store holds, gathered into a `ReportData`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from datetime import datetime, timezone

from campaign.derived.certificates import standing_certificate
from campaign.derived.classes import class_line
from campaign.derived.dataset import standing_masks
from campaign.derived.delivery import promised
from campaign.derived.duplicates import duplicate_counts, duplicates_line
from campaign.derived.eyes import campaign_eyes
from campaign.derived.outline import outline
from campaign.derived.outlook import forecast_of
from campaign.derived.pace import campaign_pace
from campaign.derived.recall import recall_figures
from campaign.derived.spending import promise_kinds
from campaign.records.page import PageKind
from campaign.report.examples import EXAMPLE_CROPS, examples, renderer
from campaign.report.free_start import free_start
from campaign.report.gains import AnsweredWork, Gains, obtained, progress
from campaign.report.records import KINDS, ClassFigures, ReportData, RoundFigures
from campaign.search.thresholds import Curves
from campaign.store import Store
from campaign.store import models as m
from campaign.store.values import Key

BASIS = (
    "Precision is estimated from the answers: a mask voted yes counts as correct, and a propagated one as correct "
    "with the probability that its cluster's sample suggests. The band is a 95 % interval. Annotators are taken to be "
    "right, and a cluster is accepted because its sample was good, so this is a guide and no certificate."
)


def report_data(store: Store, truth: Mapping[str, float] | None = None) -> ReportData:
    """What the report of a campaign shows, as it stands; `truth` holds figures against ground truth, by name.

    Made of what the database counts, of the views and of the outline of the dataset: no mask is looked at but those
    that are shown. Under the policy of a target the dataset is as the last turn found it.
    """
    classes, rounds, trees = store.classes(), store.rounds.all(), _trees(store)
    kinds = [PageKind.VERIFY, *(kind for _, kind in promise_kinds(store))]
    work = AnsweredWork.of(store, kinds)
    by_cluster = store.settings.search.policy != "target"
    dataset = outline(store)
    gains = obtained(store, dataset, work)
    questions = store.questions.by_decision(kinds)
    render = renderer(store)
    labelled = store.images.annotated("labelled")
    recall, recall_note = _recall(store)
    return ReportData(
        name=store.settings.name,
        made=datetime.now(timezone.utc),
        started=work.first,
        detector=store.settings.detector.name,
        classes=classes,
        images={"labelled": len(labelled.images), "pool": store.images.count("pool")},
        labelled_masks=len(labelled.annotations),
        masks=dataset.masks,
        provisional=dataset.provisional,
        voted=dataset.voted,
        questions=sum(n for *_, n in questions),
        answers=work.answers,
        annotators=work.annotators,
        pace=campaign_pace(store),
        precision=gains.precision() if by_cluster else None,
        basis=BASIS if by_cluster else "",
        by_cluster=by_cluster,
        rounds=tuple(_round(r) for r in rounds),
        figures=_figures(store, trees, questions, gains, by_cluster),
        progress=progress(gains, work),
        examples=examples(store, trees, render),
        free_start=free_start(store, render, EXAMPLE_CROPS),
        settings=_settings(store),
        gold=sum(map(store.questions.count_gold, kinds)),
        cut=_cut(store),
        k_iou=store.settings.search.k_iou,
        truth=dict(truth or {}),
        recall=recall,
        recall_note=recall_note,
        forecast=_forecast(store),
        course=tuple(store.course.rows()),
        certificate=_certificate(store),
        duplicates=duplicates_line(counts) if (counts := duplicate_counts(store)) else "",
    )


def _certificate(store: Store) -> dict[str, str]:
    """What is promised of the dataset, or certified of it by an audit, by name."""
    if (promise := promised(store)) is not None:
        words = {
            "target": f"{promise['target']:g}, with {promise['confidence']:.0%} confidence",
            "promise": promise["sentence"],
            "questions": f"{promise['questions']}, {promise['draws']} of them drawn by chance",
            "the set": promise["digest"],
            "missing": None if promise["met"] and promise["classes"] else promise["missing"],
        } | {f"class {name}": class_line(one) for name, one in promise["classes"].items()}
        return {k: v for k, v in words.items() if v is not None}
    if store.values.get(Key.CERTIFICATE) is None:
        return {}
    return {k: str(v) for k, v in (standing_certificate(store, standing_masks(store)) or {}).items()}


def _cut(store: Store) -> tuple[float, float, float] | None:
    eyes = campaign_eyes(store)
    return (eyes.crowd.cut, *eyes.cut_interval) if eyes.answers else None


def _recall(store: Store) -> tuple[dict[str, tuple[str, ...]], str]:
    """The rows of the table of recall, and what it rests on; empty where nobody was asked what is missing."""
    figures = recall_figures(store)
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
    store: Store,
    trees: list[m.ClassTree],
    questions: list[tuple[int, int, str | None, int]],
    gains: Gains,
    by_cluster: bool,
) -> tuple[ClassFigures, ...]:
    clusters: dict[tuple[int, int, str], tuple[int, int]] = {
        (number, class_id, kind): (n, size) for number, class_id, kind, n, size in store.decisions.counts()
    }
    unseen = store.decisions.unseen()
    asked: dict[tuple[int, int], Counter[str]] = defaultdict(Counter)
    for number, class_id, kind, n in questions:
        asked[number, class_id][kind or "open"] += n
    classes = []
    for row in trees:
        key, curves = (row.round, row.class_id), row.thresholds.get("curves")
        own = gains.of(*key)
        figures = ClassFigures(
            *key,
            predictions=row.masks + row.known,
            known=row.known,
            masks=own.masks,
            precision=own.precision() if by_cluster else None,
            clusters={kind: clusters.get((*key, kind), (0, 0))[0] for kind in KINDS},
            decided={kind: clusters.get((*key, kind), (0, 0))[1] for kind in ("accept", "reject")},
            questions=dict(asked[key]),
            unseen=unseen.get(key, 0),
            k_pr=row.thresholds["k_pr"],
            k_pa=row.thresholds["k_pa"],
            note=row.thresholds.get("note") or "",
            curves=Curves(**{name: tuple(column) for name, column in curves.items()}) if curves else None,
        )
        classes.append(figures)
    return tuple(classes)


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
