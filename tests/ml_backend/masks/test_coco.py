"""COCO files: what is taken, and the one line that anything else gets."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset, decode, to_rle

MASK = np.zeros((6, 8), np.uint8)
MASK[1:4, 2:5] = 1
MASK[2, 3] = 0
MASK[5, 7] = 1


def compressed(mask):
    rle = mask_util.encode(np.asfortranarray(mask))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


def uncompressed(mask):
    flat, counts, value = mask.flatten(order="F"), [], 0
    while len(flat):
        run = int(np.argmax(flat != value)) if (flat != value).any() else len(flat)
        counts.append(run)
        flat, value = flat[run:], 1 - value
    return {"size": list(mask.shape), "counts": counts}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 6)).save(tmp_path / "images" / "a.png")
    return tmp_path


def write(folder, **changes):
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}],
        "categories": [{"id": 3, "name": "cell"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 3, "segmentation": compressed(MASK)}],
    } | changes
    path = folder / "set.json"
    path.write_text(json.dumps(coco))
    return path


@pytest.mark.parametrize("form", [compressed, uncompressed])
def test_both_rle_forms_keep_every_pixel(form):
    assert (decode(to_rle(form(MASK), 6, 8)) == MASK).all()


def test_polygons_are_filled():
    mask = decode(to_rle([[1, 1, 5, 1, 5, 4, 1, 4]], 6, 8))
    assert mask.shape == (6, 8)
    assert mask[1:4, 1:5].all() and mask.sum() == 12


def test_a_data_set_survives_saving(folder):
    data = CocoDataset.load(write(folder), folder / "images")
    data.save(folder / "again.json")
    again = CocoDataset.load(folder / "again.json", folder / "images")
    assert again == data
    assert (decode(again.annotations[0].rle) == MASK).all()


def annotation(**changes):
    return {"annotations": [{"id": 1, "image_id": 1, "category_id": 3, "segmentation": compressed(MASK)} | changes]}


BAD = {
    "unknown image": (annotation(image_id=9), "expected an image_id of this file, got 9"),
    "unknown class": (annotation(category_id=9), "expected a category_id among [3], got 9"),
    "no class": ({"categories": []}, "expected at least one class, got none"),
    "two classes of one id": ({"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]}, "got id 3 twice"),
    "two classes of one name": ({"categories": [{"id": 3, "name": "a"}, {"id": 4, "name": "a"}]}, "unique names"),
    "mask of the wrong size": (annotation(segmentation=compressed(MASK[:5])), "a mask of size [6, 8], got [5, 8]"),
    "counts of the wrong sum": (annotation(segmentation={"size": [6, 8], "counts": [10, 10]}), "that sum to 48"),
    "broken counts": (annotation(segmentation={"size": [6, 8], "counts": "zz~~"}), "a compressed RLE of 48 pixels"),
    "truncated counts": (annotation(segmentation={"size": [6, 8], "counts": "8"}), "a compressed RLE of 48 pixels"),
    "empty mask": (annotation(segmentation={"size": [6, 8], "counts": [48]}), "a mask of at least one pixel"),
    "polygon of two points": (annotation(segmentation=[[1, 1, 2, 2]]), "polygons of at least three"),
    "no segmentation": (annotation(segmentation=None), "polygons or an RLE object"),
    "missing image": ({"images": [{"id": 1, "file_name": "b.png", "width": 8, "height": 6}]}, "got no such file"),
    "image outside": ({"images": [{"id": 1, "file_name": "../set.json", "width": 8, "height": 6}]}, "a file below"),
    "image twice": ({"images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}] * 2}, "got id 1 twice"),
    "image of no size": ({"images": [{"id": 1, "file_name": "a.png", "width": 0, "height": 6}]}, "a width and"),
    "images no list": ({"images": None}, "expected a COCO object with images"),
    "annotations no list": ({"annotations": {}}, "expected a list of annotations"),
    "annotation twice": (
        {"annotations": annotation()["annotations"] * 2},
        "expected a unique id",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files_get_one_line(folder, changes, message):
    with pytest.raises(InputError) as caught:
        CocoDataset.load(write(folder, **changes), folder / "images")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00\xff", '{"images": 3}'])
def test_files_that_are_no_coco_get_one_line(folder, text):
    (folder / "set.json").write_text(text)
    with pytest.raises(InputError, match=r"set\.json"):
        CocoDataset.load(folder / "set.json", folder / "images")


def test_annotations_of_a_pool_are_not_looked_at(folder):
    path = write(folder, annotations=[{"nonsense": True}])
    assert CocoDataset.load(path, folder / "images", annotations=False).annotations == []
