"""The published figures redrawn from simulated courses: growth, quality, accepted clusters, thresholds, grid.

And, for the policy with a target, precision and recall with their intervals against questions and hours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from campaign.records.course import Point, frozen_at
from campaign.records.figure import Figure
from campaign.search.thresholds import Thresholds
from campaign.simulation.runs import Course

# Distinguishable without colour vision, and by dash on a black and white print.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#333333")
_METADATA: dict[str, dict[str, None]] = {".png": {"Software": None}}
_DASHES = ("-", "--", "-.", ":")


def draw_courses(courses: Mapping[str, Course], folder: Path, seconds_per_mask: float = 80.0) -> list[Path]:
    """Draws `growth.png` (masks), `clusters.png` (accepted clusters) and `quality.png` (SQ and precision).

    All against questions and against hours, with logarithmic axes for what is counted. Drawing by hand is a line in
    the panel of hours. Returns the paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, column, label in (("growth", "masks", "masks"), ("clusters", "accepted", "accepted clusters")):
        figure, panels = figure_of(1, 2)
        for axis, x, unit in zip(panels[0], ("questions", "seconds"), ("questions", "hours"), strict=True):
            most = 1.0
            for index, (title, course) in enumerate(courses.items()):
                across = getattr(course, x) / (3600 if unit == "hours" else 1)
                keep = (across > 0) & (getattr(course, column) > 0)
                if keep.any():
                    axis.plot(across[keep], getattr(course, column)[keep], label=title, **style(index))
                    most = max(most, float(across[keep].max()))
            if unit == "hours" and column == "masks":
                hours = np.geomspace(seconds_per_mask / 3600, max(most, seconds_per_mask / 1800), 50)
                axis.plot(hours, hours * 3600 / seconds_per_mask, color="0.6", lw=1, label="drawing by hand")
            axis.set(xscale="log", yscale="log", xlabel=unit, ylabel=label)
            axis.grid(alpha=0.3, which="both", lw=0.5)
        panels[0][1].legend(fontsize=7, frameon=False)
        paths.append(save_figure(figure, folder / f"{name}.png"))
    figure, panels = figure_of(1, 2)
    for index, (title, course) in enumerate(courses.items()):
        keep = (course.questions > 0) & (course.masks >= 10) & (course.matched > 0)
        across = course.questions[keep]
        if keep.any():
            panels[0][0].plot(across, course.iou[keep] / course.matched[keep], label=title, **style(index))
            panels[0][1].plot(across, course.correct[keep] / course.masks[keep], label=title, **style(index))
    for axis, label in zip(panels[0], ("mean IoU (SQ)", "precision"), strict=True):
        axis.set(xscale="log", xlabel="questions", ylabel=label)
        axis.grid(alpha=0.3, which="both", lw=0.5)
    panels[0][0].legend(fontsize=7, frameon=False)
    paths.append(save_figure(figure, folder / "quality.png"))
    return paths


