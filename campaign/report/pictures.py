"""Pictures of masks on their images, for pages about COCO files whose images may lie anywhere, or nowhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pycocotools import mask as mask_util

from ml_backend.errors import InputError
from ml_backend.masks.coco import ImageRecord
from ml_backend.masks.rendering import LIGHT, CropStyle, ImageCache, crop_window, render_part

SIDE = 220
OURS, THEIRS = LIGHT, (255, 144, 30)  # blue, green, red: yellow, and a blue that no eye takes for it
_EMPTY = 110  # grey where the image is not to be had


class Pictures:
    """Renders masks on the images in `folders`, which are looked through by file name and then by base name.

    `missing` counts the images that were not found or not read; their masks are drawn on grey.
    """

    def __init__(self, folders: Sequence[Path]):
        self._folders = folders
        self._cache = ImageCache(256 << 20)
        self._missing: set[str] = set()

    @property
    def missing(self) -> int:
        """Images that could not be had."""
        return len(self._missing)

    def render(self, image: ImageRecord, masks: Sequence[tuple[dict, tuple[int, int, int]]]) -> bytes:
        """A JPEG of the part of the image with these masks (RLE, colour), the last on top."""
        boxes = mask_util.toBbox([rle for rle, _ in masks])
        low, high = boxes[:, :2].min(axis=0), (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
        style = CropStyle(size=SIDE, fill=0.16, max_zoom=8)
        x0, y0, x1, y1 = crop_window((*low, *(high - low)), image.width, image.height, style)
        window = max(x0, 0), max(y0, 0), min(x1, image.width), min(y1, image.height)
        side = max(window[2] - window[0], window[3] - window[1])
        outline = max(2, round(2.5 * side / SIDE))
        return render_part(self._image(image), window, masks, replace(style, outline=outline), most=2 * SIDE)

    def _image(self, image: ImageRecord) -> np.ndarray:
        for folder in self._folders:
            for name in (image.file_name, Path(image.file_name).name):
                path = folder / name
                if not path.is_file():
                    continue
                try:
                    pixels = self._cache.get(path)
                except InputError:
                    continue
                if pixels.shape[:2] == (image.height, image.width):
                    return pixels
        self._missing.add(image.file_name)
        return np.full((image.height, image.width, 3), _EMPTY, np.uint8)


def image_folders(given: Path | None, *files: Path) -> list[Path]:
    """Where images may lie: in the folder that was given, else in or beside `images` next to the files.

    Raises InputError where the given folder is none.
    """
    if given is not None:
        if not given.is_dir():
            raise InputError(given, "a folder of images", "no such folder")
        return [given]
    return list(dict.fromkeys(place for file in files for place in (file.parent / "images", file.parent)))
