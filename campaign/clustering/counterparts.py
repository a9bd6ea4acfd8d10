"""Which clusters of a joined tree stand for a cluster of the tree that it was made of."""

from __future__ import annotations

import numpy as np

from campaign.clustering.tree import Tree


def counterparts(old: Tree, new: Tree, cluster: int) -> list[int]:
    """The clusters of `new` that hold the masks of an old cluster and no other old mask, rising.

    The leaves of `new` are those of `old`, under the same numbers, and newcomers after them. There is one such cluster
    where the old masks still lie together; where newcomers drew them apart there are several, as few as can be, which
    share no mask. Each is the smallest one with its old masks: newcomers that joined inside it belong to it, those that
    only joined it as a whole do not. O(n).
    """
    inside = np.zeros(new.n, bool)
    inside[old.members(cluster)] = True
    order, start = np.asarray(new.order), np.asarray(new.start, np.int64)
    end = start + np.asarray(new.size, np.int64)
    own = np.append(0, np.cumsum(inside[order]))
    known = np.append(0, np.cumsum(order < old.n))
    held = own[end] - own[start]
    pure = (held > 0) & (known[end] - known[start] == held)
    parent = np.asarray(new.parent, np.int64)
    found = []
    for top in np.flatnonzero(pure & ((parent < 0) | ~pure[parent])).tolist():
        at = top
        while at >= new.n:
            fuller = next((int(c) for c in new.children[at] if held[c] == held[at]), None)
            if fuller is None:
                break
            at = fuller
        found.append(at)
    return sorted(found)
