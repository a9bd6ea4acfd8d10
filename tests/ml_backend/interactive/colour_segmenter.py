"""A segmenter without a network: regions of one colour around positive clicks, less those around negative ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ml_backend.errors import InputError
from ml_backend.interactive.segmenter import Click, Prompt, Proposal


@dataclass(frozen=True)
class Pixels:
    image: np.ndarray

    @property
    def height(self) -> int:
        return self.image.shape[0]

    @property
    def width(self) -> int:
        return self.image.shape[1]

    @property
    def nbytes(self) -> int:
        return self.image.nbytes


class ColourSegmenter:
    """Pure: the mask follows from picture and prompt. A box takes the commonest colour around its middle."""

    version = "colour-1"

    def __init__(self) -> None:
        self.encoded = 0

    def encode(self, image: np.ndarray) -> Pixels:
        self.encoded += 1
        return Pixels(image.astype(np.int16))

    def segment(self, encoding: Pixels, prompt: Prompt) -> Proposal:
        if prompt.box is None and not prompt.clicks and prompt.previous is None:
            raise InputError("prompt", "a box, a click or a mask", "none")
        shape = encoding.image.shape[:2]
        mask = np.zeros(shape, bool) if prompt.previous is None else prompt.previous.copy()
        if prompt.box is not None and not prompt.clicks:
            x0, y0, x1, y1 = (round(v) for v in prompt.box)
            inside = encoding.image[y0:y1, x0:x1]
            corner = encoding.image[y0, x0]
            mask[y0:y1, x0:x1] = np.abs(inside - corner).max(axis=2) > 40
        elif prompt.clicks:
            region = self._region(encoding.image, prompt.clicks[-1])
            mask = mask | region if prompt.clicks[-1].positive else mask & ~region
        return Proposal(mask, 0.9, 1.0)

    def _region(self, image: np.ndarray, click: Click) -> np.ndarray:
        y, x = (min(int(v), side - 1) for v, side in zip((click.y, click.x), image.shape[:2], strict=True))
        alike = np.abs(image - image[y, x]).max(axis=2) <= 20
        numbers, _ = ndimage.label(alike)
        return numbers == numbers[y, x]

    @classmethod
    def load(cls, checkpoint: Path, **options: Any) -> ColourSegmenter:
        return cls()

    @classmethod
    def train(cls, data: Any, heldout: Any, output: Path, *, options: dict, progress: Any = None) -> Path:
        return output
