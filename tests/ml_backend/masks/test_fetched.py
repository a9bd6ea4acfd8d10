"""Images in an object store: fetched as they are read, within a limit, and said in a line where they cannot be."""

import json
import time

import fsspec
import numpy as np
import pytest
from PIL import Image

from ml_backend import caches
from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset
from ml_backend.masks.coco_stream import CocoImages
from ml_backend.masks.fetched import are_there, fetch, file_of, is_fetched, place_of, present
from ml_backend.masks.images import HEADER, image_size, read_rgb


@pytest.fixture
def pictures(tmp_path, bucket_url, machines):
    machines("one")
    for number in range(3):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (20, 10), (number, 0, 0)).save(path)
        files, folder = (
            fsspec.url_to_fs(bucket_url, auto_mkdir=True) if bucket_url[:5] == "file:" else fsspec.url_to_fs(bucket_url)
        )
        files.put_file(str(path), f"{folder}/a b/{number}%.png")
    return f"{bucket_url}/a b"


def test_an_image_is_fetched_as_it_is_read(pictures):
    path = file_of(f"{pictures}/1%.png")
    assert is_fetched(path) and not path.exists() and place_of(path) == f"{pictures}/1%.png"
    assert image_size(path) == (20, 10) and read_rgb(path)[0, 0].tolist() == [1, 0, 0] and path.exists()
    fetch([path, file_of(f"{pictures}/2%.png")])
    assert file_of(f"{pictures}/2%.png").exists()
    with pytest.raises(InputError, match=r"none\.png: expected an image file, got no such object"):
        read_rgb(file_of(f"{pictures}/none.png"))


def test_paths_of_this_machine_stay_as_they_are(tmp_path):
    assert file_of(str(tmp_path / "a.png")) == tmp_path / "a.png" == present(tmp_path / "a.png")
    assert place_of(tmp_path / "a.png") == str(tmp_path / "a.png") and not is_fetched(tmp_path)
    (tmp_path / "b.png").touch()
    places = [str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    assert list(are_there(places)) == [(places[0], False), (places[1], True)]


def test_it_is_known_which_are_there(pictures):
    places = [f"{pictures}/{name}.png" for name in ("0%", "none", "2%")]
    assert list(are_there(places)) == list(zip(places, (True, False, True), strict=True))


def test_the_longest_unused_go(pictures, monkeypatch):
    monkeypatch.setattr(caches, "IN_USE", 0.05)
    paths = [file_of(f"{pictures}/{number}%.png") for number in range(3)]
    size = present(paths[0]).stat().st_size
    monkeypatch.setenv("CAMPAIGN_IMAGE_CACHE_BYTES", str(2 * size + 10))
    for path in paths:
        present(path)
        time.sleep(0.1)
    assert not paths[0].exists() and paths[2].exists() and read_rgb(paths[0])[0, 0].tolist() == [0, 0, 0]


def test_a_limit_that_is_no_number_is_one_line(pictures, monkeypatch):
    monkeypatch.setenv("CAMPAIGN_IMAGE_CACHE_BYTES", "4 GiB")
    with pytest.raises(InputError, match=r"^\$CAMPAIGN_IMAGE_CACHE_BYTES: expected a number of bytes, got 4 GiB$"):
        present(file_of(f"{pictures}/0%.png"))


def test_a_coco_file_names_images_below_a_url(pictures, tmp_path):
    rows = [{"id": n, "file_name": f"{n}%.png", "width": 20, "height": 10} for n in range(3)]
    coco = {"images": rows, "annotations": [], "categories": [{"id": 1, "name": "cell"}]}
    path = tmp_path / "pool.json"
    path.write_text(json.dumps(coco))
    for images in (CocoDataset.load(path, file_of(pictures)).images, CocoImages.open(path, file_of(pictures)).images):
        assert [place_of(image.path) for image in images] == [f"{pictures}/{n}%.png" for n in range(3)]
    for name in ("../b.png", "s3://other/b.png"):
        rows[0]["file_name"] = name
        path.write_text(json.dumps(coco))
        with pytest.raises(InputError, match=f"expected an object below {pictures}, got {name}"):
            CocoDataset.load(path, file_of(pictures))


def test_the_size_of_an_image_costs_its_beginning(s3, tmp_path, machines):
    """Of a file whose beginning does not say it all of it is read."""
    machines("one")
    pixels = np.random.default_rng(0).integers(0, 255, (700, 600, 3), np.uint8)
    files = fsspec.filesystem("s3")
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, more, size in (("a.jpg", {"exif": exif, "quality": 95}, (700, 600)), ("a.png", {}, (600, 700))):
        Image.fromarray(pixels).save(tmp_path / name, **more)
        assert (tmp_path / name).stat().st_size > HEADER
        files.put_file(str(tmp_path / name), f"{s3}/{name}")
        assert image_size(file_of(f"{s3}/{name}")) == size
        assert file_of(f"{s3}/{name}").exists() == (name == "a.png")
    files.pipe_file(f"{s3}/no.jpg", b"nothing" * 100)
    with pytest.raises(InputError, match="expected an image file"):
        image_size(file_of(f"{s3}/no.jpg"))
