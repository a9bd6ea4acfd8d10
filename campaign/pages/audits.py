"""Certify: a fresh audit sample of the dataset, asked as ordinary questions, and what it proves of the precision."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from campaign.certification.audit import Audit, Certificate, audit_sample, certify
from campaign.derived.answers import counted_verdicts, gold_count
from campaign.derived.certificates import audited, audited_path
from campaign.derived.dataset import final_masks
from campaign.pages.gold import GoldPlan
from campaign.pages.sheets import page_key, screen_of
from campaign.quality.measures import shuffled
from campaign.records.dataset_masks import DatasetMasks
from campaign.records.page import NewPage, Screen, audit_kind
from campaign.store import Store
from campaign.store.values import Key
from ml_backend.errors import InputError

SHEET = 15  # masks that share their gold where each has a page of its own


@dataclass(frozen=True)
class RunningAudit:
    """An audit under way: its number, its draws, and the mask, class and cluster of every audited row."""

    number: int
    audit: Audit
    mask_ids: np.ndarray

    @property
    def kind(self) -> str:
        """The kind of its pages: answers of one audit never count in another."""
        return audit_kind(self.number)


def begin_audit(store: Store, draws: int, per_class: int = 0) -> RunningAudit:
    """Draws an audit over the dataset as it stands and stores its pages, to be published by the next turn.

    Raises InputError where the dataset is empty or an audit is open.
    """
    with store.locked():
        known = store.values.get(Key.AUDIT)
        if known is not None and not known["certified"]:
            raise InputError("audit", "the open one to be answered first", f"number {known['number']} still open")
        number = known["number"] + 1 if known else 1
        masks = final_masks(store)
        if not len(masks):
            raise InputError("audit", "a dataset with at least one mask", "none")
        rows = np.stack([masks.mask_id, masks.class_id.astype(np.int64), _strata(masks)])
        store.files.write(audited_path(store, number), lambda p: np.save(p, rows))
        store.values.set(Key.AUDIT, {"number": number, "draws": draws, "per_class": per_class, "certified": False})
        running = open_audit(store)
        assert running is not None
        add_audit_pages(store, running)
        return running


def open_audit(store: Store) -> RunningAudit | None:
    """The newest audit, drawn again from what was stored of it: the same draws every time. None before the first."""
    known = store.values.get(Key.AUDIT)
    if known is None:
        return None
    mask_ids, class_id, cluster = audited(store, known["number"])
    seed = store.settings.seed + known["number"]
    audit = audit_sample(class_id, cluster, known["draws"], per_class=known["per_class"], seed=seed)
    return RunningAudit(known["number"], audit, mask_ids)


def add_audit_pages(store: Store, running: RunningAudit) -> None:
    """Stores the pages of an audit, gold hidden among its masks; run again it adds none twice.

    Pages leave places for gold whether or not there is any: which masks share a page, and so its key, does not depend
    on the gold.
    """
    asked = {q.mask_id for q, _ in store.questions.rows(kind=running.kind)}
    audited = running.mask_ids[np.array(running.audit.rows)]
    masks = store.masks.read(audited[~np.isin(audited, sorted(asked))])
    if not len(masks):
        return
    plan, pages, current = GoldPlan(store), list[NewPage](), store.rounds.newest()
    number = current.number if current else 0
    for class_id in sorted(set(masks.class_id.tolist())):
        size, screen = store.settings.page.page_size, screen_of(store, class_id, audit=True)
        alone = screen == Screen.SINGLE or size == 1
        size = SHEET if alone else size
        places = size - math.ceil(size * store.settings.quality.gold_share)
        waiting = masks.mask_id[masks.class_id == class_id].tolist()
        for start in range(0, len(waiting), places):
            ids = waiting[start : start + places]
            quota = min(plan.quota(size, class_id, may_open=False), size - len(ids), len(ids))
            gold = plan.take(class_id, quota) if quota else {}
            for questions in _pages(store, class_id, ids, gold) if alone else [(*ids, *gold)]:
                hidden = {i: verdict for i, verdict in gold.items() if i in questions}
                named = [i for i in questions if i not in hidden] or [*questions, 0]
                key = f"{page_key(store.key, 0, class_id, named)}-{running.kind}"
                shown = tuple((i, None) for i in questions)
                pages.append(NewPage(key, number, class_id, shown, running.kind, hidden, screen))
    store.pages.add(pages)


def _pages(store: Store, class_id: int, ids: list[int], gold: Collection[int]) -> list[tuple[int, ...]]:
    """A page for each mask, gold anywhere among them."""
    return [(i,) for i in shuffled(page_key(store.key, 0, class_id, ids), (*ids, *gold))]


def finish_audit(store: Store, confidence: float = 0.95) -> Certificate | int:
    """The certificate of the newest audit, stored for the export; while questions are open, how many.

    Only answers that count are weighed, and annotators are taken to be as reliable as their gold shows them.
    Raises InputError before the first audit.
    """
    with store.locked():
        return _finish(store, confidence)


def _finish(store: Store, confidence: float) -> Certificate | int:
    running = open_audit(store)
    if running is None:
        raise InputError("audit", "one that was opened", "none")
    add_audit_pages(store, running)
    keys = {page.key for _, page in store.questions.rows(kind=running.kind)}
    known = counted_verdicts(store, keys)
    row_of = {int(mask): row for row, mask in enumerate(running.mask_ids)}
    answers = {row_of[mask]: verdict for mask, verdict in known.items() if mask in row_of}
    missing = sum(row not in answers for row in running.audit.rows)
    if missing:
        return missing
    certificate = certify(running.audit, answers, gold_count(store), confidence)
    proof = {"audit": running.number, **certificate.as_dict(), "sentence": certificate.sentence()}
    store.values.set(Key.CERTIFICATE, proof)
    store.values.set(Key.AUDIT, (store.values.get(Key.AUDIT) or {}) | {"certified": True})
    store.log(f"audit {running.number}: {certificate.sentence()}")
    return certificate


def _strata(masks: DatasetMasks) -> np.ndarray:
    """One number per cluster, over all rounds and classes."""
    keys = np.stack([masks.round.astype(np.int64), masks.class_id.astype(np.int64), masks.cluster], axis=1)
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
