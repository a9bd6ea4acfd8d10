"""What is forecast before the first question comes true as often as it says."""

from dataclasses import replace

import numpy as np
import pytest

import campaign.certification.outlook as module
from campaign.certification.course import Course, Gold, Masks, Terms
from campaign.certification.outlook import Known, hopeless, outlook
from campaign.records.verdict import Verdict
from campaign.search.verifier import Rows

CLASSES, EACH = (3, 8), 12  # ids of the classes, masks of each in an image
MISSED = 0.12  # objects without a mask, for each mask


def made_up(images: int, seed: int, level: float = 0.0) -> tuple[Rows, np.ndarray, np.ndarray]:
    """Masks of so many images, whether each is correct, and (image, class) of the true objects.

    Images differ in how good their masks are, more than the inputs say.
    """
    rng = np.random.default_rng(seed)
    image = np.repeat(np.arange(images), EACH * len(CLASSES))
    class_id = np.tile(np.repeat(CLASSES, EACH), images)
    inputs = rng.normal(size=(len(image), 3)).astype(np.float32)
    effect = rng.normal(0, 0.8, images)
    logit = level + 2 * inputs[:, 0] + np.where(class_id == CLASSES[1], -1.0, 0.8) + effect[image]
    correct = rng.random(len(image)) < 1 / (1 + np.exp(-logit))
    missing = rng.random(len(image)) < MISSED
    objects = np.column_stack([image, class_id])[np.concatenate([np.flatnonzero(correct), np.flatnonzero(missing)])]
    return Rows(inputs, class_id, image), correct, objects


def known(seed: int, heldout: int = 20, pool: int = 50, level: float = 0.0) -> tuple[Known, np.ndarray, np.ndarray]:
    """What is known of a made-up campaign; the truth of its pool, and the objects there."""
    rows, truth, objects = made_up(pool, 2 * seed, level)
    held, right, of_heldout = made_up(heldout, 2 * seed + 1, level)
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    masks = Masks(rows, none, held, np.where(right, 0.95, 0.3))
    return Known(masks, heldout, pool, of_heldout), truth, objects


def terms(seed: int = 0) -> Terms:
    return Terms(target=0.8, alpha=0.05, price=0.6, k_iou=0.75, seed=seed)


def came(known: Known, truth: np.ndarray, objects: np.ndarray, terms: Terms) -> dict[str, float]:
    """What the campaign really brings."""
    said = np.where(truth, Verdict.YES, Verdict.NO).astype(np.int8)
    right = known.masks.heldout_iou >= terms.k_iou
    answers = np.where(right, Verdict.YES, Verdict.NO).astype(np.int8)
    course = Course(known.masks, said, terms, Gold(known.masks, answers, np.arange(len(right)) % 3, terms.k_iou, 1))
    course.learn()
    end = course.certify()
    correct = int((end.inside & truth).sum())
    return {
        "masks": int(end.inside.sum()), "correct": correct, "questions": course.questions, "objects": len(objects),
        "recall": correct / len(objects),
    }  # fmt: skip


@pytest.mark.slow
def test_the_truth_lies_inside_the_intervals():
    splits, inside = 30, dict.fromkeys(("masks", "correct", "questions", "objects", "recall"), 0)
    widths = []
    for seed in range(splits):
        given, truth, objects = known(seed)
        expected = outlook(given, terms(seed), courses=6)[0]
        for name, value in came(given, truth, objects, terms(seed)).items():
            figure = getattr(expected, name)
            inside[name] += figure.low <= value <= figure.high
        widths.append((expected.correct.high - expected.correct.low) / expected.correct.value)
    assert min(inside.values()) >= 0.8 * splits, inside
    assert np.median(widths) < 0.6  # they say something


def test_the_same_input_gives_the_same_forecast_and_classes_add_up():
    given, _, _ = known(1)
    every, classes = outlook(given, terms(), courses=3)
    assert (every, classes) == outlook(given, terms(), courses=3)
    assert set(classes) == set(CLASSES)
    for name in ("masks", "correct", "questions", "objects"):
        assert sum(getattr(c, name).value for c in classes.values()) == pytest.approx(getattr(every, name).value)
    assert classes[CLASSES[0]].correct.value > classes[CLASSES[1]].correct.value  # its masks are better


def test_of_a_large_pool_a_sample_is_imagined(monkeypatch):
    given, _, _ = known(2, heldout=20, pool=60)
    whole, _ = outlook(given, terms(), courses=3)
    monkeypatch.setattr(module, "MOST_MASKS", 700)
    part, _ = outlook(given, terms(), courses=3)
    assert part.objects.value == pytest.approx(whole.objects.value, rel=0.3)
    assert part.correct.value == pytest.approx(whole.correct.value, rel=0.4)


def test_nothing_is_forecast_where_little_is_held_out():
    given, _, _ = known(3, heldout=1)
    assert outlook(given, terms()) is None


def test_where_nothing_is_predicted_nothing_is_expected():
    given, _, _ = known(3)
    nothing = np.zeros(0, np.int64)
    masks = replace(given.masks, heldout=given.masks.heldout.select(nothing), heldout_iou=np.zeros(0))
    every, classes = outlook(replace(given, masks=masks), terms())
    assert every.correct.value == 0 and every.correct.high > 0 and every.recall.high < 0.1
    assert every.questions.value == len(masks)
    assert all(hopeless(one.as_dict(2.0, None), 0.05, 80, 2) for one in classes.values())
    empty = replace(masks, rows=masks.rows.select(nothing))
    assert outlook(replace(given, masks=empty), terms())[0].questions.value == 0


def test_a_detector_that_finds_nothing_is_hopeless():
    given, _, _ = known(4, level=-9.0)
    every, classes = outlook(given, terms(), courses=3)
    for one in (every, *classes.values()):
        figures = one.as_dict(2.0, 20.0)
        assert figures["cost"]["value"] == pytest.approx(20 * figures["hours"]["value"], rel=0.01)
        assert "of the objects can be obtained, less than 5%" in hopeless(figures, 0.05, 80, 2)


def figures(recall: float | None, correct: float, questions: float) -> dict:
    return {
        n: None if v is None else {"value": v}
        for n, v in zip(("recall", "correct", "questions"), (recall, correct, questions), strict=True)
    }


@pytest.mark.parametrize(
    ("recall", "correct", "questions", "why"),
    [
        (0.5, 100, 200, None),
        (None, 0, 0, None),
        (0.049, 100, 200, "4.9% of the objects can be obtained"),
        (0.5, 10, 500, "100 s of work for each correct mask, where drawing one takes 80 s"),
        (None, 0.2, 30, "work for no correct mask"),
    ],
)
def test_what_is_hopeless(recall, correct, questions, why):
    found = hopeless(figures(recall, correct, questions), 0.05, 80, 2)
    assert found is None if why is None else found.startswith(why)
