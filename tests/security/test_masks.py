"""Masks from outside: what would have crashed native code, or taken it minutes, is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from ml_backend.errors import InputError
from ml_backend.masks.brush import decode_brush, encode_brush
from ml_backend.masks.coco import CocoDataset, to_rle
from ml_backend.masks.limits import MAX_MASK_BYTES, MAX_OUTLINE, MAX_POINTS, MAX_POLYGONS
from ml_backend.masks.rle import run_lengths

BOX = [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0]


def decoded(rle: dict) -> np.ndarray:
    return mask_util.decode(rle).astype(bool)


@pytest.mark.parametrize(
    "polygon",
    [
        [1e9, 0, 0, 1e9, -1e9, -1e9],
        [float("nan")] * 6,
        [float("inf"), 0, 5, 5, 0, 5],
        [1e308, 1e308, -1e308, 0, 0, 1],
        [10**400, 0, 0, 0, 5, 5],
        [2**31, 0, 0, 2**31, 5, 5],
        [True, False, True, True, False, False],
        [0, 0, 0, 1e8] * 1000,
    ],
)
def test_no_polygon_ends_the_process(tmp_path, polygon):
    """In a process of its own: each of these ended the one that read it, or filled the machine."""
    (tmp_path / "a.png").touch()
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 80, "height": 60}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [polygon]}],
    }
    (tmp_path / "set.json").write_text(json.dumps(coco))
    code = """
import resource, sys
from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    CocoDataset.load(sys.argv[1] + "/set.json", sys.argv[1])
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


def test_a_polygon_that_reaches_far_out_is_cut_at_the_border():
    far = decoded(to_rle([[-1e6, 2, 1e6, 2, 1e6, 5, -1e6, 5]], 8, 9))
    assert far[2:5].all() and far.sum() == 27
    triangle = decoded(to_rle([[0.0, 0.0, 1e5, 0.0, 0.0, 1e5]], 40, 30))
    assert triangle.all()
    slanted = decoded(to_rle([[0.0, 0.0, 1e5, 1e5, 0.0, 1e5]], 40, 40))
    assert abs(slanted.sum() - 800) <= 40 and slanted[39, 0] and not slanted[0, 39]
    outside = decoded(to_rle([[1e5, 1e5, 2e5, 1e5, 2e5, 2e5]], 40, 40))
    assert not outside.any()


def test_overlapping_polygons_are_one_mask_as_pycocotools_has_it():
    rng = np.random.default_rng(0)
    for _ in range(20):
        polygons = [rng.uniform(-5, 45, 2 * rng.integers(3, 9)).tolist() for _ in range(rng.integers(1, 12))]
        plain = mask_util.merge(mask_util.frPyObjects(polygons, 30, 40))
        assert (decoded(to_rle(polygons, 30, 40)) == mask_util.decode(plain)).all()


