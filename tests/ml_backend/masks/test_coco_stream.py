"""A pool as a stream: the same images, fields and errors as from a file that is read whole."""

import json

import pytest
from PIL import Image

from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset
from ml_backend.masks.coco_stream import CocoImages

CATEGORIES = [{"id": 3, "name": "cell", "supercategory": "thing"}, {"id": 7, "name": "dot"}]


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
    return tmp_path


def image(number, name="a.png", **more):
    return {"id": number, "file_name": name, "width": 8, "height": 6, **more}


GOOD = {
    "info": {"year": 2026}, "annotations": [{"anything": 1}], "images": [image(5, license=2), image(2, "b.png")],
    "licenses": [{"id": 2}], "categories": CATEGORIES,
}  # fmt: skip


def written(folder, content):
    path = folder / "pool.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("order", [list(GOOD), list(reversed(GOOD))])
def test_it_is_what_the_whole_file_says(folder, order):
    path = written(folder, {key: GOOD[key] for key in order})
    whole, stream = CocoDataset.load(path, folder, annotations=False), CocoImages.open(path, folder)
    assert list(stream.images) == whole.images == list(stream.images) and stream.classes == whole.classes
    assert {i.id: further for i, further in stream.rows() if further} == whole.fields.images == {5: {"license": 2}}
    assert (stream.fields.info, stream.fields.licenses, stream.fields.categories) == (
        whole.fields.info, whole.fields.licenses, whole.fields.categories,
    )  # fmt: skip


BAD = {
    "no JSON": ("{", "expected JSON"),
    "a list": ([], "expected a COCO object with images, got a list"),
    "no images": ({"categories": CATEGORIES}, "expected a COCO object with images"),
    "images that are no list": (GOOD | {"images": {"id": 1}}, "expected a COCO object with images, got dict"),
    "annotations that are no list": (GOOD | {"annotations": 5}, "expected a list of annotations, got int"),
    "no class": (GOOD | {"categories": []}, "expected at least one class"),
    "an id twice": (GOOD | {"images": [image(5), image(6), image(5)]}, "expected unique ids, got id 5 twice"),
    "no size": (GOOD | {"images": [image(5, width=0)]}, "expected a width and a height"),
    "no file": (GOOD | {"images": [image(5, "c.png")]}, "no such file"),
    "a file outside": (GOOD | {"images": [image(5, "../c.png")]}, "expected a file below"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files(folder, content, message):
    with pytest.raises(InputError, match=message) as error:
        list(CocoImages.open(written(folder, content), folder).images)
    assert len(str(error.value).splitlines()) == 1


def test_a_missing_file(folder):
    with pytest.raises(InputError, match="expected a COCO file, got no such file"):
        CocoImages.open(folder / "none.json", folder)
