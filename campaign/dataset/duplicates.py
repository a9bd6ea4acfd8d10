"""Images of the same bytes, and images that show the same: saved again, resized or slightly cropped.

An image's signature is the digest of its file and a small grey picture of it. Near duplicates are sought by perceptual
hashes (signs of the lowest frequencies of the discrete cosine transform) of the small picture and of parts of it, for a
cropped copy looks like the inside of its original, and each candidate is then held against the other by correlation.
Everything here is a function of the signatures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.fft import dctn

SIDE = 32  # pixels of the small picture
LOW = 8  # frequencies in each direction of which a hash is made
# Parts of a picture that a crop may have left: what it lost of each side together, and where it lies, from 0 to 1.
_LOST = (0.025, 0.05, 0.085)
INSIDES = ((0.0, 0.5, 0.5), *((lost, y, x) for lost in _LOST for y in (0.0, 0.5, 1.0) for x in (0.0, 0.5, 1.0)))
BANDS = 4  # of a hash, 16 bits each
ALIKE = 0.92  # correlation from which two images show the same
PLAIN = 3.0  # grey levels of deviation below which a picture shows nothing to compare
PAIRS_AT_ONCE = 1 << 14
BITS = 14  # of 64 in which two hashes may differ
BUCKET = 256  # hashes of one band that are paired with each whole picture of it, at most


@dataclass(frozen=True)
class Signatures:
    """n images: `image_id` (n,), `digest` (n, 16) uint8 of the file, and `small` (n, SIDE, SIDE) uint8."""

    image_id: np.ndarray
    digest: np.ndarray
    small: np.ndarray

    def __len__(self) -> int:
        return len(self.image_id)


@dataclass(frozen=True)
class Duplicates:
    """`copy_of` is {image: the first image of the same bytes}; `alike` (k, 2) are pairs of images that show the same.

    The pairs are of images that are no copies of others.
    """

    copy_of: dict[int, int]
    alike: np.ndarray

    def groups(self) -> dict[int, int]:
        """{image: the first image of its group} of all images that have a copy or show the same as another."""
        first: dict[int, int] = {}

        def root(image: int) -> int:
            while image in first and first[image] != image:
                image = first[image]
            return image

        for a, b in [*self.copy_of.items(), *self.alike.tolist()]:
            one, other = sorted((root(a), root(b)))
            first[one] = first[other] = one
            for image in (a, b):
                first.setdefault(image, one)
        return {image: root(image) for image in first}


def small_picture(pixels: np.ndarray) -> np.ndarray:
    """The small grey picture of an image (h, w, 3) uint8: the mean of each of SIDE x SIDE equal parts."""
    import cv2

    grey = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (SIDE, SIDE), interpolation=cv2.INTER_AREA)


def find_duplicates(signatures: Signatures) -> Duplicates:
    """Copies and near duplicates among images. Of the images of the same bytes the first counts, by order."""
    whole = np.ascontiguousarray(signatures.digest).view("V16").reshape(-1)
    _, first, of = np.unique(whole, return_index=True, return_inverse=True)
    earliest = first[of.reshape(-1)]
    ids = signatures.image_id
    rows = np.flatnonzero(earliest != np.arange(len(signatures)))
    copies = dict(zip(ids[rows].tolist(), ids[earliest[rows]].tolist(), strict=True))
    kept = np.flatnonzero(earliest == np.arange(len(signatures)))
    pairs = near_pairs(signatures.small[kept])
    return Duplicates(copies, ids[kept][pairs])


def near_pairs(small: np.ndarray) -> np.ndarray:
    """Pairs of rows of (n, SIDE, SIDE) small pictures that show the same, (k, 2), each once."""
    rows = np.flatnonzero(small.reshape(len(small), -1).std(1) >= PLAIN) if len(small) else np.zeros(0, int)
    small = small[rows].astype(np.float32)
    if len(rows) < 2:
        return np.zeros((0, 2), np.int64)
    codes = np.stack([hashes(_inside(small, *place)) for place in INSIDES])
    pairs = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *_candidates(codes)]), axis=0)
    found = [
        part[alike(small[part[:, 0]], small[part[:, 1]])]
        for part in (pairs[start : start + PAIRS_AT_ONCE] for start in range(0, len(pairs), PAIRS_AT_ONCE))
    ]
    return rows[np.concatenate([np.zeros((0, 2), np.int64), *found])]


def hashes(small: np.ndarray) -> np.ndarray:
    """The perceptual hash of each of (n, SIDE, SIDE) pictures, (n,) uint64."""
    low = dctn(small, axes=(1, 2), norm="ortho")[:, : LOW + 1, : LOW + 1].reshape(len(small), -1)[:, 1:65]
    bits = low > np.median(low, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).reshape(-1)


def alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which of k pairs of small pictures show the same, (k,) bool: one whole, the other whole or one of its insides."""
    best = np.full(len(one), -1.0, np.float32)
    for place in INSIDES:
        for a, b in ((one, other), (other, one)):
            best = np.maximum(best, _correlation(a, _inside(b, *place)))
    return best >= ALIKE


def _candidates(codes: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of images of which the hash of one is nearly that of the other, or of one of its insides.

    `codes` (insides, n) begin with those of the whole pictures. Pairs are sought among hashes that share a band.
    """
    n, flat = codes.shape[1], codes.reshape(-1)
    image, whole = np.tile(np.arange(n), len(codes)), np.repeat(np.arange(len(codes)) == 0, n)
    for band in range(BANDS):
        key = (flat >> np.uint64(64 // BANDS * band)) & np.uint64((1 << 64 // BANDS) - 1)
        order = np.lexsort([~whole, key])  # of one key the whole pictures first
        starts = np.flatnonzero(np.append(True, key[order][1:] != key[order][:-1]))
        bucket = np.repeat(np.arange(len(starts)), np.diff(np.append(starts, len(order))))
        for step in range(1, BUCKET):
            here = np.flatnonzero((bucket[step:] == bucket[:-step]) & whole[order[:-step]])
            if not len(here):
                break
            a, b = order[here], order[here + step]
            bits = np.unpackbits((flat[a] ^ flat[b]).view(np.uint8).reshape(-1, 8), axis=1).sum(1)
            fit = (image[a] != image[b]) & (bits <= BITS)
            yield np.unique(np.sort(np.stack([image[a[fit]], image[b[fit]]], axis=1), axis=1), axis=0)


def _inside(small: np.ndarray, lost: float, y: float, x: float) -> np.ndarray:
    """A part of (n, SIDE, SIDE) pictures that lost so much of each side and lies there, drawn to the same size."""
    if not lost:
        return small
    rows, columns = (_places(lost, at) for at in (y, x))
    across = small[:, :, columns[0]] * (1 - columns[1]) + small[:, :, columns[0] + 1] * columns[1]
    return across[:, rows[0]] * (1 - rows[1])[:, None] + across[:, rows[0] + 1] * rows[1][:, None]


def _places(lost: float, at: float) -> tuple[np.ndarray, np.ndarray]:
    """The pixels before the places of a part's pixels, and how far behind them these are."""
    places = at * lost * SIDE + (1 - lost) * (np.arange(SIDE) + 0.5) - 0.5
    low = np.clip(np.floor(places).astype(int), 0, SIDE - 2)
    return low, (places - low).astype(np.float32)


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each pair of pictures, (k,)."""
    a, b = ((p - p.mean((1, 2), keepdims=True)) for p in (one, other))
    norm = np.sqrt((a**2).sum((1, 2)) * (b**2).sum((1, 2)))
    return (a * b).sum((1, 2)) / np.maximum(norm, 1e-6)
