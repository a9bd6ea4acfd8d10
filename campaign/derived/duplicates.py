"""Images that the campaign has more than once, by the signatures that were written when they were first looked at.

Copies, of the same bytes, are counted once: the first image of them counts, labelled ones before held-out ones before
the pool's, and masks on the others are left out of the trees, so they are not asked about, promised or delivered. Near
duplicates are counted and kept in one part of an export together; their masks are masks like any other.
"""

from __future__ import annotations

import numpy as np

from campaign.dataset.duplicates import Duplicates, find_duplicates
from campaign.store import Store
from campaign.store.views import save_view

NAME, FORM = "duplicates", "1"
NONE = Duplicates({}, np.zeros((0, 2), np.int64))


def duplicates(store: Store) -> Duplicates:
    """The copies and near duplicates among the images looked at so far; worked out once while these are the same."""
    version = store.signatures.version()
    if version is None:
        return NONE
    known: _Known = store.companions.setdefault(_Known, _Known())
    if known.version != version:
        known.found, known.version = _kept(store, version) or _worked_out(store, version), version
    return known.found


def duplicate_counts(store: Store) -> dict[str, int] | None:
    """What was found when all images had been looked at; None before.

    `images` looked at, `copies` among them, of which `known` are pool images whose first is labelled or held out, and
    images that show the same as another, `alike`.
    """
    row = store.views.row(NAME)
    return None if row is None or not row.summary else dict(row.summary)


class _Known:
    """What was found in this process, and by which signatures."""

    version: str | None = None
    found: Duplicates = NONE


def _kept(store: Store, version: str) -> Duplicates | None:
    arrays = store.views.kept(NAME, f"{FORM}-{version}")
    if arrays is None:
        return None
    return Duplicates({int(a): int(b) for a, b in arrays["copies"].tolist()}, arrays["alike"])


def _worked_out(store: Store, version: str) -> Duplicates:
    signatures = store.signatures.read()
    found = find_duplicates(signatures)
    copies = np.array(sorted(found.copy_of.items()), np.int64).reshape(-1, 2)
    old, file = store.views.row(NAME), f"{NAME}-{version[:12]}.npz"
    store.views.write(file, {"copies": copies, "alike": found.alike}, {})
    before_pool = {i.id for split in ("labelled", "heldout") for i in store.images.records(split)}  # type: ignore[arg-type]
    summary = {
        "images": len(signatures), "copies": len(copies), "alike": len(np.unique(found.alike)),
        "known": sum(int(b) in before_pool and int(a) not in before_pool for a, b in copies.tolist()),
    }  # fmt: skip
    with store.session() as session:
        save_view(session, NAME, f"{FORM}-{version}", {}, summary, file)
    if old is not None and old.file not in (None, file):
        store.views.remove([str(old.file)])
    return found


def duplicates_line(counts: dict[str, int]) -> str:
    """The figures in a line.

    >>> duplicates_line({"images": 9, "copies": 2, "alike": 3, "known": 1})
    '2 of 9 images are copies of others, 1 of them of annotated ones; 3 show the same as another'
    """
    known = f", {counts['known']:,} of them of annotated ones" if counts["known"] else ""
    return (
        f"{counts['copies']:,} of {counts['images']:,} images are copies of others{known}; "
        f"{counts['alike']:,} show the same as another"
    )
