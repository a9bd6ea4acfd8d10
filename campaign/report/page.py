"""The page itself: `ReportData` in, one HTML text out."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from campaign.report.charts import Mark, Series, line_chart, number, percent, time_axis
from campaign.report.course import course_figure
from campaign.report.estimates import Estimate, interval
from campaign.report.records import KINDS, ClassFigures, Progress, ReportData, RoundFigures
from ml_backend.files import whole_file

# Published: 80 s for a drawn mask, 1.5 s for an answer, 245,177 questions for 4,268,921 masks.
DRAWING_SECONDS, ANSWER_SECONDS = 80.0, 1.5
PUBLISHED_QUESTIONS, PUBLISHED_MASKS = 245_177, 4_268_921

COLORS = 7  # classes with a colour of their own; the rest share one line
KIND_WORDS = {"accept": "accepted", "split": "split", "reject": "rejected", "open": "open"}
AP_NAMES = {"ap": "mask AP", "ap50": "mask AP50", "ap75": "mask AP75", "box_ap": "box AP"}


def write_report(path: str | Path, data: ReportData) -> None:
    """Write the page to `path`, whole or not at all. Raises InputError where the file cannot be written."""
    with whole_file(Path(path)) as file:
        file.write(render_report(data))


def render_report(data: ReportData) -> str:
    """The report as one HTML page, with its style, charts and pictures inside it; no scripts."""
    ranked = sorted(data.classes, key=lambda c: (-sum(f.masks for f in data.figures if f.class_id == c), c))
    color = {c: i for i, c in enumerate(ranked[:COLORS])}
    return (
        environment()
        .get_template("report.html")
        .render(
            data=data,
            cards=_cards(data),
            legend=_legend(data, ranked, color),
            course=course_figure(data.course),
            over_time=_over_time(data, ranked, color),
            ap=_ap_table(data.rounds),
            ap_chart=_ap_chart(data.rounds),
            figures=data.figures,
            where=_where_questions_went(data.figures) if data.by_cluster else [],
            curves=_curve_charts(data, ranked) if data.by_cluster else [],
            examples=[(kind, [e for e in data.examples if e.kind == kind]) for kind in KINDS],
            costs=_costs(data),
            kinds=KINDS,
            words=KIND_WORDS,
        )
    )


@lru_cache(maxsize=1)
def environment() -> Environment:
    """Jinja with the pages of this room and what they write figures by."""
    env = Environment(
        loader=PackageLoader("campaign.report", "."),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable] = {
        "count": lambda v: f"{v:,}",
        "percent": percent,
        "data_uri": lambda jpeg: Markup("data:image/jpeg;base64,") + base64.b64encode(jpeg).decode("ascii"),
    }
    env.filters.update(filters | {"interval": _interval})
    return env


def duration(seconds: float) -> str:
    """A length of time in its natural unit: 45 is "45 s", 5400 is "1.5 h"; always hours from there on."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:,.1f} h" if seconds < 360_000 else f"{seconds / 3600:,.0f} h"


def _interval(e: Estimate) -> str:
    return f"{e.low * 100:.1f}–{e.high * 100:.1f} %"


def _cards(data: ReportData) -> list[tuple[str, str, str]]:
    """Key figures: (figure, name, small print)."""
    cards = [
        ("masks", f"{data.masks:,}", f"{data.voted:,} of them voted yes, the others propagated{_so_far(data)}"),
        (
            "questions",
            f"{data.questions:,}",
            f"{data.answers:,} answers by {_people(data.annotators)}{_gold(data.gold)}",
        ),
    ]
    if (each := data.pace.per_answer) is not None:
        cards.append(("spent answering", duration(data.pace.total), f"{each:.2f} s per answer"))
    else:
        assumed = data.answers * ANSWER_SECONDS
        cards.append(("spent answering", duration(assumed), f"taken as {ANSWER_SECONDS} s per answer"))
    per_question = f"{data.masks / data.questions:.2f}" if data.questions else "–"
    published = PUBLISHED_MASKS / PUBLISHED_QUESTIONS
    cards.append(("masks per question", per_question, f"published: {published:.1f} on 8 million images"))
    if data.precision:
        cards.append(
            ("estimated precision", f"{data.precision.value * 100:.1f} %", f"95 % interval {_interval(data.precision)}")
        )
    if data.cut:
        cut, low, high = data.cut
        note = f"{low:.2f}–{high:.2f} (90 %), by gold; correct is from {data.k_iou:g} on"
        cards.append(("where annotators' eyes cut", f"IoU {cut:.2f}", note))
    with_ap = [r for r in data.rounds if r.ap.get("ap") is not None]
    if with_ap:
        path = " → ".join(f"{r.ap['ap'] * 100:.1f}" for r in with_ap)
        cards.append(("mask AP by round", path, "of the detector on the held-out images"))
    return [(value, name, note) for name, value, note in cards]


