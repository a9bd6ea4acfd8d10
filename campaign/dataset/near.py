"""Pairs of pictures that show the same, among millions of them.

Candidates are pairs of which the hash of one picture is nearly that of the other or of a part of it, for a cropped copy
looks like the inside of its original: hashes that share a band lie in one bucket, where each of a whole picture is held
against those that follow. A candidate is then held against the other by correlation. Most are there by chance, and
their lowest frequencies alone show that they cannot be alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from campaign.clustering.compiled import njit
from campaign.clustering.walks import union_find_root
from campaign.dataset.pictures import INSIDES, SIDE, cosines, hashes, seen

BANDS = 4  # of a hash, 16 bits each
WIDTH = 64 // BANDS
BITS = 14  # of 64 in which two hashes may differ
BUCKET = 256  # hashes of one band that are paired with each whole picture of it, at most
ALIKE = 0.92  # correlation from which two pictures show the same
PLAIN = 3.0  # grey levels of deviation below which a picture shows nothing to compare
# An image that has so many pairs gets another only where that joins it to others: all images of a blank form are alike.
PARTNERS = 32
BLOCK = 2048  # pictures, or pairs of them, that are worked on at a time
CANDIDATES = 1 << 25  # pairs that are looked through at a time
_FOUND = 1 << 20  # pairs that the compiled walk hands over at a time, at least
_ROUNDING = 1e-3  # of a correlation in single precision, and more


def near_pairs(small: np.ndarray) -> np.ndarray:
    """Pairs of rows of (n, SIDE, SIDE) uint8 small pictures that show the same, (k, 2), each once and in order.

    Of many more than `PARTNERS` that all show the same each has at least so many pairs, not all, by which they hang
    together as they do by all. Pictures are read in blocks, so that they may lie on disk; what is held of each are its
    hashes, 224 bytes, and some 40 more.
    """
    flat = np.asarray(small).reshape(len(small), SIDE * SIDE)
    sums, deviations = np.empty(len(flat)), np.empty(len(flat))
    for low in range(0, len(flat), BLOCK):
        block = slice(low, low + BLOCK)
        sums[block], deviations[block] = flat[block].sum(1), flat[block].std(1)
    rows = np.flatnonzero(deviations >= PLAIN)
    if len(rows) < 2:
        return np.zeros((0, 2), np.int64)
    pictures = _Pictures(flat, rows, sums[rows], deviations[rows] * SIDE)
    groups = _Groups(np.arange(len(rows)), np.zeros(len(rows), np.int32))
    found = np.zeros(0, np.int64)
    for part in candidates(pictures.hashes(), groups.parent, groups.partners):
        pairs = _unpacked(np.setdiff1d(part, found, assume_unique=True))
        alike = np.concatenate(list(_alike(pictures, groups, pairs)))
        found = np.concatenate([found, alike[:, 0] << 32 | alike[:, 1]])
    return rows[_unpacked(np.sort(found))]


@dataclass(frozen=True)
class _Pictures:
    """The pictures in some `rows` (n,) of `flat`: the sum of each one's grey levels, and the norm of what differs."""

    flat: np.ndarray
    rows: np.ndarray
    sums: np.ndarray
    norms: np.ndarray

    def at(self, places: np.ndarray | slice) -> np.ndarray:
        """Some of them, (m, SIDE, SIDE) float32."""
        return self.flat[self.rows[places]].reshape(-1, SIDE, SIDE).astype(np.float32)

    def hashes(self) -> np.ndarray:
        """Those of all and of their insides, (insides, n) uint64."""
        codes = np.empty((len(INSIDES), len(self.rows)), np.uint64)
        for low in range(0, len(self.rows), BLOCK):
            codes[:, low : low + BLOCK] = hashes(self.at(slice(low, low + BLOCK)))
        return codes


@dataclass(frozen=True)
class _Groups:
    """Which pictures hang together by the pairs found so far, as a forest, and of how many pairs each is."""

    parent: np.ndarray
    partners: np.ndarray

    def joined(self, pairs: np.ndarray) -> np.ndarray:
        """The pairs (k, 2), all alike, that bring something; takes them in."""
        return pairs[_join(pairs, self.parent, self.partners)]

    def open(self, pairs: np.ndarray) -> np.ndarray:
        """The pairs (k, 2) that would bring something if they were alike."""
        return pairs[_open(pairs, self.parent, self.partners)]


