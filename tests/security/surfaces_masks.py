"""Masks from outside: COCO files, results of other models, run lengths, polygons, brushes, Label Studio's regions."""

from __future__ import annotations

import json
import random
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from campaign.label_studio.source import _mask as region_mask
from ml_backend.detectors.coco_results import CocoResults
from ml_backend.errors import InputError
from ml_backend.masks.brush import decode_brush, encode_brush
from ml_backend.masks.coco import CocoDataset, ImageRecord, to_rle
from ml_backend.masks.rle import decode_window
from tests.security.mutation import NUMBERS, json_bytes, junk, mutated, mutated_bytes

WIDTH, HEIGHT = 40, 30


@cache
def folder() -> Path:
    """A folder with the image that COCO files speak of; it stays until the process ends."""
    path = Path(tempfile.mkdtemp(prefix="fuzz-masks-"))
    (path / "a.png").write_bytes(b"")
    return path


def size(rng: random.Random) -> tuple[int, int]:
    """Height and width of a mask, now and then one whose image would be enormous."""
    if rng.random() < 0.05:
        return rng.choice([(1, 64_000_000), (64_000_000, 1), (8000, 8000), (50_000, 50_000), (0, 5), (1 << 33, 1)])
    return rng.randrange(1, 60), rng.randrange(1, 60)


def raster(rng: random.Random, height: int, width: int) -> np.ndarray:
    """Some mask."""
    if not 0 < height * width <= 10_000:
        height, width = 10, 10
    generator = np.random.default_rng(rng.randrange(1 << 30))
    return generator.random((height, width)) < rng.choice([0.0, 0.02, 0.3, 0.9, 1.0])


def coordinate(rng: random.Random) -> float:
    """Where a polygon's point may lie."""
    if rng.random() < 0.1:
        return rng.choice(NUMBERS)
    return rng.choice([rng.uniform(-10, 70), rng.randrange(-5, 60), rng.gauss(0, 1e5)])


def polygons(rng: random.Random) -> Any:
    """What may stand where polygons are expected."""
    one = [
        [coordinate(rng) for _ in range(rng.choice([6, 6, 8, 12, 40, 5, 4, 0]))]
        for _ in range(rng.choice([1, 1, 2, 5]))
    ]
    if rng.random() < 0.02:
        return one * rng.choice([100, 3000, 6000])
    if rng.random() < 0.02:
        return [one[0] * rng.choice([1000, 30_000])]
    return one


def counts(rng: random.Random, height: int, width: int) -> Any:
    """What may stand where run lengths are expected, as text or as numbers."""
    rle = mask_util.encode(np.asfortranarray(raster(rng, height, width), np.uint8))
    kind = rng.randrange(8)
    if kind == 0:
        runs = [rng.randrange(0, 9) for _ in range(rng.randrange(1, 30))]
        return [*runs, height * width - sum(runs)] if rng.random() < 0.7 else mutated(rng, runs)
    if kind == 1:
        return "".join(chr(rng.randrange(48, 112)) for _ in range(rng.randrange(40)))
    if kind == 2 and rng.random() < 0.1:
        return rng.choice(["P", "o", "0", "1", "\x80"]) * rng.choice([10, 1000, 300_000]) + rle["counts"].decode()
    if kind == 3:
        return junk(rng)
    text = rle["counts"]
    return (mutated_bytes(rng, text, 3) if kind < 6 else text).decode("latin1")


def segmentation(rng: random.Random, height: int = HEIGHT, width: int = WIDTH) -> Any:
    """What may stand where a COCO file has a mask."""
    if rng.random() < 0.4:
        return polygons(rng)
    stated = [height, width] if rng.random() < 0.9 else junk(rng)
    return {"size": stated, "counts": counts(rng, height, width)}


def check_rle(rle: dict, height: int, width: int) -> None:
    """Raises AssertionError where pycocotools and the code that reads windows do not see one mask of that size."""
    assert list(rle["size"]) == [height, width]
    area = int(mask_util.area(rle))
    x, y, w, h = (int(v) for v in mask_util.toBbox(rle))
    assert 0 <= x <= x + w <= width and 0 <= y <= y + h <= height and (area > 0) == (w * h > 0)
    if height * width <= 1 << 22:
        mask = mask_util.decode(rle)
        assert mask.sum() == area and (decode_window(rle, 0, 0, width, height) == mask).all()
        assert not area or mask[y : y + h, x : x + w].sum() == area
        # Equal and canonical: what pycocotools itself would have written.
        again = mask_util.encode(mask)
        assert mask_util.area(mask_util.merge([rle, again], intersect=1)) == area


def rle(rng: random.Random) -> None:
    """Run lengths and whatever else stands in a `segmentation`."""
    height, width = size(rng)
    try:
        found = to_rle(mutated(rng, segmentation(rng, height, width), 0.01), height, width)
    except ValueError:
        return
    check_rle(found, height, width)


