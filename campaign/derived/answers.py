"""The answers that count, and the verdicts that follow from them."""

from __future__ import annotations

from collections.abc import Iterable

from campaign.certification.audit import GoldCount
from campaign.derived.live import live
from campaign.derived.trust import ended_rounds
from campaign.quality.answers import standing_answers, verdicts
from campaign.records.verdict import Verdict
from campaign.store import Store
from campaign.store.answers import Fact


def counted_answers(store: Store, page_keys: Iterable[str] | None = None) -> list[Fact]:
    """The standing answers that decisions may rest on, of some pages or all; see `TrustView.counts`."""
    keys = None if page_keys is None else list(page_keys)
    return _counted(store, store.answers.rows(keys))


def counted_verdicts(store: Store, page_keys: Iterable[str] | None = None) -> dict[int, Verdict]:
    """{mask id: verdict} by the answers that count, of some pages or all."""
    return verdicts(counted_answers(store, page_keys))


def verdicts_on(store: Store, mask_ids: Iterable[int]) -> dict[int, Verdict]:
    """{mask id: verdict} by the answers that count, of those of these masks that have one."""
    return verdicts(_counted(store, store.answers.on_masks(set(mask_ids))))


def gold_count(store: Store) -> GoldCount:
    """Answers on the gold of all verification pages, by users while they were trusted. Unsure is not yes."""
    correct, correct_yes, _, wrong, _, wrong_yes = live(store).trust.gold_tally().tolist()
    return GoldCount(yes=correct, yes_right=correct_yes, no=wrong, no_right=wrong - wrong_yes)


def _counted(store: Store, facts: list[Fact]) -> list[Fact]:
    standing = standing_answers(facts)
    trust, ended = live(store).trust, ended_rounds(store)
    asked = {(a.page_key, a.mask_id): a for a in store.questions.on_pages({f.page_key for f in standing})}
    return [
        f
        for f in standing
        if (question := asked.get((f.page_key, f.mask_id))) is not None and trust.counts(f, question, ended)
    ]
