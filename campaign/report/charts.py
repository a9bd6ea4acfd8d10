"""Charts as inline SVG. Colours are the page's CSS variables, so a chart follows its light and dark schemes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from markupsafe import Markup

WIDTH, HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 18, 40
_TOP_ABOVE = 38  # under a second scale
_MOST_POINTS = 240


@dataclass(frozen=True)
class Series:
    """A line: x and y (n,), colour number, and where wanted a band between `low` and `high` (n,).

    `style`: "line" joins the points, "step" holds each value until the next x, "dots" draws circles of area `weight`.
    """

    label: str
    color: int
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    style: str = "line"
    weight: np.ndarray | None = None


@dataclass(frozen=True)
class Mark:
    """A vertical line at `x` with a label."""

    x: float
    label: str


@dataclass(frozen=True)
class Level:
    """A horizontal line at `y` with a label."""

    y: float
    label: str


@dataclass(frozen=True)
class Above:
    """A second scale over the chart: `ticks` as (x, text), and what it is of."""

    ticks: Sequence[tuple[float, str]]
    label: str


def line_chart(  # noqa: PLR0913 - options by name
    series: Sequence[Series],
    *,
    label: str,
    x_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    x_ticks: Sequence[float] | None = None,
    x_format: Callable[[float], str] = lambda v: number(v),
    y_format: Callable[[float], str] = lambda v: number(v),
    marks: Sequence[Mark] = (),
    levels: Sequence[Level] = (),
    above: Above | None = None,
) -> Markup:
    """An SVG chart of lines over one pair of axes; `label` is what a screen reader says of it."""
    x0, x1 = x_range or _extent([s.x for s in series], zero=False)
    values = [v for s in series for v in (s.y, s.low, s.high) if v is not None]
    y0, y1 = y_range or _extent(values, zero=True)
    if not y1 > y0:
        y0 = y1 - 0.1
    y_at = ticks(y0, y1, 5)
    if y_range is None and y_at[-1] < y1:
        y_at.append(2 * y_at[-1] - y_at[-2])
        y1 = y_at[-1]
    top = _TOP if above is None else _TOP_ABOVE

    def px(x: np.ndarray | float) -> np.ndarray:
        return _LEFT + (np.asarray(x, float) - x0) / (x1 - x0) * (WIDTH - _LEFT - _RIGHT)

    def py(y: np.ndarray | float) -> np.ndarray:
        return HEIGHT - _BOTTOM - (np.asarray(y, float) - y0) / (y1 - y0) * (HEIGHT - top - _BOTTOM)

    parts = [f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">']
    for y in y_at:
        at = float(py(y))
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 6}" y="{at + 4:.1f}">{escape(y_format(y))}</text>')
    base = HEIGHT - _BOTTOM
    for x in ticks(x0, x1, 5) if x_ticks is None else x_ticks:
        at = float(px(x))
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{base}" y2="{base + 4}"/>')
        parts.append(f'<text class="x" x="{at:.1f}" y="{base + 17}">{escape(x_format(x))}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{base}" y2="{base}"/>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(f'<text class="x label" x="{middle:.0f}" y="{HEIGHT - 5}">{escape(x_label)}</text>')
    if above is not None:
        parts += _scale_above(above, px, top)
    parts += _marked(marks, px, (top, base), inside=above is not None)
    parts += _levelled(levels, py)
    for s in series:
        parts += _drawn(_thinned(s), px, py)
    parts.append("</svg>")
    return Markup("".join(parts))  # noqa: S704 - every text in it is escaped above


def _marked(marks: Sequence[Mark], px: Callable, span: tuple[int, int], inside: bool) -> list[str]:
    """Vertical lines over this span; their labels on top, or `inside` the chart where a scale is in their place."""
    (top, base), middle, parts = span, (_LEFT + WIDTH - _RIGHT) / 2, []
    for mark in marks:
        at = float(px(mark.x))
        place = f'class="x mark" x="{at:.1f}" y="{top - 6}"'
        if inside:
            side, gap = ("y", -5) if at > middle else ("start", 5)
            place = f'class="{side} mark" x="{at + gap:.1f}" y="{base - 6}"'
        parts.append(f'<line class="mark" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{base}"/>')
        parts.append(f"<text {place}>{escape(mark.label)}</text>")
    return parts


def _levelled(levels: Sequence[Level], py: Callable) -> list[str]:
    parts = []
    for level in levels:
        at = float(py(level.y))
        parts.append(f'<line class="level" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="start level" x="{_LEFT + 4}" y="{at - 4:.1f}">{escape(level.label)}</text>')
    return parts


def _scale_above(above: Above, px: Callable, top: int) -> list[str]:
    parts = [f'<line class="axis" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{top}" y2="{top}"/>']
    for x, text in above.ticks:
        at = float(px(x))
        parts.append(f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{top - 4}" y2="{top}"/>')
        parts.append(f'<text class="x" x="{at:.1f}" y="{top - 8}">{escape(text)}</text>')
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    return [*parts, f'<text class="x label" x="{middle:.0f}" y="{top - 24}">{escape(above.label)}</text>']


def _drawn(s: Series, px: Callable, py: Callable) -> list[str]:
    good = np.isfinite(s.x) & np.isfinite(s.y)
    if not good.any():
        return []
    x, y = px(s.x[good]), py(s.y[good])
    hold = (lambda v: np.repeat(v, 2)[:-1]) if s.style == "step" else (lambda v: v)
    along = np.repeat(x, 2)[1:] if s.style == "step" else x
    title = f"<title>{escape(s.label)}</title>"
    parts = []
    if s.low is not None and s.high is not None and good.sum() > 1:
        low, high = hold(py(s.low[good])), hold(py(s.high[good]))
        edge = _points(np.concatenate([along, along[::-1]]), np.concatenate([high, low[::-1]]))
        parts.append(f'<polygon class="band c{s.color}" points="{edge}">{title}</polygon>')
    if s.style == "dots":
        weight = np.ones(len(x)) if s.weight is None else s.weight[good]
        radius = 1.5 + 5.5 * np.sqrt(weight / max(float(weight.max()), 1e-9))
        dots = zip(x, y, radius, strict=True)
        parts += [f'<circle class="dot c{s.color}" cx="{a:.1f}" cy="{b:.1f}" r="{r:.1f}"/>' for a, b, r in dots]
    elif len(x) == 1:
        parts.append(f'<circle class="end c{s.color}" cx="{x[0]:.1f}" cy="{y[0]:.1f}" r="3">{title}</circle>')
    else:
        parts.append(f'<polyline class="line c{s.color}" points="{_points(along, hold(y))}">{title}</polyline>')
        parts.append(f'<circle class="end c{s.color}" cx="{x[-1]:.1f}" cy="{y[-1]:.1f}" r="3">{title}</circle>')
    return parts


def _points(x: np.ndarray, y: np.ndarray) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))


def _thinned(s: Series) -> Series:
    """At most `_MOST_POINTS` of a series: of the points that fall on one place of the x axis the last."""
    if len(s.x) <= _MOST_POINTS or s.style == "dots":
        return s
    span = max(float(s.x[-1] - s.x[0]), 1e-9)
    place = np.floor((s.x - s.x[0]) / span * (_MOST_POINTS - 1)).astype(int)
    last = np.append(np.flatnonzero(np.diff(place)), len(place) - 1)
    low, high = (None if v is None else v[last] for v in (s.low, s.high))
    return Series(s.label, s.color, s.x[last], s.y[last], low, high, s.style)


def _extent(columns: Sequence[np.ndarray], zero: bool) -> tuple[float, float]:
    values = np.concatenate([np.asarray(c, float)[np.isfinite(c)] for c in columns]) if columns else np.zeros(0)
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    low = min(low, 0.0) if zero else low
    return (low, high) if high > low else (low, low + 1.0)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 round numbers from `low` to `high`, 1, 2 or 5 times a power of ten apart."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


_UNITS = ((1.0, "s"), (60.0, "min"), (3600.0, "h"), (86400.0, "days"))
_STEPS = {"s": (1, 2, 5, 10, 15, 30), "min": (1, 2, 5, 10, 15, 30), "h": (1, 2, 3, 6, 12), "days": ()}


def time_axis(seconds: float) -> tuple[float, str, list[float]]:
    """(seconds per unit, unit, ticks in that unit) of an axis from 0 to `seconds`."""
    size, unit = [u for u in _UNITS if seconds >= 2 * u[0]][-1] if seconds >= 2 else _UNITS[0]
    whole = max(seconds / size, 1.0)
    step = next((s for s in _STEPS[unit] if whole / s <= 6), None)
    at = ticks(0, whole, 5) if step is None else [float(step * i) for i in range(int(whole / step) + 1)]
    return size, unit, at


def number(value: float) -> str:
    """A number for an axis: 1200 is "1,200", 2400000 is "2.4M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.3g}"


def percent(value: float) -> str:
    """A fraction as a percentage without needless digits: 0.925 is "92.5 %"."""
    return f"{value * 100:.3g} %"
