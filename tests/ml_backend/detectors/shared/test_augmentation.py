from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as mask_util

from ml_backend.detectors.shared.augmentation import CropSampler
from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.errors import InputError
from ml_backend.learning import scenes
from ml_backend.learning.pictures import load_pixels
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord, to_rle
from tests.ml_backend.detectors.drawn import draw


def options(data, **values):
    return DetectorOptions.create({"crop": 64, "batch": 3, "scale": 1.0, **values}).resolve(data)


def sampler(data, **values):
    return CropSampler(data, sorted(data.classes), options(data, **values))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("images"), 4, seed=1)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7])
def test_masks_lie_on_their_objects(data, scale):
    crops = sampler(data, colour_jitter=0, scale=scale)
    objects = 0
    for step in range(6):
        images, targets = crops.batch(step)
        assert images.shape == (3, 3, 64, 64)
        for image, target in zip(images, targets, strict=True):
            for mask, label in zip(target.masks.bool(), target.labels.tolist(), strict=True):
                # Disks, label 1, are bright and squares, label 2, dark; the image is normalised to mean 0.
                inside = image.mean(0)[mask]
                assert ((inside > 0) if label == 1 else (inside < 0)).float().mean() > 0.9
                objects += 1
    assert objects > 10


def test_boxes_fit_their_masks(data):
    for step in range(6):
        for target in sampler(data).batch(step)[1]:
            for mask, (x0, y0, x1, y1) in zip(target.masks.numpy(), target.boxes.tolist(), strict=True):
                rows, columns = np.nonzero(mask)
                assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)


def test_a_step_has_the_same_crops_whatever_came_before(data):
    one, other = sampler(data), sampler(data)
    for step in range(4):
        one.batch(step)
    for step in (3, 1):
        a, b = one.batch(step), other.batch(step)
        assert torch.equal(a[0], b[0])
        assert all(torch.equal(x.masks, y.masks) for x, y in zip(a[1], b[1], strict=True))
    assert not torch.equal(sampler(data, seed=1).batch(1)[0], one.batch(1)[0])


@pytest.mark.parametrize("cache", [1, 1 << 30], ids=["small cache", "large cache"])
def test_threads_share_the_decoded_images(data, monkeypatch, cache):
    monkeypatch.setattr(scenes, "_CACHE_BYTES", cache)
    read, alone, shared = [], sampler(data), sampler(data)
    expected = [alone.batch(step) for step in range(24)]
    monkeypatch.setattr(scenes, "load_pixels", lambda record: read.append(record.id) or load_pixels(record))
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(shared.batch, range(24)))
    for (a, targets), (b, others) in zip(expected, found, strict=True):
        assert torch.equal(a, b)
        assert all(torch.equal(x.masks, y.masks) for x, y in zip(targets, others, strict=True))
    kept = shared._scenes
    assert kept._bytes == sum(scene.bytes for scene in kept._scenes.values())
    if cache == 1:
        assert len(kept._scenes) == 1
    else:
        # Of 72 crops; two threads may have opened the same image at once.
        assert len(kept._scenes) == 4
        assert len(read) <= 4 * 4


def test_all_forms_of_segmentation_give_the_same_crops(tmp_path):
    data = draw(tmp_path, 1, seed=5, objects=1)
    record, first = data.images[0], data.annotations[0]
    polygon = [20, 20, 50, 20, 50, 44, 20, 44]
    mask = np.zeros((record.height, record.width), np.uint8)
    mask[20:44, 20:50] = 1
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(np.r_[0, flat, 0]))
    counts = np.diff(np.r_[0, edges, flat.size]).tolist()
    uncompressed = {"size": [record.height, record.width], "counts": counts}
    compressed = to_rle(uncompressed, record.height, record.width)
    batches = []
    for form in ([polygon], uncompressed, {**compressed, "counts": compressed["counts"].decode()}):
        rle = to_rle(form, record.height, record.width)
        one = CocoDataset(data.images, data.classes, [Annotation(1, record.id, first.class_id, rle)])
        batches.append(sampler(one).batch(0)[1])
    for other in batches[1:]:
        for a, b in zip(batches[0], other, strict=True):
            assert torch.equal(a.masks, b.masks)


def test_incomplete_images_are_drawn_around_their_objects(tmp_path):
    exhaustive = draw(tmp_path, 2, seed=1)
    incomplete = draw(tmp_path, 3, seed=2, keep=1)
    empty = draw(tmp_path, 2, seed=3, keep=0)
    both = CocoDataset(
        exhaustive.images + incomplete.images + empty.images,
        exhaustive.classes,
        exhaustive.annotations
        + [replace(a, id=100 + a.id) for a in incomplete.annotations]
        + [replace(a, id=200 + a.id) for a in empty.annotations],
    )
    crops = sampler(both, batch=4, incomplete_share=0.5)
    for step in range(5):
        flags = [t.exhaustive for t in crops.batch(step)[1]]
        assert flags.count(False) == 2
        assert all(len(t.boxes) for t in crops.batch(step)[1] if not t.exhaustive)
    assert {i.id for i in crops.incomplete} == {i.id for i in incomplete.images}


def test_small_images_are_padded(tmp_path):
    data = draw(tmp_path, 1, seed=1, side=40, objects=1)
    images, targets = sampler(data, colour_jitter=0, scale_jitter=1).batch(0)
    assert images.shape[-2:] == (64, 64)
    assert all((t.boxes[:, 2:] <= 64).all() for t in targets)


def test_an_image_of_another_size(tmp_path):
    data = draw(tmp_path, 1, seed=1, side=40, objects=1)
    with pytest.raises(InputError, match="expected 41x40 pixels, got 40x40"):
        load_pixels(replace(data.images[0], width=41))


@pytest.mark.parametrize("upright", [True, False])
def test_what_is_upright_is_mirrored_and_not_turned(tmp_path, upright):
    """An image that gets brighter from its top to its bottom, and a little to its right."""
    y, x = np.mgrid[:64, :64]
    Image.fromarray(np.repeat((2 * y + x)[..., None], 3, 2).astype(np.uint8)).save(tmp_path / "a.png")
    mask = np.zeros((64, 64), np.uint8, order="F")
    mask[20:40, 20:40] = 1
    image = ImageRecord(1, "a.png", 64, 64, tmp_path / "a.png")
    data = CocoDataset([image], {1: "square"}, [Annotation(1, 1, 1, mask_util.encode(mask))])
    crops = sampler(data, upright=upright, colour_jitter=0, scale_jitter=1)
    directions = set()
    for step in range(30):
        for picture in crops.batch(step)[0]:
            down, right = (float(picture[0].diff(dim=dim).mean()) for dim in (0, 1))
            directions.add((abs(down) > abs(right), down > 0, right > 0))
    assert directions == {(True, True, True), (True, True, False)} if upright else len(directions) == 8