def polygon(rng: random.Random) -> None:
    """Polygons; near the image they are filled as pycocotools itself does it."""
    height, width = size(rng)
    shapes = polygons(rng)
    try:
        found = to_rle(shapes, height, width)
    except ValueError:
        return
    check_rle(found, height, width)
    if height * width < 10_000 and len(shapes) < 50 and all(abs(v) < 1000 for shape in shapes for v in shape):
        plain = mask_util.merge(mask_util.frPyObjects(shapes, height, width))
        assert (mask_util.decode(plain) == mask_util.decode(found)).all()


def coco_file(rng: random.Random) -> None:
    """Whole COCO files."""
    images = [{"id": 1, "file_name": "a.png", "width": WIDTH, "height": HEIGHT}]
    annotations = [
        {"id": n, "image_id": 1, "category_id": rng.randrange(1, 3), "segmentation": segmentation(rng), "iscrowd": 0}
        for n in range(rng.randrange(4))
    ]
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "dot"}]
    value = {"images": images, "categories": categories, "annotations": annotations}
    path = folder() / "set.json"
    path.write_bytes(json_bytes(rng, mutated(rng, value, rng.choice([0.0, 0.02, 0.1]))))
    try:
        data = CocoDataset.load(path, folder())
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return
    for annotation in data.annotations:
        image = next(i for i in data.images if i.id == annotation.image_id)
        check_rle(annotation.rle, image.height, image.width)
    json.dumps(data.to_json())


def coco_results(rng: random.Random) -> None:
    """Results of another model."""
    rows = [
        {"image_id": rng.randrange(1, 3), "category_id": 1, "score": rng.random(), "segmentation": segmentation(rng)}
        | ({"features": [1.0, 2.0], "predicted_iou": 0.5} if rng.random() < 0.2 else {})
        for _ in range(rng.randrange(4))
    ]
    path = folder() / "results.json"
    path.write_bytes(json_bytes(rng, mutated(rng, rows, rng.choice([0.0, 0.02, 0.1]))))
    records = [ImageRecord(n, "a.png", WIDTH, HEIGHT, folder() / "a.png") for n in (1, 2)]
    try:
        found = list(CocoResults(path, feature_width=8).predict(records))
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return
    for predictions in found:
        for one in predictions.rles():
            check_rle(one, HEIGHT, WIDTH)


def plain_brush(rle: list[int], height: int, width: int) -> np.ndarray:
    """A brush RLE read bit by bit, as Label Studio's own code does it."""
    bits, at = "".join(f"{value:08b}" for value in rle), 0

    def take(count: int) -> int:
        nonlocal at
        part = bits[at : at + count]
        if len(part) < count:
            raise ValueError("over")
        at += count
        return int(part, 2)

    total, word, widths = take(32), take(5) + 1, [take(4) + 1 for _ in range(4)]
    if total != height * width * 4 or word != 8:
        raise ValueError("another size")
    out: list[int] = []
    while len(out) < total:
        run = take(1)
        count = take(widths[take(2)]) + 1
        if run:
            out += [take(8)] * min(count, total - len(out))
        else:
            out += [take(8) for _ in range(min(count, total - len(out)))]
    return np.array(out, np.uint8).reshape(height, width, 4)[..., 3] >= 128


def brush(rng: random.Random) -> None:
    """Brush masks, against a plain reader of the same bits."""
    height, width = size(rng)
    code = bytes(encode_brush(raster(rng, height, width)))
    kind = rng.randrange(6)
    if kind == 0:
        noise = rng.randbytes(rng.choice([3, 30, 300, 3000]))
        code = (height * width * 4 & 0xFFFFFFFF).to_bytes(4, "big") + bytes([7 << 3 | rng.randrange(8)]) + noise
    elif kind < 4:
        code = mutated_bytes(rng, code, 4)
    value: Any = list(code)
    if rng.random() < 0.05:
        value = rng.choice([mutated(rng, value), junk(rng), value + [0] * rng.choice([1000, 1_000_000])])
    try:
        found = decode_brush(value, height, width)
    except ValueError:
        found = None
    if (
        isinstance(value, list)
        and len(value) < 10_000
        and 0 < height * width < 10_000
        and all(type(v) is int and 0 <= v < 256 for v in value)
    ):
        try:
            expected = plain_brush(value, height, width)
        except ValueError:
            assert found is None
            return
        assert found is not None and (found == expected).all()


def regions(rng: random.Random) -> None:
    """Brush, polygon and rectangle of a team's own annotations."""
    height, width = size(rng)
    values = [
        {"format": "rle", "rle": encode_brush(raster(rng, height, width))},
        {"points": [[coordinate(rng), coordinate(rng)] for _ in range(rng.randrange(12))], "closed": True},
        {"rotation": coordinate(rng)} | {key: coordinate(rng) for key in ("x", "y", "width", "height")},
    ]
    value = mutated(rng, rng.choice(values), rng.choice([0.0, 0.1]))
    try:
        found = region_mask(value if isinstance(value, dict) else {}, width, height)
    except ValueError:
        return
    if found is not None:
        check_rle(found, height, width)


SURFACES = {
    "rle": rle,
    "polygon": polygon,
    "coco-file": coco_file,
    "coco-results": coco_results,
    "brush": brush,
    "regions": regions,
}
