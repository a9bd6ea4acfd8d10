"""Reading images: every mode to 8-bit RGB, and one line for what is no image."""

import numpy as np
import pytest
from PIL import Image

from ml_backend.errors import InputError
from ml_backend.masks.images import image_size, media_type, read_rgb


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "LA", "P", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / f"a.{'tif' if mode in ('CMYK', 'I;16') else 'png'}"
    Image.fromarray(np.full((5, 7), 300, np.uint16)).save(path) if mode == "I;16" else Image.new(mode, (7, 5)).save(
        path
    )
    image = read_rgb(path)
    assert image.shape == (5, 7, 3) and image.dtype == np.uint8
    assert image_size(path) == (7, 5)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 30000, 60000]], np.uint16)).save(tmp_path / "a.tif")
    assert read_rgb(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 127, 255]


def test_an_image_is_turned_upright(tmp_path):
    image, exif = Image.new("RGB", (7, 5)), Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read_rgb(tmp_path / "a.jpg").shape == (7, 5, 3)
    assert image_size(tmp_path / "a.jpg") == (5, 7)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "options"), [("AVIF", {}), ("BLP", {}), ("DDS", {}), ("GIF", {}), ("JPEG", {"exif": True}), ("TIFF", {})]
)
def test_a_damaged_image_of_any_kind_is_an_error(tmp_path, kind, options):
    """Whatever Pillow's readers raise: a struct.error, a RuntimeError, errors of their own."""
    random = np.random.default_rng(3)
    image = Image.fromarray(random.integers(0, 255, (20, 25, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112], exif[0x8769] = 6, {36867: "2020"}
    path = tmp_path / f"a.{kind.lower()}"
    try:
        (image.convert("P") if kind == "BLP" else image).save(path, kind, **({"exif": exif} if options else {}))
    except (KeyError, OSError):
        pytest.skip(f"this Pillow does not write {kind}")
    whole = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(whole)
        for place in random.integers(0, min(len(whole), random.choice([64, 256, len(whole)])), 8):
            damaged[place] = random.choice([0, 1, 127, 255])
        path.write_bytes(damaged)
        for read in (image_size, read_rgb):
            try:
                read(path)
            except InputError as error:
                assert "\n" not in str(error)


def test_postscript_is_no_image(tmp_path):
    """Pillow would start Ghostscript."""
    path = tmp_path / "a.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n")
    for read in (image_size, read_rgb):
        with pytest.raises(InputError, match="image"):
            read(path)


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("a.html", "GIF", "image/gif"),
        ("a.svg", "PNG", "image/png"),
        ("a.gif", "JPEG", "image/jpeg"),
        ("a", "TIFF", "image/tiff"),
        ("a.jpg", "PPM", "application/octet-stream"),
        ("a.png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "application/octet-stream"),
        ("a.png", b"<html><script>alert(1)</script>", "application/octet-stream"),
        ("a.png", b"", "application/octet-stream"),
    ],
)
def test_the_type_of_an_image_is_that_of_its_content(tmp_path, name, kind, expected):
    path = tmp_path / name
    if isinstance(kind, bytes):
        path.write_bytes(kind)
    else:
        Image.new("RGB", (7, 5)).save(path, kind)
    assert media_type(path) == expected


def test_bad_images_get_one_line(tmp_path):
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(whole)
    (tmp_path / "truncated.jpg").write_bytes(whole.read_bytes()[:1500])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    for name in ("truncated.jpg", "text.jpg", "empty.jpg", "missing.jpg"):
        with pytest.raises(InputError, match=name) as caught:
            read_rgb(tmp_path / name)
        assert "\n" not in str(caught.value)
