"""The bound on recall: true often enough over simulated campaigns of many kinds, and never worse than it must be."""

import math

import numpy as np
import pytest

from campaign.dataset import recall as module
from campaign.dataset.recall import ANY, Draw, GoldPage, finder_of, look_shares, recall_bound
from campaign.pages.completeness import SAFETY
from campaign.search.parts import draw_order, weights
from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset

KINDS = ("at random", "small ones", "whole images", "crowded images")
SENSITIVITY, FALSE, SPREAD = 0.9, 0.03, 0.1


def population(name: str, rng: np.random.Generator, count: int = 500) -> list[np.ndarray]:
    """Areas of the objects of each image."""
    if name == "even":
        numbers = rng.poisson(12, count)
    elif name == "skewed":
        numbers = np.round(np.exp(rng.normal(2.5, 1.2, count))).astype(int)
    else:  # few images hold nearly all objects
        numbers = np.where(rng.random(count) < 0.02, rng.integers(200, 600, count), rng.poisson(8, count))
    return [rng.exponential(100, n) for n in numbers]


def delivered(images: list[np.ndarray], kind: str, rng: np.random.Generator) -> np.ndarray:
    """How many objects of each image have a mask."""
    numbers = np.array([len(areas) for areas in images])
    if kind == "at random":
        return rng.binomial(numbers, 0.9)
    if kind == "small ones":
        limit = np.quantile(np.concatenate(images), 0.2)
        return np.array([int((areas > limit).sum()) for areas in images])
    if kind == "whole images":
        return np.where(rng.random(len(images)) < 0.05, 0, numbers)
    return np.where(numbers > np.quantile(numbers, 0.97), numbers // 2, numbers)


def campaign(images, heldout, kind, count, rng, careful=False):
    """One simulated campaign: (true recall, the bound)."""
    numbers, masks = np.array([len(a) for a in images]), delivered(images, kind, rng)
    wrong = rng.binomial(masks, 0.05)  # each sits on an object of its own, which nobody clicks
    weight = weights(masks)
    most = SAFETY * max(len(areas) for areas in heldout)
    limits, least = {1: most, None: most}, weight.min() / weight.sum()

    def eye() -> float:
        return 1.0 if careful else rng.beta(SENSITIVITY * (1 / SPREAD - 1), (1 - SENSITIVITY) * (1 / SPREAD - 1))

    draws, left, rest = [], weight.sum(), int(masks.sum())
    for i in draw_order(weight, int(rng.integers(2**40)), 1)[:count]:
        clicked = rng.binomial(numbers[i] - masks[i], eye()) + (0 if careful else rng.poisson(FALSE * numbers[i]))
        draws.append(
            Draw(min(weight[i] / left, 1.0), left / weight.sum(), {1: int(clicked)}, {1: int(masks[i])}, {1: rest},
                 limits, least)
        )  # fmt: skip
        left, rest = left - weight[i], rest - int(masks[i])
    gold = [GoldPage(known, rng.binomial(known, eye())) for known in rng.integers(1, 9, 10).tolist()]
    right = masks.sum() - wrong.sum()
    bound = recall_bound(draws, {1: int(masks.sum())}, right / masks.sum(), gold).overall
    return right / numbers.sum(), bound


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(module, "_DRAWS", 2000)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["skewed", "few hold all"])
def test_the_bound_is_true_in_95_of_100_campaigns(name, kind):
    rng = np.random.default_rng(3)
    images, heldout = population(name, rng), population(name, rng, 60)
    told = [campaign(images, heldout, kind, count, rng) for count in (20, 60) for _ in range(200)]
    assert np.mean([bound.bound <= true for true, bound in told]) >= 0.95
    assert np.mean([bound.estimate - true for true, bound in told]) == pytest.approx(0, abs=0.1)
    assert np.mean([bound.bound for _, bound in told]) > 0.05


@pytest.mark.data
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["nuclei", "granular"])
def test_the_bound_is_true_on_real_images(real_data, name, kind):
    sets = []
    for split in ("pool", "heldout"):
        data = CocoDataset.load(real_data / name / f"{split}.json", real_data / name / "images")
        by_image = data.by_image()
        sets.append([np.array([float(len(a.rle["counts"])) for a in by_image.get(i.id, [])]) for i in data.images])
    rng = np.random.default_rng(4)
    told = [campaign(*sets, kind, 30, rng) for _ in range(400)]
    assert np.mean([bound.bound <= true for true, bound in told]) >= 0.95


def test_careful_eyes_and_many_images_come_near():
    rng = np.random.default_rng(5)
    images, heldout = population("even", rng), population("even", rng, 60)
    gaps = []
    for count in (30, 120, 500):
        true, bound = campaign(images, heldout, "at random", count, rng, careful=True)
        gaps.append(true - bound.bound)
        assert bound.bound <= true
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.08


