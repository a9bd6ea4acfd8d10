"""Reading images, with one-line errors."""

from __future__ import annotations

import struct
import zlib
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ml_backend.errors import InputError

# A decompression bomb is refused before it is decoded; 4000x3000 is 12 million pixels.
MAX_PIXELS = 200_000_000
# What a browser may show of them. SVG is none of these, for it is a program too.
_SHOWN = {
    "AVIF": "image/avif",
    "BMP": "image/bmp",
    "GIF": "image/gif",
    "ICO": "image/x-icon",
    "JPEG": "image/jpeg",
    "JPEG2000": "image/jp2",
    "MPO": "image/jpeg",
    "PNG": "image/png",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
}
# What Pillow's readers raise on damaged files; some of them have errors of their own, below RuntimeError.
_DAMAGED = (
    ArithmeticError,
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


def read_rgb(path: str | Path) -> np.ndarray:
    """The image at `path` as (height, width, 3) uint8 RGB, turned upright by its EXIF orientation.

    Raises InputError where the file is missing, unreadable, truncated, or over `MAX_PIXELS`.
    """
    path = Path(path)
    try:
        with Image.open(path, formats=_formats()) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InputError(path, f"an image of at most {MAX_PIXELS} pixels", f"{image.width}x{image.height}")
            image.load()
            return _rgb8(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise InputError(path, "an image file", "no such file") from None
    except UnidentifiedImageError:
        raise InputError(path, "an image file", "a file that is no image") from None
    except _DAMAGED as error:
        if isinstance(error, InputError):
            raise
        raise InputError(path, "a readable image", str(error) or type(error).__name__) from None


def image_size(path: str | Path) -> tuple[int, int]:
    """(width, height) of the upright image at `path`, read from its header. Raises InputError like `read_rgb`."""
    path = Path(path)
    try:
        with Image.open(path, formats=_formats()) as image:
            width, height = image.size
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (height, width) if turned else (width, height)
    except FileNotFoundError:
        raise InputError(path, "an image file", "no such file") from None
    except _DAMAGED as error:
        raise InputError(path, "a readable image", str(error) or type(error).__name__) from None


def media_type(path: str | Path) -> str:
    """The type of the image at `path` by its content, whatever it is called; of other files that of mere bytes."""
    try:
        with Image.open(path, formats=tuple(_SHOWN.keys() & set(_formats()))) as image:
            return _SHOWN[image.format or ""]
    except _DAMAGED:
        return "application/octet-stream"


@cache
def _formats() -> tuple[str, ...]:
    """What is read: all that Pillow reads by itself. For EPS it starts Ghostscript, which runs what the file says."""
    Image.preinit()
    Image.init()
    return tuple(name for name in Image.ID if name != "EPS")


def _rgb8(image: Image.Image) -> np.ndarray:
    """8-bit RGB. Pillow clips 16-bit greyscale instead of scaling it, so that is done here."""
    if image.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        grey = np.asarray(image, np.float64)
        low, high = float(grey.min()), float(grey.max())
        grey = (grey - low) * (255.0 / max(high - low, 1.0)) if high > 255 or low < 0 else grey
        return np.repeat(np.clip(grey, 0, 255).astype(np.uint8)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(ground, rgba).convert("RGB"))
    return np.asarray(image.convert("RGB"))
