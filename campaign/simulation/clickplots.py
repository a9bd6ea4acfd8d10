"""What clicks bring, drawn: mean IoU by clicks, and of the masks that `M_r` holds for the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from campaign.simulation.plots import figure_of, save_figure, style


def draw_study(result: dict[str, Any], path: Path) -> Path:
    """Draws the result of `campaign simulate-clicks`; returns the path."""
    joined = result.get("joined")
    figure, panels = figure_of(1, 3 if joined else 2)
    curve = result["miou_by_clicks"]
    left, right = panels[0][:2]
    left.plot(range(len(curve)), curve, label=f"{result['model']}, from a box", **style(0))
    left.set(xlabel="clicks", ylabel="mean IoU")
    best = result.get("ranked_miou") or {}
    if best:
        right.plot([int(share) for share in best], list(best.values()), label="best by the ranking model", **style(1))
        right.axhline(result["miou_3x3"], color="0.6", lw=1, label="all, after 3 x 3 clicks")
        right.legend(fontsize=7, frameon=False)
    right.set(xlabel="best masks, %", ylabel="mean IoU")
    if joined:
        _draw_joined(panels[0][2], joined)
    for axis in panels[0]:
        axis.grid(alpha=0.3, lw=0.5)
    left.legend(fontsize=7, frameon=False)
    return save_figure(figure, path)


def _draw_joined(axis: Any, joined: dict[str, Any]) -> None:
    """Correct masks against hours of people, each way of obtaining them."""
    curves = joined["curves"]
    most = 1.1 * max(curves[name]["hours"][-1] for name in ("verification", "verification, then clicks"))
    for number, (name, curve) in enumerate(curves.items()):
        axis.plot(curve["hours"], curve["correct"], label=name, **style(number))
    axis.axvline(joined["clicks_from_hours"], color="0.6", lw=1)
    axis.set(xlabel="hours of people", ylabel="objects with a correct mask", xlim=(0, most))
    axis.legend(fontsize=7, frameon=False)
