"""Reading images, with one-line errors: the only place that does.

Whoever adds a task chooses its image, so only formats that Pillow reads by itself are, within a limit of pixels that
the header must keep before anything is decoded, and within a budget of memory that all threads share.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

# Named one by one: Pillow's own way of finding formats loads what starts other programs or opens images in images.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from ml_backend.errors import InputError
from ml_backend.masks.budgets import Budget, machine_share
from ml_backend.masks.fetched import beginning, present
from ml_backend.masks.limits import MAX_PIXELS

# What is read, and what a browser may be told that it is. SVG is none of these, for it is a program too. Of several
# pictures in a file the first one is read.
FORMATS = {
    "BMP": "image/bmp",
    "GIF": "image/gif",
    "JPEG": "image/jpeg",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
}
# An MPO is a JPEG with more pictures behind it, and Pillow's reader of JPEG sees to it.
_READERS = tuple(name for name in FORMATS if name != "MPO")
# Bytes for each pixel that decoding takes at most: the decoder's own, Pillow's and the array.
_BYTES_PER_PIXEL = 16
# Pixels that are turned to RGB at a time.
_BAND = 1 << 20
_ORIENTATION = 0x0112
_DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I", "F")
# What Pillow's readers raise on damaged files; some of them have errors of their own, below RuntimeError.
_DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,  # a header may lie about the size
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
HEADER = 1 << 18  # bytes of an image in an object store that are asked for to know its size
_budget = Budget(machine_share())


def read_rgb(path: str | Path) -> np.ndarray:
    """The image at `path` as (height, width, 3) uint8 RGB, turned upright by its EXIF orientation.

    One that lies in an object store is fetched first, see `ml_backend.masks.fetched`.
    Of an animation the first picture; 16 bits are scaled to 8, transparent pixels are white. Raises InputError where
    the file is missing, of no format in `FORMATS`, unreadable, truncated, or over `MAX_PIXELS`.
    """
    with ExitStack() as held:
        with _opened(path) as image:
            held.enter_context(_budget.hold(_BYTES_PER_PIXEL * image.width * image.height))
            orientation = _orientation(image)
            image.load()
            pixels = _rgb8(image)
        del image  # before its pixels are copied once more
        return _upright(pixels, orientation)


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of the upright image at `path`, read from its header. Raises InputError like `read_rgb`.

    Of one that lies in an object store the beginning is asked for, and the rest only where that does not say it.
    """
    if (head := beginning(path, HEADER)) is not None:
        with suppress(InputError), _read(Path(path), BytesIO(head)) as image:
            return _upright_size(image)
    with _opened(path) as image:
        return _upright_size(image)


def _upright_size(image: Image.Image) -> tuple[int, int]:
    width, height = _stored_size(image)
    return (height, width) if _orientation(image) >= 5 else (width, height)


def media_type(path: str | Path) -> str:
    """The type of the image at `path` by its content, whatever it is called; of other files that of mere bytes."""
    try:
        with _opened(path) as image:
            return FORMATS[image.format or ""]
    except (InputError, KeyError):
        return "application/octet-stream"


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """The image at `path`, of a size that may be decoded; whatever its reader raises within becomes an InputError."""
    path = present(path)
    try:
        # Pillow would map a file that it is given by name: wrongly where a TIFF lies on its side, and fatally where the
        # file grows shorter meanwhile.
        file = path.open("rb")
    except FileNotFoundError:
        raise InputError(path, "an image file", "no such file") from None
    except OSError as error:
        raise InputError(path, "a readable image", str(error) or type(error).__name__) from None
    with file, _read(path, file) as image:
        yield image


@contextmanager
def _read(path: Path, file: IO[bytes]) -> Iterator[Any]:
    try:
        with _image(path, file) as image:
            _check_size(path, *image.size)
            yield image
    except InputError:
        raise
    except UnidentifiedImageError:
        expected = f"an image file ({', '.join(_READERS)})"
        raise InputError(path, expected, "a file that is no image") from None
    except Image.DecompressionBombError:
        raise InputError(path, f"an image of at most {MAX_PIXELS} pixels", "a larger one") from None
    except _DAMAGED as error:
        raise InputError(path, "a readable image", str(error) or type(error).__name__) from None


def _image(path: Path, file: IO[bytes]) -> Image.Image:
    head = file.read(30)
    file.seek(0)
    _check_webp(path, head)
    return Image.open(file, formats=_READERS)


def _check_webp(path: Path, head: bytes) -> None:
    """Raises InputError where a WebP is too large: its reader takes memory for all pixels as it opens the file."""
    if head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) == 30:
        _check_size(path, 1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little"))
    elif head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8L" and len(head) == 30:
        bits = int.from_bytes(head[21:25], "little")
        _check_size(path, 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    elif head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8 " and len(head) == 30:
        width, height = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        _check_size(path, width, height)


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InputError(path, f"an image of at most {MAX_PIXELS} pixels", f"{width}x{height}")


def _orientation(image: Image.Image) -> int:
    """How an image lies, as EXIF counts it from 1 to 8; 1, upright, where it does not say.

    It is taken out of the image: Pillow turns a TIFF as it loads it, and twice where it is one of several.
    """
    getattr(image, "is_animated", False)  # of a TIFF this reads the header anew
    exif = image.getexif()
    value = exif.get(_ORIENTATION, 1)
    if _ORIENTATION in exif:
        del exif[_ORIENTATION]
    return value if type(value) is int and 1 <= value <= 8 else 1


def _stored_size(image: Image.Image) -> tuple[int, int]:
    """(width, height) as they lie in the file. Of a TIFF Pillow says them turned, in some versions."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(image.tag_v2[TiffImagePlugin.IMAGEWIDTH]), int(image.tag_v2[TiffImagePlugin.IMAGELENGTH])
    return image.size


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """`pixels` turned and mirrored from an EXIF orientation to 1."""
    if orientation == 1:
        return pixels
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def _rgb8(image: Image.Image) -> np.ndarray:
    """8-bit RGB, a band of rows at a time: each step that Pillow takes would copy the whole image."""
    width, height = image.im.size
    levels = _levels(image) if image.mode in _DEEP else None
    out = np.empty((height, width, 3), np.uint8)
    for top, band in _bands(image):
        out[top : top + band.height] = _rgb8_band(band) if levels is None else _grey8(band, *levels)
    return out


def _bands(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    width, height = image.im.size
    rows = max(_BAND // width, 1)
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))


def _rgb8_band(image: Image.Image) -> np.ndarray:
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(ground, rgba).convert("RGB"))
    return np.asarray(image.convert("RGB"))


def _levels(image: Image.Image) -> tuple[float, float]:
    """The value that becomes black, and by what the others are multiplied; (0, 1) for values of 8 bits."""
    low, high = np.inf, -np.inf
    for _, band in _bands(image):
        values = np.asarray(band)
        values = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    if high > 255 or low < 0:
        return low, 255.0 / max(high - low, 1.0)
    return 0.0, 1.0


def _grey8(image: Image.Image, low: float, scale: float) -> np.ndarray:
    """Pillow clips 16-bit greyscale instead of scaling it, so that is done here."""
    grey = (np.asarray(image, np.float64) - low) * scale
    grey = np.clip(np.nan_to_num(grey, nan=0.0, posinf=255.0, neginf=0.0), 0, 255)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
