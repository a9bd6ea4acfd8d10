"""Images from outside: every format, damaged ones, headers that lie, small files that are large inside."""

from __future__ import annotations

import io
import random
import struct
import tempfile
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from ml_backend.errors import InputError
from ml_backend.masks.images import FORMATS, image_size, media_type, read_rgb
from ml_backend.masks.limits import MAX_PIXELS
from tests.security.mutation import mutated_bytes

KINDS = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "MPO"]
# What Pillow reads, too, and this project does not.
FOREIGN = ["PPM", "ICO", "TGA", "PCX", "SGI", "DDS", "EPS", "ICNS", "JPEG2000", "AVIF", "MSP", "XBM", "IM", "SPIDER"]
MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "I"],
    "JPEG": ["L", "RGB", "CMYK"],
    "WEBP": ["RGB", "RGBA"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I;16", "I", "F"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
    "GIF": ["L", "P", "RGB", "RGBA"],
    "MPO": ["RGB"],
}


@cache
def folder() -> Path:
    """A folder that stays until the process ends."""
    return Path(tempfile.mkdtemp(prefix="fuzz-images-"))


def picture(rng: random.Random, mode: str, width: int, height: int) -> Image.Image:
    """Some picture of a mode."""
    generator = np.random.default_rng(rng.randrange(1 << 30))
    if mode in ("I;16", "I", "F"):
        kind = {"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode]
        values = generator.integers(0, rng.choice([2, 256, 60_000]), (height, width)).astype(kind)
        if mode == "F" and rng.random() < 0.3:
            values[0, 0] = rng.choice([np.nan, np.inf, -np.inf, 3e38])
        return Image.fromarray(values)
    plain = Image.fromarray(generator.integers(0, 256, (height, width, 3)).astype(np.uint8))
    if mode == "LAB":
        return Image.merge("LAB", plain.split())
    return plain.convert("RGBA").convert(mode) if mode in ("LA",) else plain.convert(mode)


def encoded(rng: random.Random, kind: str) -> bytes:
    """A file of a format, in one of its modes, now and then turned, animated or with other options."""
    width, height = rng.randrange(1, 40), rng.randrange(1, 40)
    mode = rng.choice(MODES.get(kind, ["RGB"]))
    image, out = picture(rng, mode, width, height), io.BytesIO()
    options: dict = {}
    if kind in ("PNG", "JPEG", "WEBP", "TIFF") and rng.random() < 0.4:
        exif = Image.Exif()
        exif[0x0112] = rng.randrange(12)
        options["exif"] = exif
    if kind in ("PNG", "WEBP", "GIF", "TIFF", "MPO") and rng.random() < 0.2:
        options |= {"save_all": True, "append_images": [picture(rng, mode, width, height)]}
    if kind == "TIFF":
        options["compression"] = rng.choice([None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg", "raw"])
    if kind == "JPEG":
        options |= {"progressive": rng.random() < 0.3, "quality": rng.randrange(1, 100)}
    try:
        image.save(out, kind, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SystemError, TypeError):
        out = io.BytesIO()
        image.convert("RGB").save(out, "PNG" if kind in FORMATS else "PPM")
    return out.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    """A chunk of a PNG, with its checksum."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, data: bytes, depth: int = 8, colour: int = 6) -> bytes:
    """A PNG with any header and any packed data."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def lying(rng: random.Random) -> bytes:
    """A few bytes whose header says that they are an enormous image."""
    width, height = rng.choice([(50_000, 50_000), (65_535, 65_535), (64_000_001, 1), (8001, 8000), (16_383, 16_383)])
    kind = rng.randrange(6)
    if kind in (1, 5) and width > 65_535:
        width, height = 65_535, 65_535
    if kind == 0:
        return png(width, height, zlib.compress(bytes(100)))
    if kind == 1:
        screen = struct.pack("<HH", width, height) + b"\x80\x00\x00"
        return b"GIF89a" + screen + bytes(6) + b"," + bytes(9) + b"\x02\x00;"
    if kind == 2:
        info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)
        return b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + info + bytes(9)
    if kind == 3:
        size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
        return b"RIFF\x20\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00" + bytes(4) + size + bytes(20)
    if kind == 4:
        entries = [
            (256, 4, width),
            (257, 4, height),
            (258, 3, 8),
            (259, 3, 1),
            (262, 3, 1),
            (273, 4, 200),
            (279, 4, 50),
        ]
        body = b"".join(struct.pack("<HHII", tag, form, 1, value) for tag, form, value in entries)
        return b"II*\x00\x08\x00\x00\x00" + struct.pack("<H", len(entries)) + body + bytes(200)
    out = io.BytesIO()
    Image.new("RGB", (8, 8)).save(out, "JPEG")
    data = bytearray(out.getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def bomb(rng: random.Random) -> bytes:
    """A small file of many pixels, all of which it really has."""
    side = rng.choice([500, 1500, 2500])
    if rng.random() < 0.5:
        return png(side, side, zlib.compress(bytes((4 * side + 1) * side), 9))
    out = io.BytesIO()
    Image.new("L", (side, side)).save(out, rng.choice(["WEBP", "GIF", "TIFF", "JPEG"]), quality=1)
    return out.getvalue()


def check(data: bytes, foreign: bool = False) -> None:
    """Raises where a file is neither read right nor refused with one line."""
    path = folder() / "a.png"
    path.write_bytes(data)
    answers = []
    for read in (image_size, read_rgb):
        try:
            answers.append(read(path))
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
            answers.append(None)
    kind = media_type(path)
    assert kind == "application/octet-stream" or kind in FORMATS.values()
    size, pixels = answers
    if pixels is not None:
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.flags.c_contiguous
        assert size == (pixels.shape[1], pixels.shape[0]) and pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS
        assert not foreign


def image(rng: random.Random) -> None:
    """Whole images of every format and mode: each is read, or is one line."""
    check(encoded(rng, rng.choice(KINDS)))


def damaged_image(rng: random.Random) -> None:
    """Images of which some bytes are others."""
    check(mutated_bytes(rng, encoded(rng, rng.choice(KINDS)), 12))


def lying_header(rng: random.Random) -> None:
    """Headers of enormous images, damaged now and then."""
    data = lying(rng)
    check(mutated_bytes(rng, data, 3) if rng.random() < 0.5 else data)


def image_bomb(rng: random.Random) -> None:
    """Small files that are large inside."""
    check(bomb(rng))


def foreign_image(rng: random.Random) -> None:
    """What this project reads no more: files of other formats, in wrappers too, and files that are no image."""
    kind = rng.choice([*FOREIGN, "IPTC", "noise"])
    if kind == "IPTC":
        inner = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 50 50\n%%EndComments\nshowpage\n"
        head = b"".join(
            bytes([0x1C, *tag]) + struct.pack(">H", len(value)) + value
            for tag, value in [
                ((3, 60), b"\x01\x01"),
                ((3, 20), b"\x00\x32"),
                ((3, 30), b"\x00\x32"),
                ((3, 120), b"\x01"),
            ]
        )
        check(head + bytes([0x1C, 8, 10]) + struct.pack(">H", len(inner)) + inner, foreign=True)
    elif kind == "noise":
        check(rng.randbytes(rng.randrange(200)))
    else:
        data = encoded(rng, kind)
        check(data, foreign=not data.startswith(b"\x89PNG"))


SURFACES = {
    "image": image,
    "damaged-image": damaged_image,
    "lying-header": lying_header,
    "image-bomb": image_bomb,
    "foreign-image": foreign_image,
}
