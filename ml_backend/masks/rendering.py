"""Crops on which an annotator judges a mask: the object with context, its outline, a light fill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from ml_backend.kept import Kept
from ml_backend.masks.fetched import present
from ml_backend.masks.images import read_rgb
from ml_backend.masks.rle import decode_window

# Yellow is distinct from every other colour to all three kinds of colour blindness, and the dark
# edge beside it keeps the outline visible on bright ground.
LIGHT = (0, 225, 255)  # blue, green, red
DARK = (0, 0, 0)
GROUND = 96  # grey outside the image
SHEET_COLUMNS = 5  # of the crops of a page in one picture; the screen counts on it
_SAMPLING_444 = 0x111111  # cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444, whose name some builds lack


@dataclass(frozen=True)
class CropStyle:
    """How a crop is drawn.

    size: length of the crop's longer side in pixels. context: margin on each side of the box, as a fraction of
    its longer side. fill: opacity of the fill, 0 for the outline alone. outline: width of the light line in
    pixels. max_zoom: an object is enlarged at most so many times. max_gain: a dark crop is brightened at most
    so many times. quality: of the JPEG. colour: of outline and fill, as blue, green, red.
    """

    size: int = 256
    context: float = 0.4
    fill: float = 0.13
    outline: int = 2
    max_zoom: float = 12.0
    max_gain: float = 4.0
    quality: int = 85
    colour: tuple[int, int, int] = LIGHT


@dataclass(frozen=True)
class Tile:
    """A mask on its image: (height, width, 3) uint8, the box x, y, width, height, and the RLE {"size", "counts"}."""

    image: np.ndarray
    box: Sequence[float]
    rle: dict


class ImageCache:
    """Decoded images, the least recently used dropped beyond `limit` bytes; safe between threads.

    Several threads asking for one image at once decode it once.
    """

    def __init__(self, limit: int = 512 << 20):
        self.limit = limit
        self._images: Kept[tuple[str, int], np.ndarray] = Kept(limit)

    def get(self, path: str | Path) -> np.ndarray:
        """The image at `path` as (height, width, 3) uint8; read again when the file has changed. Raises InputError."""
        path = present(path)
        try:
            key = (str(path), path.stat().st_mtime_ns)
        except OSError:
            return read_rgb(path)  # which says what is wrong
        return self._images.get(key, lambda: _unchangeable(read_rgb(path)))


def _unchangeable(image: np.ndarray) -> np.ndarray:
    image.flags.writeable = False
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
    return _jpeg(_drawn(image, rle, crop_window(box, width, height, style), (style.size, style.size), style), style)


def render_sheet(tiles: Sequence[Tile | None], style: CropStyle | None = None) -> bytes:
    """A JPEG of the crops of several masks, `SHEET_COLUMNS` in a row; grey for None."""
    style = style or CropStyle()
    rows = -(-len(tiles) // SHEET_COLUMNS)
    sheet = np.full((rows * style.size, SHEET_COLUMNS * style.size, 3), GROUND, np.uint8)
    for place, tile in enumerate(tiles):
        if tile is None:
            continue
        height, width = tile.image.shape[:2]
        window = crop_window(tile.box, width, height, style)
        y, x = (style.size * n for n in divmod(place, SHEET_COLUMNS))
        sheet[y : y + style.size, x : x + style.size] = _drawn(
            tile.image, tile.rle, window, (style.size, style.size), style
        )
    return _jpeg(sheet, style)


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
    return _jpeg(_drawn(image, rle, (0, 0, width, height), size, style, frame), style)


def render_part(
    image: np.ndarray,
    window: tuple[int, int, int, int],
    masks: Sequence[tuple[dict, tuple[int, int, int]]],
    style: CropStyle | None = None,
    most: int | None = None,
) -> bytes:
    """A JPEG of the part x0, y0, x1, y1 of an image with every mask outlined in its colour.

    image: (height, width, 3) uint8. masks: RLEs {"size", "counts"} with a colour (blue, green, red) each. A small part
    is enlarged by a whole number, as often as its longer side fits into `style.size`; a picture whose longer side has
    more than `most` pixels is made smaller.
    """
    style = style or CropStyle(size=1280, fill=0.22, outline=3, quality=90)
    x0, y0, x1, y1 = window
    scale = int(min(max(style.size // max(x1 - x0, y1 - y0), 1), style.max_zoom))
    size = (x1 - x0) * scale, (y1 - y0) * scale
    picture = cv2.resize(np.ascontiguousarray(image[y0:y1, x0:x1]), size, interpolation=cv2.INTER_CUBIC)
    picture = cv2.cvtColor(brightened(picture, style.max_gain), cv2.COLOR_RGB2BGR)
    for rle, colour in masks:
        mask = decode_window(rle, x0, y0, x1, y1).view(np.uint8)
        left, top, width, height = cv2.boundingRect(mask)
        if not width:
            continue
        # Room around it for the lines, as far as the part reaches.
        reach = -(-(style.outline + 3) // scale) + 1
        left, right = max(left - reach, 0), min(left + width + reach, x1 - x0)
        top, bottom = max(top - reach, 0), min(top + height + reach, y1 - y0)
        here = np.ascontiguousarray(mask[top:bottom, left:right]) * np.uint8(255)
        large = cv2.resize(here, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        shape = cv2.threshold(large, 127, 1, cv2.THRESH_BINARY)[1]
        view = picture[top * scale : bottom * scale, left * scale : right * scale]
        _paint(view, shape, replace(style, colour=colour))
    if most is not None and max(size) > most:
        smaller = [max(1, round(side * most / max(size))) for side in size]
        picture = cv2.resize(picture, (smaller[0], smaller[1]), interpolation=cv2.INTER_AREA)
    return _jpeg(picture, style)


def _drawn(
    image: np.ndarray,
    rle: dict,
    window: tuple[int, int, int, int],
    size: tuple[int, int],
    style: CropStyle,
    frame: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """A window of an image with the mask on it, in `size` (width, height), as blue, green, red."""
    x0, y0, x1, y1 = window
    height, width = image.shape[:2]
    region = image[max(y0, 0) : y1, max(x0, 0) : x1]
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        around = (max(-y0, 0), max(y1 - height, 0), max(-x0, 0), max(x1 - width, 0))
        region = cv2.copyMakeBorder(region, *around, cv2.BORDER_CONSTANT, value=(GROUND,) * 3)
    picture = _resized(region, size)
    picture = cv2.cvtColor(brightened(picture, style.max_gain), cv2.COLOR_RGB2BGR)
    mask = decode_window(rle, x0, y0, x1, y1).view(np.uint8)
    shape = cv2.threshold(_resized(mask * np.uint8(255), size), 127, 1, cv2.THRESH_BINARY)[1]
    if not cv2.countNonZero(shape):
        # Scaled down, a mask of a few pixels can vanish; then its pixels are drawn as they fall.
        ys, xs = np.nonzero(mask)
        shape[ys * size[1] // (y1 - y0), xs * size[0] // (x1 - x0)] = 1
    _paint(picture, shape, style)
    if frame is not None:
        line = max(2, style.size // 250)
        cv2.rectangle(picture, frame[:2], frame[2:], DARK, 3 * line)
        cv2.rectangle(picture, frame[:2], frame[2:], LIGHT, line)
    return picture


def _jpeg(picture: np.ndarray, style: CropStyle) -> bytes:
    # All colour is kept, as the outline's would bleed into its surroundings otherwise.
    options = [cv2.IMWRITE_JPEG_QUALITY, style.quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, _SAMPLING_444]
    return cv2.imencode(".jpg", picture, options)[1].tobytes()


def brightened(picture: np.ndarray, max_gain: float = CropStyle.max_gain) -> np.ndarray:
    """A dark picture, (height, width, 3) uint8, times what brings its brightest parts to 3/4 of full; others as is.

    Fluorescence images often use a fraction of their range, and a mask on black cannot be judged.
    """
    step = max(1, min(picture.shape[:2]) // 64)
    bright = float(np.percentile(picture[::step, ::step].max(axis=2), 99))
    gain = min(192 / max(bright, 1), max_gain)
    return picture if gain <= 1.5 else cv2.convertScaleAbs(picture, alpha=gain)


def _resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`picture` in (width, height). Averaging is slow, and pays only where several pixels fall on one."""
    return cv2.resize(
        picture, size, interpolation=cv2.INTER_AREA if picture.shape[1] >= 2 * size[0] else cv2.INTER_LINEAR
    )


def _paint(picture: np.ndarray, shape: np.ndarray, style: CropStyle) -> None:
    """Fill and outline into `picture` (BGR). The lines lie outside the mask, so that none of the object is covered."""
    x, y, w, h = cv2.boundingRect(shape)
    if w == 0:
        return
    reach = style.outline + 2
    part = (slice(max(y - reach, 0), y + h + reach), slice(max(x - reach, 0), x + w + reach))
    shape, view = np.ascontiguousarray(shape[part]), picture[part]
    light = cv2.dilate(shape, _disc(style.outline))
    dark = cv2.dilate(light, _disc(1))
    if style.fill:
        filled = cv2.addWeighted(view, 1 - style.fill, np.full_like(view, style.colour), style.fill, 0)
        cv2.copyTo(filled, shape, view)
    cv2.copyTo(np.full_like(view, DARK), cv2.subtract(dark, light), view)
    cv2.copyTo(np.full_like(view, style.colour), cv2.subtract(light, shape), view)


@lru_cache(maxsize=16)
def _disc(radius: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