def _so_far(data: ReportData) -> str:
    return "; duplicates in the running round are not dropped yet" if data.provisional else ""


def _people(n: int) -> str:
    return "one annotator" if n == 1 else f"{n:,} annotators"


def _legend(data: ReportData, ranked: list[int], color: dict[int, int]) -> list[tuple[int, str]]:
    entries = [(color[c], data.classes[c]) for c in ranked[:COLORS]]
    others = len(ranked) - COLORS
    return entries + ([(COLORS, f"{others} other classes")] if others > 0 else [])


def _over_time(data: ReportData, ranked: list[int], color: dict[int, int]) -> list[tuple[str, Markup]]:
    """(title, chart) of what the campaign reached when; empty before the first answer."""
    if not len(data.progress.seconds):
        return []
    span = max(float(data.progress.seconds[-1]), 1.0)
    unit, unit_name, x_at = time_axis(span)
    axis: dict[str, Any] = {
        "x_label": f"time since the first question, {unit_name}",
        "x_range": (0.0, span / unit),
        "x_ticks": x_at,
    }
    parts = [(color[c], data.classes[c], data.progress.select(c)) for c in ranked[:COLORS]]
    if len(ranked) > COLORS:
        rest = np.isin(data.progress.class_id, ranked[COLORS:])
        columns = (getattr(data.progress, n)[rest] for n in Progress.__dataclass_fields__)
        parts.append((COLORS, f"{len(ranked) - COLORS} other classes", Progress(*columns)))
    parts = [(c, name, p) for c, name, p in parts if len(p.seconds)]

    def cumulated(column: str) -> list[Series]:
        return [
            Series(name, c, np.append(p.seconds, span) / unit, _held(np.cumsum(getattr(p, column))), style="step")
            for c, name, p in parts
            if getattr(p, column).any()
        ]

    over_time = ("Questions", line_chart(cumulated("questions"), label="questions over time", **axis))
    if not data.by_cluster:  # all masks come in with the last turn
        return [over_time]
    whole = data.progress
    questions, masks = np.cumsum(whole.questions), np.cumsum(whole.masks)
    charts = [
        ("Masks by questions", _if_any([Series("all classes", 8, questions, masks, style="step")], "questions")),
        over_time,
    ]
    if masks[-1]:
        charts.append(("Masks", line_chart(cumulated("masks"), label="masks over time", **axis)))
        series = [_precision(name, c, p, unit, span, band=len(parts) == 1) for c, name, p in parts if p.masks.any()]
        if len(parts) > 1:
            series.append(_precision("all classes", 8, whole, unit, span, band=True))
        floor = min(float(np.min(s.y[-1] if s.low is None else s.low[-1])) for s in series)
        chart = line_chart(
            series,
            label="estimated precision over time",
            y_range=(max(0.0, np.floor(floor * 10) / 10), 1.0),
            y_format=percent,
            **axis,
        )
        charts.append(("Estimated precision", chart))
    return charts


def _if_any(series: list[Series], x_label: str) -> Markup:
    return line_chart(series, label=f"masks by {x_label}", x_label=x_label, x_range=(0, max(series[0].x[-1], 1)))


def _precision(name: str, color: int, p: Progress, unit: float, end: float, band: bool) -> Series:
    # Clusters are decided one by one, so a sum of their variances is the variance of the sum.
    some = p.masks > 0
    value, low, high = interval(*(np.cumsum(column)[some] for column in (p.correct, p.variance, p.masks)))
    held = [_held(v) for v in (value, low, high)]
    x = np.append(p.seconds[some], end) / unit
    return Series(name, color, x, held[0], held[1] if band else None, held[2] if band else None, style="step")


def _held(values: np.ndarray) -> np.ndarray:
    """The values, and the last of them once more for the end of the time axis."""
    return np.append(values, values[-1:])


def _ap_table(rounds: Iterable[RoundFigures]) -> tuple[list[str], list[tuple[RoundFigures, list[str]]]]:
    rounds = list(rounds)
    names = [n for n in AP_NAMES if any(r.ap.get(n) is not None for r in rounds)]
    rows = [(r, [f"{r.ap[n] * 100:.1f}" if r.ap.get(n) is not None else "–" for n in names]) for r in rounds]
    return [AP_NAMES[n] for n in names], rows


