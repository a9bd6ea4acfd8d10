"""Simulated campaigns: production's search and policies on masks whose true IoU is known, and simulated annotators.

Names are loaded on first use, so importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from campaign.simulation.annotators import Annotators as Annotators
    from campaign.simulation.mixtures import Mixture as Mixture
    from campaign.simulation.mixtures import Triplets as Triplets
    from campaign.simulation.mixtures import fit_mixture as fit_mixture
    from campaign.simulation.populations import ClassPopulation as ClassPopulation
    from campaign.simulation.populations import given_population as given_population
    from campaign.simulation.populations import sample_population as sample_population
    from campaign.simulation.study import SimulationOptions as SimulationOptions
    from campaign.simulation.study import SimulationResult as SimulationResult
    from campaign.simulation.study import grid as grid
    from campaign.simulation.study import simulate as simulate

_HOMES = {
    "annotators": ("Annotators",),
    "mixtures": ("Mixture", "Triplets", "fit_mixture"),
    "plots": ("draw_courses", "draw_grid", "draw_thresholds"),
    "populations": ("ClassPopulation", "given_population", "sample_population"),
    "study": ("SimulationOptions", "SimulationResult", "grid", "simulate"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "Annotators",
    "ClassPopulation",
    "Mixture",
    "SimulationOptions",
    "SimulationResult",
    "Triplets",
    "fit_mixture",
    "given_population",
    "grid",
    "sample_population",
    "simulate",
]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOME_OF:
        return getattr(import_module(f"campaign.simulation.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
