"""What an audit proved of the dataset's precision, as far as it still speaks of the masks that are there now."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from campaign.certification.audit import certificate_without
from campaign.dataset.listed import ListedMasks
from campaign.derived.answers import counted_verdicts
from campaign.records.dataset_masks import DatasetMasks
from campaign.records.verdict import Verdict
from campaign.store import Store
from campaign.store.values import Key


def audited_path(store: Store, number: int) -> Path:
    """Where the masks that an audit was drawn from lie on this machine, once read."""
    return store.folder / "audits" / f"{number:03d}.npy"


def audited(store: Store, number: int) -> np.ndarray:
    """The masks that an audit was drawn from: (3, n), mask, class and cluster of each."""
    rows: np.ndarray = np.load(store.files.local(audited_path(store, number)))
    return rows


def standing_certificate(store: Store, masks: DatasetMasks | ListedMasks) -> dict[str, Any] | None:
    """The newest certificate, where it speaks of these masks: none of them may be newer than its audit.

    Audited masks that have left the dataset since, other than by being voted down, are all taken for correct.
    """
    certificate, audit = store.values.get(Key.CERTIFICATE), store.values.get(Key.AUDIT)
    if certificate is None or audit is None or certificate["audit"] != audit["number"]:
        return None
    drawn_from = audited(store, audit["number"])[0]
    if not np.isin(masks.mask_id, drawn_from).all():
        return None
    gone = drawn_from[~np.isin(drawn_from, masks.mask_id)]
    voted = counted_verdicts(store)
    left = sum(voted.get(int(mask), Verdict.YES) == Verdict.YES for mask in gone)
    return certificate_without(certificate, left) if left else certificate
