"""What people who look for missing objects would find in a simulated campaign, and the recall that follows from it."""

from __future__ import annotations

import numpy as np

from campaign.dataset.recall import Draw, GoldPage, Recall, recall_bound
from campaign.search.parts import draw_order, weights

GOLD_PAGES, GOLD_MISSING = 12, 5  # held-out pages with so many objects left out
SAFETY = 1.25  # times the objects of the fullest held-out image, an image may lack
MADE_UP = 20  # masks of an image, where a pool has none


def looked_through(
    masks: np.ndarray, covered: np.ndarray, objects: np.ndarray, fullest: int, count: int, missed: float, seed: int
) -> tuple[list[Draw], list[GoldPage]]:
    """What is found in `count` images, drawn as a campaign draws them, and on pages of gold.

    Of each image (m,): delivered `masks`, true objects that one of them is `covered` by, and all true `objects`.
    `fullest` is how many the fullest held-out image holds; `missed` the share of missing objects that people overlook.
    """
    weight = weights(masks.astype(np.float64))
    order = draw_order(weight, seed, 61)[:count]
    rng = np.random.default_rng((seed, 61))
    left, rest, draws = float(weight.sum()), int(masks.sum()), []
    total, least = left, float(weight.min() / weight.sum())
    for image in order.tolist():
        lacking = max(0, int(objects[image] - covered[image]))
        clicked = int(rng.binomial(lacking, 1 - missed))
        draws.append(
            Draw(
                min(1.0, float(weight[image] / left)), min(1.0, left / total), {0: clicked},
                {0: int(masks[image])}, {0: rest},
                {0: SAFETY * fullest, None: SAFETY * fullest}, least,
            )
        )  # fmt: skip
        left, rest = left - float(weight[image]), rest - int(masks[image])
    gold = [GoldPage(GOLD_MISSING, int(rng.binomial(GOLD_MISSING, 1 - missed))) for _ in range(GOLD_PAGES)]
    return draws, gold


def simulated_recall(  # noqa: PLR0913 - of every mask, and what is known of the pool
    image: np.ndarray, inside: np.ndarray, iou: np.ndarray, objects: dict[int, int], fullest: int, count: int,
    precision: float, precision_error: float, confidence: float, missed: float, seed: int,
) -> Recall | None:  # fmt: skip
    """The recall of the masks that are `inside` (n,), by looking through `count` images; None without images.

    `precision` is the bound on theirs, which has used up `precision_error`. A mask covers its object from IoU 0.5 on:
    whoever sees it drawn clicks nothing.
    """
    numbers = np.array(sorted(set(objects) | set(image.tolist())), np.int64)
    place = np.searchsorted(numbers, image[inside])
    masks = np.bincount(place, minlength=len(numbers))
    covered = np.bincount(place[iou[inside] >= 0.5], minlength=len(numbers))
    there = np.array([objects.get(int(number), 0) for number in numbers])
    if not inside.any() or not count:
        return None
    draws, gold = looked_through(masks, covered, there, fullest, min(count, len(numbers)), missed, seed)
    return recall_bound(
        draws, {0: int(inside.sum())}, precision, gold, confidence=confidence, precision_error=precision_error
    )
