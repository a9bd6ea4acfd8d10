"""Images from outside: read right, or one line, and nowhere but in one module."""

from __future__ import annotations

import ast
import io
import random
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ml_backend.errors import InputError
from ml_backend.masks import images
from ml_backend.masks.budgets import Budget
from ml_backend.masks.images import image_size, read_rgb
from tests.security.surfaces_images import FOREIGN, encoded, lying

ROOT = Path(__file__).parents[2]
OPENS = {
    "Image.open", "Image.frombytes", "Image.frombuffer", "cv2.imdecode", "cv2.imread", "cv2.imdecodemulti",
    "cv2.VideoCapture", "ImageFile.Parser", "plt.imread",
}  # fmt: skip


def test_one_module_alone_opens_images():
    found = [
        (str(path.relative_to(ROOT)), ast.unparse(node.func))
        for package in ("campaign", "ml_backend", "label_config")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in OPENS
    ]
    assert found == [("ml_backend/masks/images.py", "Image.open")]


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_formats_are_refused(tmp_path, kind):
    data = encoded(random.Random(1), kind)
    (tmp_path / "a.png").write_bytes(data)
    for read in (image_size, read_rgb):
        with pytest.raises(InputError, match="expected an image file"):
            read(tmp_path / "a.png")


def test_no_wrapper_smuggles_a_format(tmp_path, monkeypatch):
    """Pillow's reader of IPTC opens what is in it as an image of any kind, PostScript for Ghostscript too."""
    inner = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n"
    records = [((3, 60), b"\1\1"), ((3, 20), b"\0\x32"), ((3, 30), b"\0\x32"), ((3, 120), b"\1"), ((8, 10), inner)]
    data = b"".join(bytes([0x1C, *tag]) + len(value).to_bytes(2, "big") + value for tag, value in records)
    (tmp_path / "a.jpg").write_bytes(data)
    for read in (image_size, read_rgb):
        with pytest.raises(InputError, match="a file that is no image"):
            read(tmp_path / "a.jpg")


@pytest.mark.parametrize("number", range(40))
def test_enormous_headers_are_one_line(tmp_path, number):
    (tmp_path / "a.png").write_bytes(lying(random.Random(number)))
    for read in (image_size, read_rgb):
        with pytest.raises(InputError) as error:
            read(tmp_path / "a.png")
        assert "\n" not in str(error.value)


TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"save_all": True}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_every_orientation_of_every_format(tmp_path, kind, options, mode):
    """A raw TIFF on its side was scrambled, and the size of any TIFF on its side told wrongly."""
    plain = Image.fromarray(np.random.default_rng(0).integers(0, 255, (5, 7, 3)).astype(np.uint8)).convert(mode)
    more = {"append_images": [plain.point(lambda v: 255 - v)]} if "save_all" in options else {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        plain.save(tmp_path / "a", kind, exif=exif, **options, **more)
        expected = np.asarray((plain.transpose(TURNED[orientation]) if orientation > 1 else plain).convert("RGB"))
        assert (read_rgb(tmp_path / "a") == expected).all(), orientation
        assert image_size(tmp_path / "a") == (expected.shape[1], expected.shape[0])


def test_of_an_animation_the_first_picture(tmp_path):
    frames = [Image.new("RGB", (9, 6), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP", "TIFF", "MPO"):
        frames[0].save(tmp_path / "a", kind, save_all=True, append_images=frames[1:])
        assert np.abs(read_rgb(tmp_path / "a").astype(int) - [255, 0, 0]).max() < 6, kind


def test_cmyk_palettes_transparency_and_numbers(tmp_path):
    def read(image: Image.Image, kind: str, **options: object) -> np.ndarray:
        out = io.BytesIO()
        image.save(out, kind, **options)
        (tmp_path / "a").write_bytes(out.getvalue())
        return read_rgb(tmp_path / "a")

    red = Image.new("RGB", (4, 3), "red")
    assert np.abs(read(red.convert("CMYK"), "JPEG", quality=95).astype(int) - [255, 0, 0]).max() < 8
    assert (read(red.convert("P"), "PNG") == [255, 0, 0]).all()
    assert (read(Image.new("RGBA", (4, 3), (255, 0, 0, 0)), "PNG") == 255).all()
    assert (read(red.convert("P"), "GIF", transparency=red.convert("P").getpixel((0, 0))) == 255).all()
    values = np.array([[np.nan, np.inf, -np.inf, 0, 1000, 500]], np.float32)
    assert read(Image.fromarray(values), "TIFF")[0, :, 0].tolist() == [0, 255, 0, 0, 255, 127]


def test_decoding_waits_for_memory():
    budget, order = Budget(100), []
    with budget.hold(70):
        waits = threading.Thread(target=lambda: _note(budget, 50, order))
        waits.start()
        with budget.hold(30):
            order.append("small")
        waits.join(0.2)
        assert order == ["small"]
    waits.join(10)
    assert order == ["small", 50]
    with budget.hold(10**12):
        order.append("alone")
    assert order[-1] == "alone"


def test_reading_holds_its_share(tmp_path, monkeypatch):
    Image.new("RGB", (50, 40)).save(tmp_path / "a.png")
    held: list[int] = []

    class Noted(Budget):
        def hold(self, size: int):
            held.append(size)
            return super().hold(size)

    monkeypatch.setattr(images, "_budget", Noted(1 << 30))
    read_rgb(tmp_path / "a.png")
    assert held == [50 * 40 * 16]


def _note(budget: Budget, size: int, order: list) -> None:
    with budget.hold(size):
        order.append(size)
