"""Gold for the pages that are made now: how much, and which masks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from campaign.derived.gold import confirmed, gold_supply
from campaign.derived.live import live
from campaign.derived.spending import promise_kinds
from campaign.quality.measures import GoldMask, draw_gold, gold_quota, opening_wanted
from campaign.records.page import PageKind
from campaign.records.verdict import Verdict
from campaign.store import Store
from campaign.store.values import Key

ALIKE = 0.8  # two masks that overlap by this IoU show the same thing


def clear_pages(store: Store, pages: int) -> list[tuple[int, dict[int, str]]]:
    """(class, known verdicts) of so many pages of clear gold alone, the classes in turn as far as their gold goes."""
    plan, classes = GoldPlan(store, wanted=True, near=False), list(store.classes())
    drawn: list[tuple[int, dict[int, str]]] = []
    while classes:
        for class_id in list(classes):
            if len(drawn) == pages:
                return drawn
            if gold := plan.take(class_id, store.settings.page.page_size):
                drawn.append((class_id, gold))
            else:
                classes.remove(class_id)
    return drawn


def practised(store: Store) -> dict[int, Verdict]:
    """The masks of all practice pages with their verdicts: whoever practised was told these."""
    made = (store.values.get(Key.PRACTICE) or {}).get("made", [])
    return {
        int(mask): Verdict.parse(word) for each in made for page in each["pages"] for mask, word in page["gold"].items()
    }


class GoldPlan:
    """Gold for the pages that one turn makes. No mask is ever drawn twice in a campaign, nor one that looks like it.

    `wanted` by default where the setting `quality.gold_share` says so. Without `near` all of it is clear: a test is
    passed or failed by it.
    """

    def __init__(self, store: Store, wanted: bool | None = None, near: bool = True):
        self.store, self.quality, self.k_iou = store, store.settings.quality, store.settings.search.k_iou
        self.wanted = self.quality.gold_share > 0 if wanted is None else wanted
        if not self.wanted:
            return
        self._trust, self._examples, self._practised = live(store).trust, store.values.examples(), practised(store)
        trust = self._trust
        self.answered = {user: 0 for user in store.answers.annotators()} | trust.answered()
        self.waiting = trust.waiting()
        kinds = PageKind.VERIFY, *(kind for _, kind in promise_kinds(store))
        self.pages = sum(store.pages.count(kind) for kind in kinds)
        self._used: dict[int, dict[int, GoldMask]] = {}
        self._free: dict[int, list[GoldMask]] = defaultdict(list)
        self._reserve: dict[int, list[GoldMask]] = defaultdict(list)
        self._known: dict[int, GoldMask] = {}
        self._shown: dict[int, tuple[int, dict[str, Any]]] = {}  # what masks show, as far as it was read
        # Held-out masks come first: nobody has seen them, while a confirmed one may come to who confirmed it.
        for masks, place in ((gold_supply(store), self._free), (confirmed(store), self._reserve)):
            for mask in masks:
                self._known[mask.mask_id] = mask
                if near or not mask.near:
                    place[mask.class_id].append(mask)

    def used(self, class_id: int) -> dict[int, GoldMask]:
        """The gold of a class so far, and what instructions show of it; none of it is drawn again."""
        if class_id not in self._used:
            shown = self._examples.get(class_id, {"good": [], "bad": []})
            examples = dict.fromkeys(shown["good"], Verdict.YES) | dict.fromkeys(shown["bad"], Verdict.NO)
            truth = self._trust.used(class_id) | examples | self._practised
            # With the verdict that it was asked with: settings may have changed since.
            used = self._used[class_id] = {
                i: self._known.get(i, GoldMask(i, class_id, v))._replace(truth=v) for i, v in truth.items()
            }
            for supply in (self._free, self._reserve):
                supply[class_id] = [mask for mask in supply[class_id] if mask.mask_id not in used]
        return self._used[class_id]

    def quota(self, size: int, class_id: int, may_open: bool = True) -> int:
        """How many masks of the next page should be gold, as far as there is any; unless it `may_open`, never half."""
        if not self.wanted:
            return 0
        # The first user is waited for; others are known to be new after their first page, and cost no gold before.
        newcomers = 0 if self.quality.qualification or self.answered else 1
        opening = may_open and opening_wanted(self.answered, self.waiting, self.quality.gold_opening, newcomers)
        quota = gold_quota(size, self.pages, self.quality.gold_share, opening)
        self.used(class_id)
        return min(quota, len(self._free[class_id]) + len(self._reserve[class_id]))

    def take(self, class_id: int, count: int) -> dict[int, str]:
        """Gold for the page that is made now, {mask id: known verdict}; fewer where the supply runs out."""
        if not self.wanted:
            return {}
        used, drawn = self.used(class_id), list[GoldMask]()
        while len(drawn) < count:
            free = self._free[class_id]
            more = draw_gold(free, used, class_id, count - len(drawn), self.store.settings.seed, self.k_iou)
            if not more and self._reserve[class_id]:
                self._free[class_id], self._reserve[class_id] = free + self._reserve[class_id], []
                continue
            if not more:
                break
            taken = {mask.mask_id for mask in more}
            self._free[class_id] = [mask for mask in free if mask.mask_id not in taken]
            for mask in self._fresh(more, used):
                used[mask.mask_id] = mask
                drawn.append(mask)
        self.pages += 1
        self.waiting += sum(not mask.near for mask in drawn)
        return {mask.mask_id: mask.truth.word for mask in drawn}

    def _fresh(self, more: list[GoldMask], used: dict[int, GoldMask]) -> Iterator[GoldMask]:
        """Those that show nothing that gold used before shows: rounds predict the same objects again.

        None shows what one before it does. Masks are read only where another one lies in the same image, all at once.
        """
        beside: dict[int, list[int]] = {mask.image_id: [] for mask in more}
        for other in used:
            if other not in self._known:  # of an image that is not known: it may be any
                for masks in beside.values():
                    masks.append(other)
            elif (image := self._known[other].image_id) in beside:
                beside[image].append(other)
        in_image = Counter(mask.image_id for mask in more)
        crowded = [mask for mask in more if beside[mask.image_id] or in_image[mask.image_id] > 1]
        self._read({i for mask in crowded for i in (mask.mask_id, *beside[mask.image_id])})
        for mask in more:
            if not self._is_seen(mask, beside[mask.image_id]):
                beside[mask.image_id].append(mask.mask_id)
                yield mask

    def _is_seen(self, mask: GoldMask, others: list[int]) -> bool:
        rles = [rle for other in others for image, rle in [self._shown[other]] if image == mask.image_id]
        if not rles:
            return False
        overlaps = mask_util.iou([self._shown[mask.mask_id][1]], rles, [0] * len(rles))
        return bool((np.asarray(overlaps) >= ALIKE).any())

    def _read(self, mask_ids: set[int]) -> None:
        new = sorted(mask_ids - self._shown.keys())
        masks = self.store.masks.read(new)
        self._shown |= dict(zip(new, zip(masks.image_id.tolist(), masks.rles(), strict=True), strict=True))