def plain(count, clicked=0, masks=10, most=20.0, images=1000):
    """Images alike, of a large pool drawn uniformly."""
    limits = {1: most, None: most}
    return [
        Draw(1 / (images - k), 1 - k / images, {1: clicked}, {1: masks}, {1: masks * (images - k)}, limits, 1 / images)
        for k in range(count)
    ]  # fmt: skip


GOLD = [GoldPage(5, 5)] * 400


def test_without_anything_missing_it_is_the_exact_binomial_bound():
    recall = recall_bound(plain(40, images=10**7), {1: 10**8}, 1.0, GOLD)
    alpha = 0.05 * 0.75 * 0.8
    share = 1 - alpha ** (1 / 40)
    assert recall.overall.objects_most == pytest.approx(10**7 * (10 + 20 * share), rel=0.01)
    assert recall.overall.estimate == 1 and recall.complete == 40


def test_precision_lowers_it_and_masks_that_came_later_raise_it():
    draws = plain(40, clicked=1)
    one, half = (recall_bound(draws, {1: 10000}, p, GOLD).overall for p in (1.0, 0.5))
    assert half.bound == pytest.approx(one.bound / 2) and half.estimate == pytest.approx(one.estimate / 2)
    assert recall_bound(draws, {1: 10500}, 1.0, GOLD).overall.bound == pytest.approx(one.bound * 1.05)
    assert one.estimate == pytest.approx(10 / 11, abs=0.001)


def test_who_looks_again_and_again_still_gets_a_true_bound():
    assert sum(look_shares(50)) <= 1 and look_shares(1)[0] == 0.75
    draws = plain(80)
    often = recall_bound(draws, {1: 10000}, 1.0, GOLD, looks=[20, 40, 60, 80]).overall.bound
    assert often < recall_bound(draws, {1: 10000}, 1.0, GOLD).overall.bound
    assert often >= recall_bound(draws, {1: 10000}, 1.0, GOLD, looks=[20]).overall.bound * 0.98


def test_a_whole_pool_leaves_nothing_unknown():
    recall = recall_bound(plain(30, clicked=2, images=30), {1: 300}, 1.0, [GoldPage(50, 50)] * 10**4)
    assert recall.overall.objects_most == pytest.approx(360, rel=0.01)


def test_what_nobody_can_tell_counts_as_the_worst():
    draws = plain(40)
    unsure = [
        Draw(d.chance, d.share, None, d.shown, d.rest, d.most, d.least) if k < 4 else d for k, d in enumerate(draws)
    ]
    sure, doubtful = (recall_bound(d, {1: 10000}, 1.0, GOLD) for d in (draws, unsure))
    assert doubtful.unsure == 4 and doubtful.overall.bound < sure.overall.bound
    assert doubtful.overall.objects_most >= 10000 + 0.1 * 20 * 1000 and "nobody could tell" in doubtful.notes[0]


def test_without_gold_nothing_is_promised():
    recall = recall_bound(plain(40), {1: 10000}, 1.0, [])
    assert recall.overall.bound == 0 and recall.overall.estimate == 1 and "no gold" in recall.notes[0]
    assert math.isinf(recall.overall.objects_most)


def test_a_click_without_a_class_counts_in_each():
    draws = [
        Draw(d.chance, d.share, {ANY: 1}, {1: 5, 2: 5}, {1: 5000, 2: 5000}, {1: 9.0, 2: 9.0, None: 9.0}, d.least)
        for d in plain(9)
    ]
    recall = recall_bound(draws, {1: 5000, 2: 5000}, 1.0, GOLD)
    assert recall.overall.clicked == recall.classes[1].clicked == recall.classes[2].clicked == 9


@pytest.mark.parametrize(
    ("found", "estimate", "least", "most"),
    [
        ([(10, 10)] * 10, 1.0, 0.9, 0.99),
        ([(9, 10)] * 10, 0.9, 0.75, 0.87),
        ([(10, 10)] * 9 + [(0, 10)], 0.9, 0.3, 0.75),  # one page was not looked at: pages count, not objects
        ([(0, 10)] * 3, 0.0, 0.0, 0.0),
    ],
)
def test_the_sensitivity_reckons_with_pages_that_are_missed_as_a_whole(found, estimate, least, most):
    finder = finder_of([GoldPage(known, hits) for hits, known in found], 0.025)
    assert finder.sensitivity == pytest.approx(estimate) and least <= finder.bound <= most


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"draws": []}, "at least one image"),
        ({"delivered": {1: 0}}, "at least one mask"),
        ({"precision": 1.2}, "from 0 to 1"),
        ({"confidence": 0.4}, "above 0.5"),
        ({"precision_error": 0.06}, "an error left"),
    ],
)
def test_a_wrong_call_is_told(change, message):
    arguments = {"draws": plain(3), "delivered": {1: 30}, "precision": 1.0, "gold": GOLD} | change
    with pytest.raises(InputError, match=message):
        recall_bound(**arguments)
    with pytest.raises(InputError, match="no more objects found"):
        GoldPage(1, 2)
