import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from scipy import ndimage

from campaign.demo.shapes import CLASSES, SPLITS, draw_shapes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("shapes"), labelled=4, pool=6, heldout=2, seed=3)


def read(folder, split):
    return json.loads((folder / f"{split}.json").read_text())


def test_same_seed_same_files(folder, tmp_path):
    seen = []
    again = draw_shapes(tmp_path, labelled=4, pool=6, heldout=2, seed=3, progress=lambda *at: seen.append(at))
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes()
    assert seen == [(n, 12) for n in range(1, 13)]


def test_other_seed_other_pictures(folder, tmp_path):
    other = draw_shapes(tmp_path, labelled=1, pool=0, heldout=0, seed=4)
    name = "images/labelled_0000.jpg"
    assert (other / name).read_bytes() != (folder / name).read_bytes()


def test_smaller_set_begins_larger_one(folder, tmp_path):
    small = draw_shapes(tmp_path, labelled=2, pool=1, heldout=1, seed=3)
    for name in ("labelled_0001.jpg", "pool_0000.jpg", "heldout_0000.jpg"):
        assert (small / "images" / name).read_bytes() == (folder / "images" / name).read_bytes()


@pytest.mark.parametrize(("split", "count"), [("labelled", 4), ("pool", 6), ("heldout", 2)])
def test_split_is_sound_coco(folder, split, count):
    coco = read(folder, split)
    assert len(coco["images"]) == count
    images = {i["id"]: i for i in coco["images"]}
    for image in coco["images"]:
        with Image.open(folder / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
    for annotation in coco["annotations"]:
        image = images[annotation["image_id"]]
        rle = annotation["segmentation"]
        assert rle["size"] == [image["height"], image["width"]]
        assert annotation["area"] == mask_util.area(rle) >= 90
        assert annotation["bbox"] == list(mask_util.toBbox(rle))
        assert annotation["category_id"] in CLASSES


def test_ids_are_unique_over_the_splits(folder):
    for kind in ("images", "annotations"):
        ids = [entry["id"] for split in SPLITS for entry in read(folder, split)[kind]]
        assert len(ids) == len(set(ids))


def test_loads_in_pycocotools(folder):
    coco = COCO(str(folder / "pool.json"))
    assert sorted(coco.getCatIds()) == sorted(CLASSES)


def test_masks_of_an_image_do_not_overlap(folder):
    coco = COCO(str(folder / "pool.json"))
    for image in coco.getImgIds():
        masks = [coco.annToMask(a) for a in coco.loadAnns(coco.getAnnIds(image))]
        assert np.sum(masks, axis=0).max() == 1


def test_holes_parts_and_every_class_occur(folder):
    coco = COCO(str(folder / "pool.json"))
    holes = parts = 0
    classes = set()
    for annotation in coco.loadAnns(coco.getAnnIds()):
        mask = coco.annToMask(annotation).astype(bool)
        holes += bool((ndimage.binary_fill_holes(mask) & ~mask).any())
        parts += ndimage.label(mask)[1] > 1
        classes.add(annotation["category_id"])
    assert holes >= 10
    assert parts >= 2
    assert classes == set(CLASSES)
