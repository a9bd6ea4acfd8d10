"""The published figures redrawn from simulated courses: growth, quality, accepted clusters, thresholds, grid."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from campaign.search.thresholds import Thresholds
from campaign.simulation.runs import Course

# Distinguishable without colour vision, and by dash on a black and white print.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#333333")
_DASHES = ("-", "--", "-.", ":")


def draw_courses(courses: Mapping[str, Course], folder: Path, seconds_per_mask: float = 80.0) -> list[Path]:
    """Draws `growth.png` (masks), `clusters.png` (accepted clusters) and `quality.png` (SQ and precision).

    All against questions and against hours, with logarithmic axes for what is counted. Drawing by hand is a line in
    the panel of hours. Returns the paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, column, label in (("growth", "masks", "masks"), ("clusters", "accepted", "accepted clusters")):
        figure, panels = _figure(1, 2)
        for axis, x, unit in zip(panels[0], ("questions", "seconds"), ("questions", "hours"), strict=True):
            most = 1.0
            for index, (title, course) in enumerate(courses.items()):
                across = getattr(course, x) / (3600 if unit == "hours" else 1)
                keep = (across > 0) & (getattr(course, column) > 0)
                if keep.any():
                    axis.plot(across[keep], getattr(course, column)[keep], label=title, **_style(index))
                    most = max(most, float(across[keep].max()))
            if unit == "hours" and column == "masks":
                hours = np.geomspace(seconds_per_mask / 3600, max(most, seconds_per_mask / 1800), 50)
                axis.plot(hours, hours * 3600 / seconds_per_mask, color="0.6", lw=1, label="drawing by hand")
            axis.set(xscale="log", yscale="log", xlabel=unit, ylabel=label)
            axis.grid(alpha=0.3, which="both", lw=0.5)
        panels[0][1].legend(fontsize=7, frameon=False)
        paths.append(_save(figure, folder / f"{name}.png"))
    figure, panels = _figure(1, 2)
    for index, (title, course) in enumerate(courses.items()):
        keep = (course.questions > 0) & (course.masks >= 10) & (course.matched > 0)
        across = course.questions[keep]
        if keep.any():
            panels[0][0].plot(across, course.iou[keep] / course.matched[keep], label=title, **_style(index))
            panels[0][1].plot(across, course.correct[keep] / course.masks[keep], label=title, **_style(index))
    for axis, label in zip(panels[0], ("mean IoU (SQ)", "precision"), strict=True):
        axis.set(xscale="log", xlabel="questions", ylabel=label)
        axis.grid(alpha=0.3, which="both", lw=0.5)
    panels[0][0].legend(fontsize=7, frameon=False)
    paths.append(_save(figure, folder / "quality.png"))
    return paths


def draw_thresholds(thresholds: Mapping[Any, Thresholds], path: Path, most: int = 12) -> Path:
    """P_h(S) and P_l(S) of up to `most` classes, with K_pr and K_pa as lines."""
    shown = [(name, t) for name, t in thresholds.items() if t.curves is not None][:most]
    columns = max(1, min(4, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure, panels = _figure(rows, columns, 2.6, 2.2)
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
    return _save(figure, path)


def draw_grid(result: Mapping[str, Any], path: Path) -> Path:
    """SQ against masks per question for every setting of a grid; the cheapest good one is ringed."""
    figure, panels = _figure(1, 1, 5, 3.6)
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
    return _save(figure, path)


def _style(index: int) -> dict[str, Any]:
    return {"color": _COLOURS[index % len(_COLOURS)], "ls": _DASHES[index // len(_COLOURS) % len(_DASHES)], "lw": 1.5}


def _figure(rows: int, columns: int, width: float = 4.5, height: float = 3.6) -> tuple[Any, np.ndarray]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False)


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    return path


def draw_target(result: dict[str, Any], path: Path) -> None:
    """Masks that would be delivered and correct ones among them, and their share, against questions."""
    from matplotlib.figure import Figure

    course = np.array(result["course"], np.float64).reshape(-1, 3)
    figure = Figure(figsize=(7, 6), layout="constrained")
    counts, share = figure.subplots(2, 1, sharex=True)
    counts.plot(course[:, 0], course[:, 1], label="masks")
    counts.plot(course[:, 0], course[:, 2], label="correct")
    counts.set_ylabel("masks that would be delivered")
    counts.legend()
    share.plot(course[:, 0], course[:, 2] / np.maximum(course[:, 1], 1), label="precision")
    share.axhline(result["options"]["precision"], linestyle="--", color="grey", label="target")
    share.axhline(result["promised"], linestyle=":", color="black", label="promised at the end")
    share.set_ylabel("precision")
    share.set_xlabel("questions, gold included")
    share.legend()
    figure.savefig(path, dpi=150)
