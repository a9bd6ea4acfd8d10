"""Small grey pictures of images, the parts of them that a crop may have left, and the hashes of both.

A hash is of the signs of the lowest frequencies of the discrete cosine transform: pictures that show the same differ in
few of its bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
from scipy.fft import dct

SIDE = 32  # pixels of the small picture
LOW = 8  # frequencies in each direction of which a hash is made
# Parts of a picture that a crop may have left: what it lost of each side together, and where it lies, from 0 to 1.
_BY_LOST = {0.0: (0.5,), **dict.fromkeys((0.025, 0.05, 0.085), (0.0, 0.5, 1.0))}
INSIDES = [(lost, y, x) for lost, places in _BY_LOST.items() for y in places for x in places]


def small_picture(pixels: np.ndarray) -> np.ndarray:
    """The small grey picture of an image (h, w, 3) uint8: the mean of each of SIDE x SIDE equal parts."""
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def hashes(small: np.ndarray) -> np.ndarray:
    """The perceptual hashes of (n, SIDE, SIDE) float32 pictures and of their insides, (insides, n) uint64."""
    codes = np.empty((len(INSIDES), len(small)), np.uint64)
    for number, low in enumerate(seen(small, cosines())):
        flat = np.ascontiguousarray(low.reshape(len(small), -1)[:, 1:65])  # without the mean
        middle = np.sort(flat, axis=1)[:, 31:33].mean(1, keepdims=True)
        codes[number] = np.packbits(flat > middle, axis=1).view(np.uint64).reshape(-1)
    return codes


def seen(small: np.ndarray, basis: np.ndarray) -> Iterator[np.ndarray]:
    """(n, SIDE, SIDE) pictures, then their insides drawn to the same size, each as (n, k, k) in a basis (k, SIDE).

    All is linear: what is drawn of an inside, and the basis, make one matrix for rows and one for columns.
    """
    k, standing = len(basis), np.ascontiguousarray(small.transpose(1, 0, 2)).reshape(SIDE, -1)
    for lost, places in _BY_LOST.items():
        across = np.concatenate([basis @ _drawn(lost, x) for x in places]).T  # (SIDE, places * k)
        for y in places:
            down = (basis @ _drawn(lost, y)) @ standing
            found = (down.reshape(-1, SIDE) @ across).reshape(k, len(small), len(places), k)
            yield from found.transpose(2, 1, 0, 3)


@cache
def cosines() -> np.ndarray:
    """The lowest frequencies of the orthonormal discrete cosine transform, (LOW + 1, SIDE)."""
    return dct(np.eye(SIDE), axis=0, norm="ortho")[: LOW + 1].astype(np.float32)


@cache
def _drawn(lost: float, at: float) -> np.ndarray:
    """The matrix (SIDE, SIDE) that draws what is left of one side, having lost so much of it and lying there."""
    if not lost:
        return np.eye(SIDE, dtype=np.float32)
    low, share = _places(lost, at)
    matrix = np.zeros((SIDE, SIDE), np.float32)
    matrix[np.arange(SIDE), low] = 1 - share
    matrix[np.arange(SIDE), low + 1] += share
    return matrix


def _places(lost: float, at: float) -> tuple[np.ndarray, np.ndarray]:
    """The pixels before the places of a part's pixels, and how far behind them these are."""
    places = at * lost * SIDE + (1 - lost) * (np.arange(SIDE) + 0.5) - 0.5
    low = np.clip(np.floor(places).astype(int), 0, SIDE - 2)
    return low, (places - low).astype(np.float32)