@pytest.mark.parametrize(
    "polygons",
    [
        [BOX] * (MAX_POLYGONS + 1),
        [BOX * (MAX_POINTS // 4 + 1)],
        [[0, 0, 5e6, 0, 5e6, 1]],
        [[0, 0, 700, 700] * (MAX_OUTLINE // 700)],
    ],
)
def test_polygons_are_bounded(polygons):
    with pytest.raises(ValueError, match=r"polygons|pixels"):
        to_rle(polygons, 1000, 6_000_000 if polygons[0][2] == 5e6 else 1000)


@pytest.mark.parametrize(
    "counts",
    [
        "0" * 48 + "o" * 100_000,
        "P" * 1_000_000,
        "`" * 12 + "1P1",
        "a" * 7 + "1",
        "0" * (MAX_MASK_BYTES + 1),
        "\x80\u0663",
        ["1"] * 48,
        [True] * 48,
        [48.0],
        [1 << 70, -(1 << 70) + 48],
        None,
        {"a": 1},
    ],
)
def test_run_lengths_that_pycocotools_reads_wrong_are_refused(counts):
    with pytest.raises(ValueError, match=r"RLE|run lengths"):
        to_rle({"size": [6, 8], "counts": counts}, 6, 8)


@pytest.mark.parametrize("size", [[6], "68", None, [6, 8, 1], {"6": 8}, [8, 6]])
def test_another_size_is_refused(size):
    with pytest.raises(ValueError, match="size"):
        to_rle({"size": size, "counts": [10, 38]}, 6, 8)


@pytest.mark.parametrize("runs", [[0, 0, 10, 38], [10, 0, 0, 5, 33], [5, 5, 0, 0, 0, 0, 38], [48, 0, 0, 0], [0, 48, 0]])
def test_runs_of_no_pixels_are_left_out(runs):
    """pycocotools takes two of them for the end of a mask, and draws boxes around them."""
    expected = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(8, 6).T
    text = mask_util.frPyObjects({"size": [6, 8], "counts": runs}, 6, 8)["counts"].decode()
    for counts in (runs, text):
        rle = to_rle({"size": [6, 8], "counts": counts}, 6, 8)
        assert (decoded(rle) == expected).all()
        assert (run_lengths(rle["counts"])[1:] > 0).all()
        assert (
            mask_util.toBbox(rle).tolist()
            == mask_util.toBbox(mask_util.encode(np.asfortranarray(expected, np.uint8))).tolist()
        )
        merged = mask_util.merge([rle, mask_util.encode(np.asfortranarray(~expected, np.uint8))])
        assert mask_util.area(merged) == 48


@pytest.mark.parametrize("size", [(8001, 8000), (1 << 40, 1 << 40), (64_000_001, 1)])
def test_masks_of_enormous_images_are_refused(size):
    for value in ([BOX], {"size": list(size), "counts": [size[0] * size[1]]}):
        with pytest.raises(ValueError, match="pixels"):
            to_rle(value, *size)
    with pytest.raises(ValueError, match="pixels"):
        decode_brush([0] * 10, *size)


@pytest.fixture
def folder(tmp_path) -> Path:
    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    return tmp_path


IMAGE = {"id": 1, "file_name": "a.png", "width": 8, "height": 6}
ANNOTATION = {"id": 1, "image_id": 1, "category_id": 3, "segmentation": [BOX]}


@pytest.mark.parametrize(
    "changes",
    [
        {"annotations": [ANNOTATION | {"id": [1]}]},
        {"annotations": [ANNOTATION | {"image_id": {"a": 1}}]},
        {"annotations": [ANNOTATION | {"category_id": [3]}]},
        {"annotations": [ANNOTATION | {"id": 1 << 63}]},
        {"images": [IMAGE | {"file_name": "a\x00.png"}]},
        {"images": [IMAGE | {"file_name": "\ud800"}]},
        {"images": [IMAGE | {"file_name": "a" * 5000}]},
        {"images": [IMAGE | {"file_name": ["a.png"]}]},
        {"images": [IMAGE | {"width": True}]},
        {"images": [IMAGE | {"width": 50_000, "height": 50_000}]},
        {"images": [IMAGE | {"id": 10**30}]},
        {"categories": [{"id": [3], "name": "cell"}]},
        {"categories": [{"id": 3, "name": ["cell"]}]},
    ],
)
def test_a_coco_file_of_other_types_is_one_line(folder, changes):
    coco = {"images": [IMAGE], "categories": [{"id": 3, "name": "cell"}], "annotations": [ANNOTATION]} | changes
    (folder / "set.json").write_text(json.dumps(coco))
    with pytest.raises(InputError) as error:
        CocoDataset.load(folder / "set.json", folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 6000


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "9" * 5000 + "}"])
def test_json_that_python_does_not_read_is_one_line(folder, text):
    (folder / "set.json").write_text(text)
    with pytest.raises(InputError, match="JSON"):
        CocoDataset.load(folder / "set.json", folder)


def test_a_brush_is_bounded_whatever_is_appended():
    mask = np.eye(30, dtype=bool)
    code = encode_brush(mask)
    assert (decode_brush([*code, *[0] * 100_000], 30, 30) == mask).all()
    for bad in ([*code, *[0] * MAX_MASK_BYTES], [*code[:-1], 256], [*code[:-1], True], "abc" * 10, {"a": 1}, None, 5):
        with pytest.raises(ValueError, match="brush RLE"):
            decode_brush(bad, 30, 30)