def _ap_chart(rounds: Iterable[RoundFigures]) -> Markup | None:
    rounds = [r for r in rounds if r.ap.get("ap") is not None]
    if len(rounds) < 2:
        return None
    x = np.array([r.number for r in rounds], float)
    series = [
        Series(AP_NAMES[n], i, x, np.array([r.ap[n] * 100 for r in rounds]))
        for i, n in enumerate(AP_NAMES)
        if all(r.ap.get(n) is not None for r in rounds)
    ]
    values = np.concatenate([s.y for s in series])
    around = np.floor(values.min() / 10) * 10, np.ceil(values.max() / 10) * 10
    return line_chart(series, label="average precision by round", x_label="round", x_ticks=x.tolist(), y_range=around)


def _gold(count: int) -> str:
    return f"; {count:,} gold masks besides" if count else ""


def _where_questions_went(figures: Iterable[ClassFigures]) -> list[tuple[str, int, float]]:
    """(kind, questions, share) over all rounds and classes, without kinds that got none."""
    totals = {kind: sum(f.questions.get(kind, 0) for f in figures) for kind in KIND_WORDS}
    whole = sum(totals.values())
    return [(kind, n, n / whole) for kind, n in totals.items() if n]


def _curve_charts(data: ReportData, ranked: list[int]) -> list[tuple[str, str, Markup]]:
    """(class, note, chart) of P_h(S) and P_l(S) in the newest round that has them, for the classes with a colour."""
    charts = []
    for class_id in ranked[:COLORS]:
        rows = [f for f in data.figures if f.class_id == class_id and f.curves is not None]
        if not rows:
            continue
        newest = max(rows, key=lambda f: f.round)
        curves = newest.curves
        assert curves is not None
        edges = np.array(curves.edges)
        centres, count = (edges[1:] + edges[:-1]) / 2, np.array(curves.count, float)
        seen = count > 0
        series = []
        for name, color, rate, fit in (
            ("P_h: of high quality", 2, curves.high, curves.high_fit),
            ("P_l: of low quality", 1, curves.low, curves.low_fit),
        ):
            rate_at = np.array([np.nan if v is None else v for v in rate], float)
            series.append(Series(name, color, centres[seen], rate_at[seen], style="dots", weight=count[seen]))
            series.append(Series(name, color, centres[seen], np.array(fit, float)[seen]))
        chart = line_chart(
            series,
            label=f"P_h and P_l of {data.classes[class_id]}",
            x_label="mean score S of a cluster",
            x_range=(0, 1),
            y_range=(0, 1),
            y_format=percent,
            marks=[Mark(k, n) for k, n in ((newest.k_pr, "K_pr"), (newest.k_pa, "K_pa")) if k > 0],
        )
        note = f"round {newest.round}; K_pr {newest.k_pr:.2f}, K_pa {newest.k_pa:.2f}"
        charts.append((data.classes[class_id], f"{note}; {newest.note}" if newest.note else note, chart))
    return charts


def _costs(data: ReportData) -> list[tuple[str, str, str, str, bool]]:
    """(way, time per piece, in all, per mask, whether it is this campaign) of the cost table."""

    def row(way: str, each: str, seconds: float, masks: int, own: bool = False) -> tuple[str, str, str, str, bool]:
        return way, each, duration(seconds), duration(seconds / masks) if masks else "–", own

    rows = [row("Drawing every mask by hand", "80 s per mask, published", data.masks * DRAWING_SECONDS, data.masks)]
    if (each := data.pace.per_answer) is not None:
        way = f"This campaign's answers{', gold among them' if data.gold else ''}"
        rows.append(row(way, f"{each:.2f} s per answer, measured", data.pace.total, data.masks, True))
    at_published = (data.pace.answers or data.answers) * ANSWER_SECONDS
    rows.append(row("The same answers at the published speed", "1.5 s per answer", at_published, data.masks, True))
    if data.labelled_masks:
        drawn = data.labelled_masks * DRAWING_SECONDS
        way = f"The {data.labelled_masks:,} labelled masks it started from"
        rows.append(row(way, "80 s per mask, published", drawn, data.labelled_masks))
    spent = PUBLISHED_QUESTIONS * ANSWER_SECONDS
    way = f"Published system, {number(PUBLISHED_MASKS)} masks"
    rows.append(row(way, "1.5 s per answer", spent, PUBLISHED_MASKS))
    return rows
