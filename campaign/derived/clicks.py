"""Who corrects masks by clicks and how well: gold among the corrections, whose corrections count, and their time.

Gold is a held-out prediction that is not quite right; the true mask of its object is known. A correction of it is right
where its IoU with the truth reaches `search.k_iou`, or half of what was missing to that was made up: whether clicks
reach it depends on the model too, and a careful user must not fall for it. Users who answer gold wrong are found out by
the same test as on pages of questions, by their corrections alone: who judges well need not click well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from pycocotools import mask as mask_util

from campaign.quality.measures import GoldAnswer, WithdrawnInterval, watch
from campaign.records.dataset_masks import EDITED_RULE
from campaign.records.page import PageKind
from campaign.records.verdict import Verdict
from campaign.store import Store
from campaign.store import models as m
from campaign.store.drawings import CORRECTED, UNSURE
from ml_backend.mask_ids import drawing_of

MADE_UP = 0.5  # of the IoU that gold lacks to `k_iou`, which a right correction makes up at least
MEASURED = 20  # corrections from which their own time says more than the setting does
MOST_SECONDS = 600.0  # that a correction is believed to take


@dataclass(frozen=True)
class Corrector:
    """One user's corrections.

    `gold` of them were gold and `right` of these right; `held_back` are the times whose corrections do not count;
    `fast` corrections were submitted, or clicks made, faster than `quality.seconds_least` allows.
    """

    user: str
    corrections: int
    clicks: int
    seconds: float
    gold: int
    right: int
    fast: int
    held_back: tuple[WithdrawnInterval, ...] = ()


def is_gold(place: Mapping[str, Any] | None) -> bool:
    """Whether a page of that place is gold."""
    return bool(place) and "truth" in (place or {})


def is_right(after: float, before: float, k_iou: float) -> bool:
    """Whether a correction of gold is right, by its IoU with the truth and that of the mask before it.

    >>> is_right(0.7, 0.6, 0.75), is_right(0.66, 0.6, 0.75), is_right(0.9, 0.9, 0.75)
    (True, False, True)
    """
    return after >= min(k_iou, before + MADE_UP * max(k_iou - before, 0.0))


def held_back(store: Store, drawings: Sequence[m.Drawing] | None = None) -> dict[str, list[WithdrawnInterval]]:
    """The times of each user whose corrections by clicks do not count, by the gold among them."""
    quality, times = store.settings.quality, {}
    for user, answers in gold_corrections(store, drawings).items():
        if intervals := watch(answers, quality.error_accepted, quality.error_limit):
            times[user] = intervals
    return times


def gold_corrections(store: Store, drawings: Sequence[m.Drawing] | None = None) -> dict[str, list[GoldAnswer]]:
    """Each user's corrections of gold, oldest first: their verdict is yes where they are right, no where not."""
    gold = {p.key: p for p in store.pages.rows(kind=PageKind.CORRECT) if is_gold(p.place)}
    answers: dict[str, list[GoldAnswer]] = defaultdict(list)
    if not gold:
        return {}
    standing = store.drawings.standing() if drawings is None else drawings
    for d in sorted((d for d in standing if d.page_key in gold), key=lambda d: (d.answered_at, d.id)):
        verdict = _verdict(d, gold[d.page_key].place or {}, store.settings.search.k_iou)
        answers[d.annotator].append(GoldAnswer(d.annotator, int(d.mask_id or 0), Verdict.YES, verdict, d.answered_at))
    return dict(answers)


def _verdict(drawing: m.Drawing, place: Mapping[str, Any], k_iou: float) -> Verdict:
    if drawing.state == UNSURE:
        return Verdict.UNSURE
    if drawing.state != CORRECTED or not drawing.masks["masks"]:
        return Verdict.NO
    shape, truth = drawing.masks["masks"][0], place["truth"]
    after = mask_util.iou([_rle(shape)], [_rle(truth)], [0])[0][0]
    return Verdict.YES if is_right(float(after), float(place["before"]), k_iou) else Verdict.NO


def _rle(shape: Mapping[str, Any]) -> dict[str, Any]:
    return {"size": shape["size"], "counts": str(shape["counts"]).encode("ascii")}


def correctors(store: Store) -> list[Corrector]:
    """Everybody who corrected masks by clicks, by user."""
    pages = {p.key for p in store.pages.rows(kind=PageKind.CORRECT)}
    standing = [d for d in store.drawings.standing() if d.page_key in pages]
    steps = store.clicks.of_annotations([d.annotation_id for d in standing])
    gold, times = gold_corrections(store, standing), held_back(store, standing)
    least = store.settings.quality.seconds_least
    rows = []
    for user in sorted({d.annotator for d in standing}):
        own = [d for d in standing if d.annotator == user]
        made = [steps.get((d.annotation_id, d.answered_at), []) for d in own]
        answers = gold.get(user, [])
        rows.append(
            Corrector(
                user, len(own), sum(map(len, made)), round(sum(_seconds(d) or 0.0 for d in own), 1), len(answers),
                sum(a.verdict == Verdict.YES for a in answers),
                sum(_is_fast(d, s, least) for d, s in zip(own, made, strict=True)), tuple(times.get(user, ())),
            )
        )  # fmt: skip
    return rows


def _is_fast(drawing: m.Drawing, steps: Sequence[m.ClickFact], least: float) -> bool:
    times = [s.clicked_at for s in steps if s.clicked_at is not None]
    gaps = [b - a for a, b in pairwise(times)]
    seconds = _seconds(drawing)
    return any(gap < least for gap in gaps) or (seconds is not None and seconds < least * (1 + len(steps)))


def _seconds(drawing: m.Drawing) -> float | None:
    return None if drawing.lead_time is None else min(max(drawing.lead_time, 0.0), MOST_SECONDS)


def edited_rules(store: Store, mask_ids: Sequence[int], origins: Sequence[int]) -> list[str]:
    """The rules of drawn masks: what each was before, and the clicks, seconds and model that made it, if they did."""
    drawings = store.drawings.some([drawing_of(int(i)) for i in mask_ids])
    steps = store.clicks.of_annotations([d.annotation_id for d in drawings.values()])
    rules = []
    for mask, origin in zip(mask_ids, origins, strict=True):
        d = drawings[drawing_of(int(mask))]
        made, how = steps.get((d.annotation_id, d.answered_at), []), ""
        if made:
            seconds = "" if d.lead_time is None else f" in {d.lead_time:.0f} s"
            model = next((s.model_version for s in reversed(made) if s.model_version), None)
            how = f" by {len(made)} clicks{seconds}" + (f" with {model}" if model else "")
        rules.append(f"{EDITED_RULE}{how}, mask {origin} before")
    return rules


def correction_times(store: Store) -> list[float]:
    """The seconds of every correction by clicks of which they are known."""
    pages = {p.key for p in store.pages.rows(kind=PageKind.CORRECT)}
    if not pages:
        return []
    return [s for d in store.drawings.standing() if d.page_key in pages and (s := _seconds(d)) is not None]


def seconds_each(store: Store) -> float:
    """The time of a correction: as measured, or as set until there are `MEASURED`."""
    times = correction_times(store)
    return max(median(times), 1.0) if len(times) >= MEASURED else store.settings.correct.seconds
