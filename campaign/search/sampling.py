"""Samples that follow from a seed alone, the same on every NumPy version and platform."""

from __future__ import annotations

import numpy as np


def draw_keys(seed: int, salt: int, leaves: np.ndarray) -> np.ndarray:
    """Random 64-bit keys of leaves, (k,) uint64: a uniform sample is the k leaves with the smallest keys.

    A hash (SplitMix64) rather than a generator, so a sample is the same on every NumPy version and platform.
    """
    mixed = _scramble(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64))
    mixed = _scramble(mixed ^ np.uint64((salt + 1) & 0xFFFFFFFFFFFFFFFF))
    return _scramble(leaves.astype(np.uint64) ^ mixed)


def _scramble(x: np.ndarray) -> np.ndarray:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
