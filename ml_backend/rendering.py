"""Crops on which an annotator judges a mask: the object with context, its outline, a light fill."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ml_backend.images import read_rgb
from ml_backend.rle import decode_window

# Yellow is told apart from every other colour by all three kinds of colour blindness, and the dark
# edge beside it keeps the outline visible on bright ground.
LIGHT = np.array([255, 225, 0], np.float32)
DARK = np.array([0, 0, 0], np.float32)
GROUND = 96  # grey outside the image


@dataclass(frozen=True)
class CropStyle:
    """How a crop is drawn.

    size: length of the crop's longer side in pixels. context: margin on each side of the box, as a fraction of
    its longer side. fill: opacity of the fill, 0 for the outline alone. outline: width of the light line in
    pixels. max_zoom: an object is enlarged at most so many times. max_gain: a dark crop is brightened at most
    so many times. quality: of the JPEG.
    """

    size: int = 256
    context: float = 0.4
    fill: float = 0.13
    outline: int = 2
    max_zoom: float = 12.0
    max_gain: float = 4.0
    quality: int = 85


class ImageCache:
    """Decoded images, the least recently used dropped beyond `limit` bytes; safe between threads.

    Several threads asking for one image at once decode it once.
    """

    def __init__(self, limit: int = 512 << 20):
        self.limit = limit
        self._images: OrderedDict[tuple[str, int], np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._loading: dict[tuple[str, int], threading.Lock] = {}

    def get(self, path: str | Path) -> np.ndarray:
        """The image at `path` as (height, width, 3) uint8; read again when the file has changed. Raises InputError."""
        try:
            key = (str(path), Path(path).stat().st_mtime_ns)
        except OSError:
            return read_rgb(path)  # which says what is wrong
        with self._lock:
            if key in self._images:
                self._images.move_to_end(key)
                return self._images[key]
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            with self._lock:
                if key in self._images:
                    return self._images[key]
            try:
                image = read_rgb(path)
            finally:
                with self._lock:
                    self._loading.pop(key, None)
            image.flags.writeable = False
            with self._lock:
                self._images[key] = image
                self._bytes += image.nbytes
                while self._bytes > self.limit and len(self._images) > 1:
                    self._bytes -= self._images.popitem(last=False)[1].nbytes
            return image


def crop_window(box: Sequence[float], width: int, height: int, style: CropStyle) -> tuple[int, int, int, int]:
    """The square x0, y0, x1, y1 in pixels shown for `box` (x, y, width, height) in an image of width x height.

    It is moved inside the image where it fits, so that a box at the border keeps its context.
    """
    x, y, w, h = (float(v) for v in box)
    side = max(max(w, h) * (1 + 2 * style.context), style.size / style.max_zoom, 2)
    side = int(np.ceil(side))
    x0, y0 = (
        int(np.clip(round(start + extent / 2 - side / 2), 0, whole - side)) if side <= whole else -((side - whole) // 2)
        for start, extent, whole in ((x, w, width), (y, h, height))
    )
    return x0, y0, x0 + side, y0 + side


def render_crop(image: np.ndarray, box: Sequence[float], rle: dict, style: CropStyle | None = None) -> bytes:
    """A square JPEG of the mask `rle` with its surroundings.

    image: (height, width, 3) uint8. box: x, y, width, height in pixels. rle: {"size", "counts"}.
    """
    style = style or CropStyle()
    height, width = image.shape[:2]
    return _draw(image, rle, crop_window(box, width, height, style), (style.size, style.size), style)


def render_whole(image: np.ndarray, box: Sequence[float], rle: dict, style: CropStyle | None = None) -> bytes:
    """A JPEG of the whole image with the mask outlined and framed, its longer side scaled to `style.size`."""
    style = style or CropStyle(size=1280)
    height, width = image.shape[:2]
    scale = min(style.size / max(height, width), style.max_zoom)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    x, y, w, h = (float(v) * scale for v in box)
    # Wide enough around a small mask to catch the eye where the picture is shown small.
    margin = max(0.35 * max(w, h), style.size / 25)
    frame = (round(x - margin), round(y - margin), round(x + w + margin), round(y + h + margin))
    return _draw(image, rle, (0, 0, width, height), size, style, frame)


def _draw(
    image: np.ndarray,
    rle: dict,
    window: tuple[int, int, int, int],
    size: tuple[int, int],
    style: CropStyle,
    frame: tuple[int, int, int, int] | None = None,
) -> bytes:
    x0, y0, x1, y1 = window
    height, width = image.shape[:2]
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        region = np.full((y1 - y0, x1 - x0, 3), GROUND, np.uint8)
        inner = image[max(y0, 0) : y1, max(x0, 0) : x1]
        region[max(-y0, 0) : max(-y0, 0) + inner.shape[0], max(-x0, 0) : max(-x0, 0) + inner.shape[1]] = inner
    else:
        region = np.ascontiguousarray(image[y0:y1, x0:x1])
    picture = brightened(np.array(_resized(Image.fromarray(region), size)), style.max_gain)
    mask = decode_window(rle, x0, y0, x1, y1)
    shape = np.asarray(_resized(Image.fromarray(mask.astype(np.uint8) * 255), size)) >= 128
    if not shape.any():
        # Scaled down, a mask of a few pixels can vanish; then its pixels are drawn as they fall.
        ys, xs = np.nonzero(mask)
        shape = np.zeros((size[1], size[0]), bool)
        shape[(ys * size[1] // (y1 - y0)), (xs * size[0] // (x1 - x0))] = True
    _paint(picture, shape, style)
    drawn = Image.fromarray(picture)
    if frame is not None:
        line = max(2, style.size // 250)
        pen = ImageDraw.Draw(drawn)
        x0, y0, x1, y1 = frame
        pen.rectangle((x0 - line, y0 - line, x1 + line, y1 + line), outline=(0, 0, 0), width=3 * line)
        pen.rectangle(frame, outline=tuple(int(v) for v in LIGHT), width=line)
    out = io.BytesIO()
    drawn.save(out, "JPEG", quality=style.quality, subsampling=0)
    return out.getvalue()


def brightened(picture: np.ndarray, max_gain: float = CropStyle.max_gain) -> np.ndarray:
    """A dark picture, (height, width, 3) uint8, times what brings its brightest parts to 3/4 of full; others as is.

    Fluorescence images often use a fraction of their range, and a mask on black cannot be judged.
    """
    bright = float(np.percentile(picture[::4, ::4].max(axis=2), 99))
    gain = min(192 / max(bright, 1), max_gain)
    if gain <= 1.5:
        return picture
    return np.minimum(picture * np.float32(gain), 255).astype(np.uint8)


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if picture.size == size:
        return picture
    shrinks = picture.width > size[0]
    # Reducing first by a whole number keeps large windows cheap.
    return picture.resize(
        size, Image.Resampling.BILINEAR if shrinks else Image.Resampling.BICUBIC, reducing_gap=2.0 if shrinks else None
    )


def _paint(picture: np.ndarray, shape: np.ndarray, style: CropStyle) -> None:
    """Fill and outline into `picture`. The lines lie outside the mask, so that none of the object is covered."""
    rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
    if len(rows) == 0:
        return
    reach = style.outline + 2
    part = (
        slice(max(rows[0] - reach, 0), rows[-1] + reach + 1),
        slice(max(columns[0] - reach, 0), columns[-1] + reach + 1),
    )
    shape, view = shape[part], picture[part]
    light = _grown(shape, style.outline)
    dark = _grown(light, 1)
    if style.fill:
        view[shape] = view[shape] * np.float32(1 - style.fill) + LIGHT * np.float32(style.fill)
    view[dark & ~light] = DARK
    view[light & ~shape] = LIGHT


def _grown(shape: np.ndarray, steps: int) -> np.ndarray:
    """`shape` grown by `steps` pixels, by turns to 4 and to 8 neighbours, which is close to round."""
    for step in range(steps):
        grown = shape.copy()
        grown[1:] |= shape[:-1]
        grown[:-1] |= shape[1:]
        across = grown if step % 2 else shape
        grown2 = grown.copy()
        grown2[:, 1:] |= across[:, :-1]
        grown2[:, :-1] |= across[:, 1:]
        shape = grown2
    return shape
