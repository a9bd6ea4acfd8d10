"""Complete-linkage trees of a class's masks, from a handful to millions.

`linkage` returns a SciPy linkage array for the fused distance ‖f_i − f_j‖ / σ_f + |s_i − s_j| / σ_s, and `Tree`
holds it in flat, memory-mappable arrays in which the members of any cluster are a slice.

Which engine runs when (`LinkageOptions(engine="auto")`), for n masks of d features:

- exact, up to 8,192 masks on a CPU: one float32 matrix of all distances, merged in rounds. 4n² bytes.
- exact, up to 200,000 masks on a CPU and a million on CUDA: passes over all pairs in tiles, each keeping 32
  nearest clusters of every cluster, merge what these lists prove, until the matrix of the clusters left fits the
  memory budget. n²d multiplications for a pass and for the matrix; memory is n(8d + 584) bytes and the
  matrix, which takes what the budget leaves. A smaller budget costs more passes, not another tree.
  Well separated clusters let later passes skip tiles; in uniform noise nothing is skipped and a pass is complete.
- approximate, above: exact trees of neighbourhoods of 8,192, cut to pieces of `micro_size` masks, exact
  linkage of the pieces by four representatives each. Time and memory grow with n; `Clustering.error`
  bounds each merge.

`join` adds masks to an exact tree where most of its merges still hold, and says why where it rebuilds instead.
`cluster_class` does one class into a folder and finds it there again. The command line has OpenBLAS know its
processor, see `campaign.clustering.blas`. Names are loaded on first use, so importing this package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from campaign.clustering.engine import Clustering as Clustering
    from campaign.clustering.engine import cluster as cluster
    from campaign.clustering.engine import linkage as linkage
    from campaign.clustering.joining import Joined as Joined
    from campaign.clustering.joining import join as join
    from campaign.clustering.options import LinkageOptions as LinkageOptions
    from campaign.clustering.runs import cluster_class as cluster_class
    from campaign.clustering.runs import join_class as join_class
    from campaign.clustering.tree import Tree as Tree

_HOMES = {
    "LinkageOptions": "campaign.clustering.options",
    "Joined": "campaign.clustering.joining",
    "cluster_class": "campaign.clustering.runs",
    "join": "campaign.clustering.joining",
    "join_class": "campaign.clustering.runs",
    "Clustering": "campaign.clustering.engine",
    "cluster": "campaign.clustering.engine",
    "linkage": "campaign.clustering.engine",
    "Tree": "campaign.clustering.tree",
}
__all__ = [
    "Clustering", "Joined", "LinkageOptions", "Tree", "cluster", "cluster_class", "join", "join_class",
    "linkage",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
