"""How the masks of the demo's detector go wrong: drawn from the true masks of the scenes, as a real one errs.

An object is found whole, nearly, in half, shifted, together with its neighbour, under another class's name, or not at
all; and things of no class are found too. Which of these befalls an object follows from its luck, drawn once for the
object, and from the detector's error, so that a better detector makes some of the same mistakes and no new ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

# Of each mistake the share of objects that it befalls at an error of 1; the others are found well.
SHARES = {"missed": 0.10, "near": 0.17, "halved": 0.08, "merged": 0.08, "shifted": 0.07, "misnamed": 0.10}
FOUND_OF_NO_CLASS = 0.7  # share of the things of no class that are taken for objects, at an error of 1
STAINS = 1.4  # pieces of bare ground in an image that are taken for objects, on average, at an error of 1
WELL, NEARLY = 0.45, 1.9  # pixels by which an outline strays, found well and nearly
MARGIN = 14  # pixels around a mask in which it may stray
LEAST_PIXELS = 40
NEAR = 4  # pixels between two objects that are neighbours


@dataclass(frozen=True)
class Thing:
    """Something that lies in an image: its class, 0 for none, and its visible mask, bool (h, w)."""

    class_id: int
    mask: np.ndarray


@dataclass(frozen=True)
class Found:
    """A mask that the detector finds: as which class, bool (h, w), and whether of an object of that class."""

    class_id: int
    mask: np.ndarray
    of_class: bool


def find(things: list[Thing], classes: list[int], error: dict[int, float], seed: list[int]) -> Iterator[Found]:
    """What a detector with this error of each class, 0 to 1, finds in an image; the seed is the image's."""
    for number, thing in enumerate(things):
        rng = np.random.default_rng([*seed, number])
        found = _of_object(thing, things, classes, error, rng) if thing.class_id else _of_none(thing, error, rng)
        if found is not None and found.mask.sum() >= LEAST_PIXELS:
            yield found
    rng = np.random.default_rng([*seed, len(things)])
    mean = float(np.mean([error[c] for c in classes]))
    for luck, place in zip(rng.random(4), rng.random((4, 4)), strict=True):
        stain = _stain(things, place, rng)
        if luck < STAINS * mean / 4 and stain.sum() >= LEAST_PIXELS:
            yield Found(likely_class(stain), stain, of_class=False)


def _of_object(
    thing: Thing, things: list[Thing], classes: list[int], error: dict[int, float], rng: np.random.Generator
) -> Found | None:
    """What is found of an object; None where it is missed."""
    luck, kind, mask = rng.random(), thing.class_id, thing.mask
    fate, below = "well", 0.0
    for name, share in SHARES.items():
        below += share * error[kind]
        if luck < below:
            fate = name
            break
    if fate == "missed":
        return None
    if fate == "near":
        return Found(kind, strayed(mask, NEARLY, rng), of_class=True)
    if fate == "halved":
        return Found(kind, strayed(halved(mask, rng), WELL, rng), of_class=True)
    if fate == "merged":
        neighbour = _neighbour(thing, things)
        whole = halved(mask, rng) if neighbour is None else mask | neighbour.mask
        return Found(kind, strayed(whole, WELL, rng), of_class=True)
    if fate == "shifted":
        return Found(kind, strayed(shifted(mask, rng), WELL, rng), of_class=True)
    if fate == "misnamed":
        others = [c for c in classes if c != kind]
        return Found(int(rng.choice(others)) if others else kind, strayed(mask, WELL, rng), of_class=not others)
    return Found(kind, strayed(mask, WELL * (0.6 + error[kind]), rng), of_class=True)


def _of_none(thing: Thing, error: dict[int, float], rng: np.random.Generator) -> Found | None:
    """What is found of a thing of no class: it is taken for what it looks like."""
    kind = likely_class(thing.mask)
    if rng.random() >= FOUND_OF_NO_CLASS * error.get(kind, 1.0):
        return None
    return Found(kind, strayed(thing.mask, WELL, rng), of_class=False)


