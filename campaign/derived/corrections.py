"""The corrections that count: what annotators drew in place of a mask."""

from __future__ import annotations

from campaign.derived.live import live
from campaign.store import Store
from campaign.store import models as m


def counted_corrections(store: Store) -> dict[int, m.Drawing]:
    """The newest drawing of each mask that was to be corrected, of users whose answers count."""
    standing = [d for d in store.drawings.standing() if d.mask_id is not None]
    trust = live(store).trust
    if store.settings.quality.qualification:
        standing = [d for d in standing if d.annotator in trust.qualified]
    standing = [d for d in standing if not trust.holds(d.annotator, d.answered_at)]
    newest = sorted(standing, key=lambda d: (d.answered_at, d.id))
    return {int(d.mask_id or 0): d for d in newest}
