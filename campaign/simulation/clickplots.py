"""What clicks bring, drawn: mean IoU by clicks, and of the masks that `M_r` holds for the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from campaign.simulation.plots import figure_of, save_figure, style


def draw_study(result: dict[str, Any], path: Path) -> Path:
    """Draws the result of `campaign simulate-clicks`; returns the path."""
    figure, panels = figure_of(1, 2)
    curve = result["miou_by_clicks"]
    left, right = panels[0]
    left.plot(range(len(curve)), curve, label=f"{result['model']}, from a box", **style(0))
    left.set(xlabel="clicks", ylabel="mean IoU")
    best = result.get("ranked_miou") or {}
    if best:
        right.plot([int(share) for share in best], list(best.values()), label="best by the ranking model", **style(1))
        right.axhline(result["miou_3x3"], color="0.6", lw=1, label="all, after 3 x 3 clicks")
        right.legend(fontsize=7, frameon=False)
    right.set(xlabel="best masks, %", ylabel="mean IoU")
    for axis in (left, right):
        axis.grid(alpha=0.3, lw=0.5)
    left.legend(fontsize=7, frameon=False)
    return save_figure(figure, path)