def likely_class(mask: np.ndarray) -> int:
    """The class of `campaign.demo.shapes` that a mask looks like: long a bolt, with a hole a washer, else a button."""
    y, x = np.nonzero(mask)
    spread = np.sqrt(np.linalg.eigvalsh(np.cov(np.stack([x, y])) + 1e-6 * np.eye(2)))
    if spread[1] > 1.6 * spread[0]:
        return 3
    return 4 if mask[int(y.mean()), int(x.mean())] else 1


def strayed(mask: np.ndarray, pixels: float, rng: np.random.Generator) -> np.ndarray:
    """The mask with an outline that strays by so many pixels: here inside, there outside, and on the whole a little."""
    window = _window(mask)
    inside = np.pad(mask[window], 1).astype(np.uint8)
    distance = cv2.distanceTransform(inside, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - inside, cv2.DIST_L2, 3)
    waves = np.asarray(cv2.GaussianBlur(rng.standard_normal(distance.shape, np.float32), (0, 0), 3.5))
    waves = waves * (pixels / max(float(waves.std()), 1e-6))
    middle = distance - 0.5 * np.sign(distance)  # the outline lies between two pixels
    result = np.zeros_like(mask)
    result[window] = (middle + waves + rng.normal(0, pixels / 2) > 0)[1:-1, 1:-1]
    return result


def halved(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The part of a mask on one side of a line through it."""
    y, x = np.nonzero(mask)
    turn = rng.uniform(0, 2 * np.pi)
    along = np.cos(turn) * x + np.sin(turn) * y
    keep = along >= np.quantile(along, rng.uniform(0.3, 0.55))
    result = np.zeros_like(mask)
    result[y[keep], x[keep]] = True
    return result


def shifted(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mask moved by a sixth to a third of its length."""
    y, x = np.nonzero(mask)
    far = max(np.ptp(y), np.ptp(x)) * rng.uniform(0.16, 0.34)
    turn = rng.uniform(0, 2 * np.pi)
    y, x = y + round(far * np.sin(turn)), x + round(far * np.cos(turn))
    keep = (y >= 0) & (x >= 0) & (y < mask.shape[0]) & (x < mask.shape[1])
    result = np.zeros_like(mask)
    result[y[keep], x[keep]] = True
    return result


def _neighbour(thing: Thing, things: list[Thing]) -> Thing | None:
    """Another thing beside it, the one that touches it most; None where it lies alone."""
    window = _window(thing.mask)
    kernel = np.ones((2 * NEAR + 1, 2 * NEAR + 1), np.uint8)
    reach = cv2.dilate(thing.mask[window].astype(np.uint8), kernel).astype(bool)
    touching = [(int((other.mask[window] & reach).sum()), n) for n, other in enumerate(things) if other is not thing]
    most, number = max(touching, default=(0, 0))
    return things[number] if most else None


def _stain(things: list[Thing], place: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A blot on the ground where nothing lies, bool (h, w)."""
    height, width = things[0].mask.shape if things else (0, 0)
    blot = np.zeros((height, width), np.uint8)
    if not height:
        return blot.astype(bool)
    axes = (int(8 + 12 * place[2]), int(8 + 12 * place[3]))
    cv2.ellipse(blot, (int(place[0] * width), int(place[1] * height)), axes, rng.uniform(0, 180), 0, 360, 1, -1)
    taken = np.any([thing.mask for thing in things], axis=0)
    blot &= ~taken.astype(np.uint8) & 1
    return strayed(blot.astype(bool), 1.0, rng) & ~taken if blot.sum() >= LEAST_PIXELS else blot.astype(bool)


def _window(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of a mask, with a margin around it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = max(rows[0] - MARGIN, 0), max(columns[0] - MARGIN, 0)
    return np.s_[top : rows[-1] + MARGIN + 1, left : columns[-1] + MARGIN + 1]