def candidates(codes: np.ndarray, parent: np.ndarray, partners: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs of pictures of which the hash of one is nearly that of the other, or of one of its insides.

    Each is one number, (k,) int64 in order: the smaller picture in the higher half.

    `codes` (insides, n) begin with those of the whole pictures. Pairs are sought among hashes that share a band, in the
    order of pictures within insides: each whole one's with the `BUCKET` - 1 that follow it. What brings nothing by the
    groups as they are then (`parent`, `partners`) is left out. A pair may be there again in a later part.
    """
    found: list[np.ndarray] = []
    for band in range(BANDS):
        code, picture, start, whole = _bucketed(codes, np.uint64(WIDTH * band))
        at = np.zeros(2, np.int64)  # the bucket that is looked through, and how many of its whole ones were
        while at[0] < len(whole):
            out = np.empty(max(_FOUND, BUCKET), np.int64)
            count = _in_buckets(code, picture, start, whole, at, parent, partners, out)
            found.append(np.unique(out[:count]))
            if sum(map(len, found)) >= CANDIDATES:
                yield np.unique(np.concatenate(found))
                found = []
    if found:
        yield np.unique(np.concatenate(found))


def _unpacked(pairs: np.ndarray) -> np.ndarray:
    return np.stack([pairs >> 32, pairs & 0xFFFFFFFF], axis=1)


@njit(cache=True, nogil=True)
def _bucketed(
    codes: np.ndarray, shift: np.uint64
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:  # pragma: no cover - compiled
    """(hash, its picture) in order of one band's value, (where each value's begin, how many are of whole pictures).

    Of insides only as many are there as the last whole picture of their bucket is compared with.
    """
    mask = np.uint64((1 << WIDTH) - 1)
    whole = np.zeros(1 << WIDTH, np.int64)
    for code in codes[0]:
        whole[(code >> shift) & mask] += 1
    room = whole.copy()
    for inside in codes[1:]:
        for code in inside:
            key = (code >> shift) & mask
            if whole[key] and room[key] < whole[key] + BUCKET - 1:
                room[key] += 1
    start = np.zeros(len(room) + 1, np.int64)
    start[1:] = np.cumsum(room)
    free = start[:-1].copy()
    sorted_codes, picture = np.empty(start[-1], np.uint64), np.empty(start[-1], np.uint32)
    for inside in codes:
        for n in range(len(inside)):
            key = (inside[n] >> shift) & mask
            place = free[key]
            if place < start[key + 1]:
                sorted_codes[place], picture[place] = inside[n], n
                free[key] = place + 1
    return sorted_codes, picture, start, whole


@njit(cache=True, nogil=True)
def _in_buckets(
    code: np.ndarray, picture: np.ndarray, start: np.ndarray, whole: np.ndarray, at: np.ndarray,
    parent: np.ndarray, partners: np.ndarray, out: np.ndarray,
) -> int:  # pragma: no cover - compiled # fmt: skip
    """Writes pairs as `candidates` names them, from where `at` says on; moves `at`, returns their number.

    It ends where all were looked through, or `out` may be full.
    """
    count = 0
    while at[0] < len(whole):
        key = at[0]
        while at[1] < whole[key]:
            if count + BUCKET > len(out):
                return count
            one = start[key] + at[1]
            at[1] += 1
            for other in range(one + 1, min(one + BUCKET, start[key + 1])):
                if _bits(code[one] ^ code[other]) <= BITS:
                    a, b = np.int64(picture[one]), np.int64(picture[other])
                    if a != b and _brings(a, b, parent, partners):
                        out[count] = min(a, b) << 32 | max(a, b)
                        count += 1
        at[0] += 1
        at[1] = 0
    return count


@njit(cache=True, nogil=True)
def _bits(value: np.uint64) -> np.uint64:  # pragma: no cover - compiled
    """How many bits are set, counted in pairs, fours and bytes at once."""
    value -= (value >> np.uint64(1)) & np.uint64(0x5555555555555555)
    value = (value & np.uint64(0x3333333333333333)) + ((value >> np.uint64(2)) & np.uint64(0x3333333333333333))
    value = (value + (value >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return (value * np.uint64(0x0101010101010101)) >> np.uint64(56)


@njit(cache=True, nogil=True)
def _brings(a: int, b: int, parent: np.ndarray, partners: np.ndarray) -> bool:  # pragma: no cover - compiled
    """Whether a pair is one of the first of either picture, or joins what did not hang together."""
    if partners[a] < PARTNERS or partners[b] < PARTNERS:
        return True
    return union_find_root(parent, a) != union_find_root(parent, b)


@njit(cache=True, nogil=True)
def _open(pairs: np.ndarray, parent: np.ndarray, partners: np.ndarray) -> np.ndarray:  # pragma: no cover - compiled
    brings = np.zeros(len(pairs), np.bool_)
    for n in range(len(pairs)):
        brings[n] = _brings(pairs[n, 0], pairs[n, 1], parent, partners)
    return brings


@njit(cache=True, nogil=True)
def _join(pairs: np.ndarray, parent: np.ndarray, partners: np.ndarray) -> np.ndarray:  # pragma: no cover - compiled
    brings = np.zeros(len(pairs), np.bool_)
    for n in range(len(pairs)):
        brings[n] = _taken(pairs[n, 0], pairs[n, 1], parent, partners)
    return brings


@njit(cache=True, nogil=True)
def _taken(a: int, b: int, parent: np.ndarray, partners: np.ndarray) -> bool:  # pragma: no cover - compiled
    """Takes a pair in, where it brings something; whether it did."""
    brings = _brings(a, b, parent, partners)
    if brings:
        partners[a] += 1
        partners[b] += 1
        parent[union_find_root(parent, b)] = union_find_root(parent, a)
    return brings


def _alike(pictures: _Pictures, groups: _Groups, pairs: np.ndarray) -> Iterator[np.ndarray]:
    """Those of the pairs (k, 2) that show the same, as they are found, without what brings nothing."""
    same, left = _wholes(
        pictures.flat, pictures.rows, pictures.sums, pictures.norms, pairs, groups.parent, groups.partners
    )
    yield pairs[same]
    left_over = pairs[left]
    left_over = left_over[_may_be_alike(pictures, left_over)]
    for low in range(0, len(left_over), BLOCK):
        some = groups.open(left_over[low : low + BLOCK])
        yield groups.joined(some[_correlation(pictures, some) >= ALIKE])


@njit(cache=True, nogil=True)
def _wholes(
    flat: np.ndarray, rows: np.ndarray, sums: np.ndarray, norms: np.ndarray, pairs: np.ndarray,
    parent: np.ndarray, partners: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # pragma: no cover - compiled # fmt: skip
    """(which pairs are surely alike as wholes and bring something, which are still to be looked at), (k,) bool each."""
    same, left = np.zeros(len(pairs), np.bool_), np.zeros(len(pairs), np.bool_)
    for n in range(len(pairs)):
        a, b = pairs[n, 0], pairs[n, 1]
        if not _brings(a, b, parent, partners):
            continue
        one, other = flat[rows[a]], flat[rows[b]]
        product = np.int64(0)
        for k in range(len(one)):
            product += np.int64(one[k]) * np.int64(other[k])
        if (product - sums[a] * sums[b] / len(one)) / (norms[a] * norms[b]) >= ALIKE + _ROUNDING:
            same[n] = _taken(a, b, parent, partners)
        else:
            left[n] = True
    return same, left


def _may_be_alike(pictures: _Pictures, pairs: np.ndarray) -> np.ndarray:
    """Which of the pairs (k, 2) their lowest frequencies do not keep from being alike, (k,) bool.

    A whole picture of norm 1 has a part `x` in the lowest frequencies, where an inside of the other has the direction
    `u`. Whatever the inside is beyond them, its correlation is at most sqrt((x u)^2 + 1 - x^2).
    """
    may = np.zeros(len(pairs), bool)
    ones, others = np.concatenate([pairs, pairs[:, ::-1]]).T
    order = np.argsort(others, kind="stable")
    for low in range(0, len(order), BLOCK):
        some = order[low : low + BLOCK]
        which, place = np.unique(others[some], return_inverse=True)
        insides = _low(seen(pictures.at(which), cosines()), len(INSIDES), len(which))
        whole = _low(seen(pictures.at(ones[some]), cosines()), 1, len(some))[0]
        whole /= pictures.norms[ones[some], None].astype(np.float32)
        most = _largest(whole, insides, place.reshape(-1))
        beyond = np.maximum(1 - np.einsum("ij,ij->i", whole, whole), 0)
        may[some[most**2 + beyond >= (ALIKE - _ROUNDING) ** 2] % len(pairs)] = True
    return may


def _low(pictures: Iterator[np.ndarray], count: int, each: int) -> np.ndarray:
    """The first `count` of what is seen of `each` pictures in low frequencies, without the mean, (count, each, d)."""
    low = np.empty((count, each, len(cosines()) ** 2), np.float32)
    for number, part in enumerate(islice(pictures, count)):
        low[number] = part.reshape(each, -1)
    low[:, :, 0] = 0
    return low


@njit(cache=True, nogil=True, fastmath=True)
def _largest(whole: np.ndarray, insides: np.ndarray, place: np.ndarray) -> np.ndarray:  # pragma: no cover - compiled
    """The largest product of each (k, d) with the direction of an inside (insides, m, d) of its picture, or 0, (k,)."""
    most = np.zeros(len(whole), np.float32)
    for n in range(len(whole)):
        for inside in range(len(insides)):
            product, square = np.float32(0), np.float32(1e-12)
            for k in range(whole.shape[1]):
                part = insides[inside, place[n], k]
                product += whole[n, k] * part
                square += part * part
            most[n] = max(most[n], product / np.sqrt(square))
    return most


def _correlation(pictures: _Pictures, pairs: np.ndarray) -> np.ndarray:
    """The highest correlation of a whole picture with the other of its pair (k, 2) or with an inside of it, (k,)."""
    best = np.full(len(pairs), -1.0, np.float32)
    identity = np.eye(SIDE, dtype=np.float32)
    for one, other in ((0, 1), (1, 0)):
        which, place = np.unique(pairs[:, other], return_inverse=True)
        whole = _standard(pictures.at(pairs[:, one]))
        for inside in seen(pictures.at(which), identity):
            seen_so = _standard(inside)[place.reshape(-1)]
            best = np.maximum(best, np.einsum("ij,ij->i", whole, seen_so))
    return best


def _standard(pictures: np.ndarray) -> np.ndarray:
    """Pictures (n, h, w) as vectors (n, h * w) whose dot product is Pearson's correlation."""
    flat = pictures.reshape(len(pictures), -1)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
