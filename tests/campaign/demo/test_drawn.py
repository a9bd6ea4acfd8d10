import json
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as mask_util

from campaign.demo.drawn import FEATURE_WIDTH, DrawnMasks, error_after
from campaign.demo.mistakes import Thing, find, halved, likely_class, shifted, strayed
from campaign.demo.shapes import CLASSES, draw_shapes
from ml_backend.detector import Detector, load_detector_class
from ml_backend.errors import InputError
from ml_backend.learning.evaluation import true_iou
from ml_backend.masks.coco import CocoDataset
from ml_backend.predictions import Predictions


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("scenes"), labelled=6, pool=24, heldout=2, seed=1)


def part(scenes, split):
    return CocoDataset.load(scenes / f"{split}.json", scenes / "images")


def trained(scenes, folder, times=1) -> DrawnMasks:
    """The detector after a training on the labelled masks, as if there were so many times as many."""
    data = part(scenes, "labelled")
    data.annotations *= times
    options = {"scenes": str(scenes), "seed": 3}
    return DrawnMasks.load(DrawnMasks.train(data, None, folder, options=options))


def all_of(detector, images) -> Predictions:
    return Predictions.concatenate(list(detector.predict(images)))


def test_it_keeps_what_a_detector_must(scenes, tmp_path):
    assert load_detector_class("drawn") is DrawnMasks
    detector = trained(scenes, tmp_path)
    assert isinstance(detector, Detector)
    images = part(scenes, "pool").images
    parts = list(detector.predict(images))
    assert [set(p.image_id.tolist()) - {i.id} for p, i in zip(parts, images, strict=True)] == [set()] * len(images)
    for predictions, image in zip(parts, images, strict=True):
        assert predictions.features.shape == (len(predictions), FEATURE_WIDTH)
        assert np.isfinite(predictions.features).all()
        assert (np.diff(predictions.score) <= 0).all()
        assert set(predictions.class_id.tolist()) <= set(CLASSES)
        for rle, box in zip(predictions.rles(), predictions.box, strict=True):
            assert rle["size"] == [image.height, image.width]
            assert np.allclose(mask_util.toBbox(rle), box)
    again = trained(scenes, tmp_path / "again")
    assert again.version == detector.version
    assert np.array_equal(all_of(again, images).rle, all_of(detector, images).rle)


def test_an_image_alone_gives_what_it_gives_among_others(scenes, tmp_path):
    detector = trained(scenes, tmp_path)
    images = part(scenes, "pool").images
    [alone] = detector.predict(images[3:4])
    assert alone.rle.tolist() == list(detector.predict(images))[3].rle.tolist()


def test_more_masks_make_it_better_and_what_was_right_mostly_stays_right(scenes, tmp_path):
    pool = part(scenes, "pool")
    first, second = trained(scenes, tmp_path / "1"), trained(scenes, tmp_path / "2", times=20)
    assert first.version != second.version
    shares = []
    for detector in (first, second):
        found = all_of(detector, pool.images)
        correct = true_iou(found, pool) >= 0.75
        shares.append((correct.mean(), correct.sum() / len(pool.annotations)))
    assert shares[1][0] > shares[0][0] + 0.05 and shares[1][1] > shares[0][1] + 0.05
    assert 0.4 < shares[0][0] < 0.8, "too good or too bad to be worth asking about"


def test_scores_tell_of_correctness_and_do_not_give_it_away(scenes, tmp_path):
    pool = part(scenes, "pool")
    found = all_of(trained(scenes, tmp_path), pool.images)
    correct = true_iou(found, pool) >= 0.75
    order = np.argsort(found.score)
    ranks = np.empty(len(found))
    ranks[order] = np.arange(1, len(found) + 1)
    yes, no = correct.sum(), (~correct).sum()
    auc = (ranks[correct].sum() - yes * (yes + 1) / 2) / (yes * no)
    assert 0.75 < auc < 0.98


@pytest.mark.parametrize(("masks", "error"), [(0, 1.0), (375, 0.5), (10**9, 0.0126)])
def test_the_error_follows_from_the_number_of_masks(masks, error):
    assert error_after(masks) == pytest.approx(error, rel=0.01)


def test_bad_input_is_named(scenes, tmp_path):
    data = part(scenes, "labelled")
    with pytest.raises(InputError, match="option scenes: expected a folder that `campaign demo` drew, got nothing"):
        DrawnMasks.train(data, None, tmp_path, options={})
    with pytest.raises(InputError, match="no such file"):
        DrawnMasks.train(data, None, tmp_path, options={"scenes": str(tmp_path)})
    other = tmp_path / "other.json"
    other.write_text(json.dumps([1]))
    with pytest.raises(InputError, match="a checkpoint of the detector drawn"):
        DrawnMasks.load(other)
    detector = trained(scenes, tmp_path)
    with pytest.raises(InputError, match="an image that the demo drew"):
        list(detector.predict([replace(data.images[0], file_name="mine.jpg")]))


def disc(x, y, radius=12, size=(80, 100)):
    yy, xx = np.mgrid[: size[0], : size[1]]
    return (xx - x) ** 2 + (yy - y) ** 2 < radius**2


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize(
    ("spoil", "least", "most"),
    [
        (lambda mask, rng: strayed(mask, 0.1, rng), 0.9, 1.0),
        (lambda mask, rng: strayed(mask, 2.5, rng), 0.2, 0.95),
        (halved, 0.4, 0.75),
        (shifted, 0.2, 0.75),
    ],
)
def test_mistakes_are_of_the_size_meant(spoil, least, most):
    mask = disc(50, 40)
    for seed in range(20):
        assert least <= iou(spoil(mask, np.random.default_rng(seed)), mask) <= most


def test_masks_at_the_border_stay_inside():
    mask = disc(0, 0, 20)
    for seed in range(20):
        for spoil in (halved, shifted, lambda m, rng: strayed(m, 2.0, rng)):
            assert spoil(mask, np.random.default_rng(seed)).shape == mask.shape


def test_without_an_error_all_is_found_and_nothing_else():
    things = [Thing(4, disc(20, 20)), Thing(4, disc(60, 40)), Thing(0, disc(80, 70, 8))]
    found = list(find(things, [1, 2, 3, 4], dict.fromkeys([1, 2, 3, 4], 0.0), [5]))
    assert [f.class_id for f in found] == [4, 4]
    assert all(iou(f.mask, t.mask) > 0.8 for f, t in zip(found, things, strict=False))


def test_an_empty_image_has_no_masks():
    assert list(find([], [1], {1: 1.0}, [5])) == []


def test_things_look_like_a_class():
    ring = disc(50, 40) & ~disc(50, 40, 6)
    bar = np.zeros((80, 100), bool)
    bar[30:36, 20:60] = True
    assert [likely_class(m) for m in (ring, bar, disc(50, 40))] == [1, 3, 4]
