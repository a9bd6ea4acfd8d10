"""Pairs of pictures that show the same, against all pairs looked at one by one."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from campaign.dataset import near
from campaign.dataset.near import ALIKE, BANDS, BITS, BUCKET, PARTNERS, candidates, near_pairs
from campaign.dataset.pictures import INSIDES, SIDE, hashes, seen

EYE = np.eye(SIDE, dtype=np.float32)


def nearly(codes):
    """Pairs of pictures by their hashes (insides, n): buckets as lists, each whole one's with those after it."""
    n, found = codes.shape[1], set()
    flat = [(int(code), number % n, number < n) for number, code in enumerate(codes.reshape(-1))]
    for band in range(BANDS):
        buckets = {}
        for row in flat:
            buckets.setdefault(row[0] >> 16 * band & 0xFFFF, []).append(row)
        for bucket in buckets.values():
            for place, (code, one, whole) in enumerate(bucket):
                for other_code, other, _ in bucket[place + 1 : place + BUCKET] if whole else ():
                    if one != other and (code ^ other_code).bit_count() <= BITS:
                        found.add((min(one, other), max(one, other)))
    return found


def correlated(small, pairs):
    """Those of the pairs of which one picture is the other, or an inside of it, by correlation."""
    parts = np.stack(list(seen(small.astype(np.float32), EYE))).reshape(len(INSIDES), len(small), -1)
    parts = parts - parts.mean(2, keepdims=True)
    parts /= np.linalg.norm(parts, axis=2, keepdims=True)
    return {
        (a, b) for a, b in pairs if max((parts[:, a] @ parts[0, b]).max(), (parts[:, b] @ parts[0, a]).max()) >= ALIKE
    }


def brute_force(small):
    return correlated(small, nearly(hashes(small.astype(np.float32))))


def as_set(pairs):
    return {tuple(pair) for pair in pairs.tolist()}


def groups(pairs, n):
    """The number of each picture's group, by pairs; in order of the first of each."""
    a, b = np.array(sorted(pairs)).T
    label = connected_components(csr_array((np.ones(len(a)), (a, b)), shape=(n, n)), directed=False)[1]
    return np.unique(label, return_index=True)[1][label].tolist()


def found_candidates(codes):
    n = codes.shape[1]
    parts = list(candidates(codes, np.arange(n), np.zeros(n, np.int32)))
    return {(pair >> 32, pair & 0xFFFFFFFF) for part in parts for pair in part.tolist()}


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 25), st.integers(1, 6), st.integers(0, 24))
def test_candidates_are_those_of_all_pairs_that_share_a_bucket(seed, n, kinds, flipped):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**64, kinds, np.uint64)[rng.integers(0, kinds, (len(INSIDES), n))]
    for _ in range(flipped):
        codes ^= (rng.random(codes.shape) < 0.5) * (np.uint64(1) << rng.integers(0, 64, codes.shape, np.uint64))
    assert found_candidates(codes) == nearly(codes)


def test_in_a_full_bucket_each_is_compared_with_those_that_follow():
    rng = np.random.default_rng(4)
    codes = np.zeros((len(INSIDES), 300), np.uint64)
    codes[1:] = rng.integers(0, 2**20, codes[1:].shape, np.uint64) << np.uint64(30)
    assert found_candidates(codes) == nearly(codes)


def pictures(rng, n, blocks):
    """Pictures of square blocks; of some of them, what JPEG, resizing and crops may leave."""
    each = SIDE // blocks
    small = rng.integers(0, 256, (n, blocks, blocks)).repeat(each, 1).repeat(each, 2).astype(float)
    insides = list(seen(small.astype(np.float32), EYE))
    for row in range(1, n):
        if rng.random() < 0.6:
            source = insides[rng.integers(len(insides))][rng.integers(row)]
            small[row] = source + rng.normal(0, rng.choice([1, 20, 40]), (SIDE, SIDE))
    return small.clip(0, 255).astype(np.uint8)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 4, 8, 16]))
def test_the_pairs_are_those_that_brute_force_finds(seed, blocks):
    small = pictures(np.random.default_rng(seed), PARTNERS, blocks)
    assert as_set(near_pairs(small)) == brute_force(small)


def test_many_that_show_the_same_hang_together_by_few_pairs(monkeypatch):
    monkeypatch.setattr(near, "CANDIDATES", 1000)
    rng = np.random.default_rng(9)
    n, kinds = 300, 2
    forms = rng.integers(0, 256, (kinds, 4, 4)).repeat(8, 1).repeat(8, 2)
    small = (forms[rng.integers(0, kinds, n)] + rng.normal(0, 4, (n, SIDE, SIDE))).clip(0, 255).astype(np.uint8)
    few, all_pairs = as_set(near_pairs(small)), brute_force(small)
    assert few < all_pairs and len(few) < n * (PARTNERS + 1)
    assert groups(few, n) == groups(all_pairs, n)


@pytest.mark.parametrize("blocks", [2, 4, 8])
def test_what_the_lowest_frequencies_rule_out_is_not_alike(blocks):
    small = pictures(np.random.default_rng(blocks), 60, blocks)
    flat = small.reshape(60, -1)
    seen_so = near._Pictures(flat, np.arange(60), flat.sum(1).astype(float), flat.std(1) * SIDE)
    pairs = np.array(list(combinations(range(60), 2)))
    may = as_set(pairs[near._may_be_alike(seen_so, pairs)])
    assert correlated(small, as_set(pairs)) <= may and len(may) < len(pairs) / 2
