"""The corrections that count: what annotators drew in place of a mask, with the brush or by clicks."""

from __future__ import annotations

from campaign.derived.clicks import held_back
from campaign.derived.live import live
from campaign.records.page import PageKind
from campaign.store import Store
from campaign.store import models as m
from ml_backend.mask_ids import is_heldout


def counted_corrections(store: Store) -> dict[int, m.Drawing]:
    """The newest drawing of each mask that was to be corrected, of users whose answers count; gold is none of them."""
    drawn = [d for d in store.drawings.standing() if d.mask_id is not None]
    standing = [d for d in drawn if not is_heldout(int(d.mask_id or 0))]
    trust = live(store).trust
    if store.settings.quality.qualification:
        standing = [d for d in standing if d.annotator in trust.qualified]
    standing = [d for d in standing if not trust.holds(d.annotator, d.answered_at)]
    if times := held_back(store, drawn):
        clicked = {p.key for p in store.pages.rows(kind=PageKind.CORRECT)}
        standing = [
            d for d in standing
            if d.page_key not in clicked or not any(t.holds(d.answered_at) for t in times.get(d.annotator, ()))
        ]  # fmt: skip
    newest = sorted(standing, key=lambda d: (d.answered_at, d.id))
    return {int(d.mask_id or 0): d for d in newest}