def draw_thresholds(thresholds: Mapping[Any, Thresholds], path: Path, most: int = 12) -> Path:
    """P_h(S) and P_l(S) of up to `most` classes, with K_pr and K_pa as lines."""
    shown = [(name, t) for name, t in thresholds.items() if t.curves is not None][:most]
    columns = max(1, min(4, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure, panels = figure_of(rows, columns, 2.6, 2.2)
    for axis in panels.flat[len(shown) :]:
        axis.axis("off")
    for axis, (name, t) in zip(panels.flat, shown, strict=False):
        assert t.curves is not None
        edges = np.array(t.curves.edges)
        centres = (edges[1:] + edges[:-1]) / 2
        for values, fit, colour, label in (
            (t.curves.high, t.curves.high_fit, _COLOURS[0], "P_h"),
            (t.curves.low, t.curves.low_fit, _COLOURS[1], "P_l"),
        ):
            axis.plot(centres, values, "o", ms=2.5, color=colour)
            axis.plot(centres, fit, "-", lw=1, color=colour, label=label)
        axis.axvline(t.k_pr, color="0.5", lw=0.8, ls=":")
        axis.axvline(t.k_pa, color="0.5", lw=0.8, ls="--")
        axis.set(title=str(name), xlabel="mean score S", ylim=(-0.03, 1.03), xlim=(0, 1))
        axis.title.set_fontsize(8)
    if shown:
        panels.flat[0].legend(fontsize=7, frameon=False)
    return save_figure(figure, path)


def draw_grid(result: Mapping[str, Any], path: Path) -> Path:
    """SQ against masks per question for every setting of a grid; the cheapest good one is ringed."""
    figure, panels = figure_of(1, 1, 5, 3.6)
    axis = panels[0][0]
    for index, iou in enumerate(sorted({row["k_iou"] for row in result["rows"]})):
        rows = [row for row in result["rows"] if row["k_iou"] == iou]
        axis.scatter(
            [row["masks_per_question"] for row in rows],
            [row["sq"] for row in rows],
            s=[6 + row["n_s"] for row in rows],
            color=_COLOURS[index % len(_COLOURS)],
            alpha=0.8,
            label=f"K_iou {iou}",
        )
    best = result["cheapest"]
    if best:
        axis.plot(best["masks_per_question"], best["sq"], "o", ms=14, mfc="none", mec="k")
        text = f"N_s {best['n_s']}, K_a {best['k_a']}, K_iou {best['k_iou']}"
        axis.annotate(text, (best["masks_per_question"], best["sq"]), (6, 8), textcoords="offset points", fontsize=7)
    axis.axhline(result["least_sq"], color="0.5", lw=0.8, ls="--")
    axis.set(xscale="log", xlabel="masks per question", ylabel="SQ")
    axis.legend(fontsize=7, frameon=False)
    return save_figure(figure, path)


def style(index: int) -> dict[str, Any]:
    """Colour and dash of a line of a picture, told apart without colours too."""
    return {"color": _COLOURS[index % len(_COLOURS)], "ls": _DASHES[index // len(_COLOURS) % len(_DASHES)], "lw": 1.5}


def figure_of(rows: int, columns: int, width: float = 4.5, height: float = 3.6) -> tuple[Any, np.ndarray]:
    """A figure and its panels, (rows, columns), each of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def save_figure(figure: Any, path: Path) -> Path:
    """Writes a figure in the format of the file's suffix, the same bytes each time; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata=_METADATA.get(path.suffix.lower()))
    return path


def draw_target(points: Sequence[Point], path: Path) -> Path:
    """Precision and recall, each with its interval, against questions, and hours above: one picture in two panels.

    Blue with a band is what the campaign expected, orange what it promised, the thin black line the truth; dashed the
    target, dotted where the order was frozen. The format follows the file's suffix. Returns the path.
    """
    figure, panels = figure_of(2, 1, 7.2, 3.1)
    blue, orange, x = _COLOURS[0], _COLOURS[1], np.array([p.questions for p in points], np.float64)
    looked = points[-1].recall_looked
    for axis, name, promised in ((panels[0][0], "precision", "promised"), (panels[1][0], "recall", "recall_promised")):
        known: list[tuple[int, Figure]] = [(n, f) for n, p in enumerate(points) if (f := getattr(p, name)) is not None]
        at, rows = x[[n for n, _ in known]], np.array([(f.value, f.low, f.high) for _, f in known]).reshape(-1, 3)
        axis.fill_between(at, rows[:, 1], rows[:, 2], color=blue, alpha=0.18, lw=0, label="90 % interval")
        axis.plot(at, rows[:, 0], color=blue, lw=1.8, label="expected")
        bounds = [(p.questions, v) for p in points if (v := getattr(p, promised)) is not None]
        if bounds:
            style = {"drawstyle": "steps-post"} if len(bounds) > 1 else {"marker": "^", "ls": "none", "clip_on": False}
            axis.plot(*np.array(bounds, np.float64).T, color=orange, lw=1.8, label="promised at least", **style)
        truth = [getattr(p, f"true_{name}") for p in points]
        if None not in truth:
            axis.plot(x, truth, color="k", lw=0.9, label="true")
        _fit(axis, [*rows.ravel().tolist(), *(v for v in truth if v is not None), *(v for _, v in bounds[-1:])])
        for point in frozen_at(points):
            axis.axvline(point.questions, color="0.35", lw=1, ls=":", label="order frozen")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3, lw=0.5)
    panels[0][0].axhline(points[-1].target, color="0.35", lw=1.2, ls="--", label=f"target {points[-1].target:g}")
    if looked is not None:
        panels[1][0].plot(
            x[-1], looked, "o", ms=5, mfc="none", mec="k", clip_on=False, label="by images looked through"
        )
    for axis in panels.flat:
        axis.set_xlim(0, max(float(x.max()), 1.0))
        axis.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    panels[1][0].set_xlabel("questions that people saw, gold included")
    each = points[-1].seconds / 3600 / max(1.0, x[-1])
    above = panels[0][0].secondary_xaxis("top", functions=(lambda v: v * each, lambda v: v / max(each, 1e-12)))
    above.set_xlabel("hours")
    return save_figure(figure, path)


def _fit(axis: Any, values: Sequence[float]) -> None:
    """The scale from tenth to tenth, with all of these values and some room."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    axis.set_ylim(max(0.0, np.floor((low - 0.02) * 10) / 10), min(1.0, np.ceil((high + 0.02) * 10) / 10) + 0.005)
