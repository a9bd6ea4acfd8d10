"""Images of the same bytes, and images that show the same: saved again, resized or slightly cropped.

An image's signature is the digest of its file and a small grey picture of it. Near duplicates are sought by perceptual
hashes (signs of the lowest frequencies of the discrete cosine transform) of the small picture and of parts of it, for a
cropped copy looks like the inside of its original, and each candidate is then held against the other by correlation.
Everything here is a function of the signatures.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.fft import dct

SIDE = 32  # pixels of the small picture
LOW = 8  # frequencies in each direction of which a hash is made
# Parts of a picture that a crop may have left: what it lost of each side together, and where it lies, from 0 to 1.
_BY_LOST = {0.0: (0.5,), **dict.fromkeys((0.025, 0.05, 0.085), (0.0, 0.5, 1.0))}
INSIDES = [(lost, y, x) for lost, places in _BY_LOST.items() for y in places for x in places]
BANDS = 4  # of a hash, 16 bits each
ALIKE = 0.92  # correlation from which two images show the same
PLAIN = 3.0  # grey levels of deviation below which a picture shows nothing to compare
BLOCK = 2048  # pictures, or pairs of them, that are worked on at a time
HASHES_AT_ONCE = 1 << 20
BITS = 14  # of 64 in which two hashes may differ
BUCKET = 256  # hashes of one band that are paired with each whole picture of it, at most

_BITS_SET = np.array([bin(value).count("1") for value in range(1 << 16)], np.uint8)


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
    """Pairs of rows of (n, SIDE, SIDE) small pictures that show the same, (k, 2), each once.

    Pictures are read in blocks, so that they may lie on disk; what is held of each are its hashes, 224 bytes.
    """
    blocks = [slice(low, low + BLOCK) for low in range(0, len(small), BLOCK)]
    shown = [np.flatnonzero(small[block].reshape(-1, SIDE * SIDE).std(1) >= PLAIN) + block.start for block in blocks]
    rows = np.concatenate([np.zeros(0, np.int64), *shown])
    if len(rows) < 2:
        return np.zeros((0, 2), np.int64)
    codes = np.empty((len(INSIDES), len(rows)), np.uint64)
    for low in range(0, len(rows), BLOCK):
        codes[:, low : low + BLOCK] = hashes(small[rows[low : low + BLOCK]].astype(np.float32))
    pairs = np.unique(np.concatenate([np.zeros((0, 2), np.int64), *_candidates(codes)]), axis=0)
    del codes
    return rows[pairs[_alike(small, rows, pairs)]]


def hashes(small: np.ndarray) -> np.ndarray:
    """The perceptual hashes of (n, SIDE, SIDE) float32 pictures and of their insides, (insides, n) uint64."""
    codes = np.empty((len(INSIDES), len(small)), np.uint64)
    for number, low in enumerate(_seen(small, _cosines())):
        flat = np.ascontiguousarray(low.reshape(len(small), -1)[:, 1:65])  # without the mean
        middle = np.partition(flat, (31, 32), axis=1)[:, 31:33].mean(1, keepdims=True)
        codes[number] = np.packbits(flat > middle, axis=1).view(np.uint64).reshape(-1)
    return codes


def _alike(small: np.ndarray, rows: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Which of these pairs (k, 2) of `rows` show the same, (k,) bool: one whole, the other whole or an inside of it."""
    best = np.full(len(pairs), -1.0, np.float32)
    identity = np.eye(SIDE, dtype=np.float32)
    for one, other in ((0, 1), (1, 0)):
        order = np.argsort(pairs[:, other], kind="stable")
        for low in range(0, len(order), BLOCK):
            some = order[low : low + BLOCK]
            which, place = np.unique(pairs[some, other], return_inverse=True)
            whole = _standard(small[rows[pairs[some, one]]].astype(np.float32))
            for inside in _seen(small[rows[which]].astype(np.float32), identity):
                seen = _standard(inside)[place.reshape(-1)]
                best[some] = np.maximum(best[some], np.einsum("ij,ij->i", whole, seen))
    return best >= ALIKE


def _standard(pictures: np.ndarray) -> np.ndarray:
    """Pictures (n, h, w) as vectors (n, h * w) whose dot product is Pearson's correlation."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def _candidates(codes: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of images of which the hash of one is nearly that of the other, or of one of its insides.

    `codes` (insides, n) begin with those of the whole pictures. Pairs are sought among hashes that share a band, for a
    part of the band's values at a time.
    """
    n, width = codes.shape[1], 64 // BANDS
    flat = codes.reshape(-1)
    for band in range(BANDS):
        keys = (flat >> np.uint64(width * band)).astype(np.uint16)
        order = np.argsort(keys, kind="stable")
        ends = np.cumsum(np.bincount(keys, minlength=1 << width))
        start = 0
        while start < len(order):  # whole buckets, `HASHES_AT_ONCE` of them or the fewest more
            end = int(ends[min(int(np.searchsorted(ends, start + HASHES_AT_ONCE)), len(ends) - 1)])
            here = order[start:end]
            yield from _in_buckets(flat[here], keys[here], here % n, here < n)
            start = end


def _in_buckets(code: np.ndarray, key: np.ndarray, image: np.ndarray, whole: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of images by hashes (m,) of one key that are alike, of which one at least is of a whole picture."""
    order = np.lexsort([~whole, key])  # of one key the whole pictures first
    code, key, image, whole = code[order], key[order], image[order], whole[order]
    begin = np.flatnonzero(whole)
    for step in range(1, BUCKET):
        begin = begin[begin + step < len(key)]
        begin = begin[key[begin] == key[begin + step]]
        if not len(begin):
            break
        differ = (code[begin] ^ code[begin + step]).view(np.uint16).reshape(-1, 4)
        near = begin[_BITS_SET[differ].sum(1, dtype=np.uint8) <= BITS]
        near = near[image[near] != image[near + step]]
        if len(near):
            yield np.unique(np.sort(np.stack([image[near], image[near + step]], axis=1), axis=1), axis=0)


def _seen(small: np.ndarray, basis: np.ndarray) -> Iterator[np.ndarray]:
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
def _cosines() -> np.ndarray:
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
