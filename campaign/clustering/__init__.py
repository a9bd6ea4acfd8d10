"""Complete-linkage trees of a class's masks, from a handful to millions.

`linkage` gives a SciPy linkage array for the fused distance
‖f_i − f_j‖ / σ_f + |s_i − s_j| / σ_s, and `Tree` holds it in flat, memory-mappable arrays in which the
members of any cluster are a slice. Names are loaded on first use, so importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from campaign.clustering.engine import Clustering as Clustering
    from campaign.clustering.engine import cluster as cluster
    from campaign.clustering.engine import linkage as linkage
    from campaign.clustering.options import LinkageOptions as LinkageOptions
    from campaign.clustering.tree import Tree as Tree

_HOMES = {
    "LinkageOptions": "campaign.clustering.options",
    "Clustering": "campaign.clustering.engine",
    "cluster": "campaign.clustering.engine",
    "linkage": "campaign.clustering.engine",
    "Tree": "campaign.clustering.tree",
}
__all__ = ["Clustering", "LinkageOptions", "Tree", "cluster", "linkage"]


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
