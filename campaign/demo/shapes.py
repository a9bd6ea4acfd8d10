"""The small built-in data set of the demo: hardware spread over a workbench, drawn with its ground truth.

Four classes lie in overlapping heaps: washers and nuts (rings with a hole), buttons (with two or four holes) and bolts
(long and thin, they cut what they cover into parts). Coins, O-rings, nails, plugs and painted outlines look like them
and belong to no class, so a detector makes honest mistakes; where they lie stands in a file of its own. Every picture
has its own surface, light, blur, grain and colour cast, and the same seed always draws the same pictures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as mask_util
from scipy import ndimage

CLASSES: dict[int, str] = {1: "washer", 2: "nut", 3: "bolt", 4: "button"}
SPLITS: tuple[str, ...] = ("labelled", "pool", "heldout")
LOOKALIKES = "lookalikes.json"
IMAGE_SIZES: tuple[tuple[int, int], ...] = ((256, 320), (320, 256), (288, 288), (320, 320))

_NOISE_SIDE = 512
_MIN_VISIBLE_SHARE = 0.4  # what lies on top may not hide more than the rest of an object
_MIN_VISIBLE_PIXELS = 90


def _array(values: list | np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32)


_METALS = _array(
    [
        [0.62, 0.63, 0.65],  # steel
        [0.70, 0.58, 0.32],  # brass
        [0.55, 0.58, 0.66],  # zinc, bluish
        [0.30, 0.30, 0.32],  # black oxide
        [0.66, 0.46, 0.36],  # copper
        [0.50, 0.38, 0.30],  # rust
    ]
)
_PLASTICS = _array(
    [
        [0.78, 0.16, 0.15],
        [0.15, 0.35, 0.72],
        [0.90, 0.86, 0.76],
        [0.16, 0.50, 0.28],
        [0.88, 0.62, 0.12],
        [0.40, 0.24, 0.15],
        [0.55, 0.30, 0.60],
        [0.16, 0.16, 0.18],
    ]
)


def draw_shapes(
    folder: str | Path,
    labelled: int = 32,
    pool: int = 120,
    heldout: int = 24,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Draw the data set into `folder` and return that folder.

    Writes `images/`, `labelled.json`, `pool.json` and `heldout.json`; the JSON files are COCO with compressed RLE of
    what is visible of every object. `lookalikes.json`, which comes last, has the masks of what belongs to no class, on
    the images of all splits. An image depends only on the seed, its split and its place in it, so a smaller data set is
    the beginning of a larger one.

    Args:
        folder: made if missing; files of the same names are overwritten.
        labelled: how many images of that split.
        pool: likewise.
        heldout: likewise.
        seed: any non-negative integer.
        progress: called with (images drawn, images in all).
    """
    folder = Path(folder)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    noise = _NoiseBank(np.random.default_rng(seed))
    counts = dict(zip(SPLITS, (labelled, pool, heldout), strict=True))
    total, drawn, annotation_id = sum(counts.values()), 0, 0
    every_image: list[dict] = []
    lookalikes: list[dict] = []
    for split_number, (split, count) in enumerate(counts.items()):
        images: list[dict] = []
        annotations: list[dict] = []
        for index in range(count):
            pixels, objects = draw_scene(np.random.default_rng([seed, split_number, index]), noise)
            height, width = pixels.shape[:2]
            drawn += 1
            name = f"{split}_{index:04d}.jpg"
            Image.fromarray(pixels).save(folder / "images" / name, quality=90)
            images.append({"id": drawn, "file_name": name, "width": width, "height": height, "license": 1})
            for class_id, mask in objects:
                if class_id:
                    annotation_id += 1
                    annotations.append(_annotation(annotation_id, drawn, class_id, mask))
                elif mask.any():
                    lookalikes.append(_annotation(len(lookalikes) + 1, drawn, 1, mask))
            if progress:
                progress(drawn, total)
        _write_coco(folder / f"{split}.json", images, annotations, CLASSES)
        every_image += images
    _write_coco(folder / LOOKALIKES, every_image, lookalikes, {1: "of no class"})
    return folder


def draw_scene(rng: np.random.Generator, noise: _NoiseBank) -> tuple[np.ndarray, list[tuple[int, np.ndarray]]]:
    """One picture, uint8 (h, w, 3), and what lies on it from the bottom up: (class id, visible mask, bool (h, w)).

    The class id of what belongs to no class is 0.
    """
    height, width = IMAGE_SIZES[rng.integers(len(IMAGE_SIZES))]
    canvas = _surface(rng, noise, height, width)
    light = _light(rng)
    objects: list[tuple[int, np.ndarray, int]] = []  # class id (0: of no class), visible mask, pixels if uncovered
    scale = rng.uniform(0.92, 1.08)
    heaps = rng.uniform(0.18, 0.82, (rng.integers(2, 4), 2)) * (width, height)
    kinds = [int(k) for k in rng.choice(list(CLASSES), rng.integers(12, 17))] + [0] * int(rng.integers(1, 5))
    rng.shuffle(kinds)
    for kind in kinds:
        for _ in range(4):  # a place that hides too much of another object is given up after four trials
            if rng.random() < 0.4:
                x, y = heaps[rng.integers(len(heaps))] + rng.normal(0, 40, 2)
            else:
                x, y = rng.uniform(8, width - 8), rng.uniform(8, height - 8)
            if not (4 < x < width - 4 and 4 < y < height - 4):
                continue
            piece = _draw_piece(rng, noise, kind, scale, light)
            if _lay(canvas, objects, piece, kind, int(x), int(y), light):
                break
    canvas = _photograph(rng, noise, canvas)
    return canvas, [(kind, mask) for kind, mask, _ in objects]


# The pieces. Each is drawn from coordinates u and v around its centre as a signed distance to its outline in pixels
# (negative inside), a height in pixels, a colour (h, w, 3) and a gloss.
_Drawn = tuple[np.ndarray, np.ndarray, np.ndarray, float]


@dataclass
class _Piece:
    alpha: np.ndarray  # float32 (h, w), 0..1
    color: np.ndarray  # float32 (h, w, 3), lit
    thickness: float  # in pixels, for the length of the shadow


@dataclass
class _Light:
    direction: np.ndarray  # unit vector (x, y, z) towards the light
    halfway: np.ndarray  # unit vector between light and camera
    color: np.ndarray
    ambient: float


def _draw_piece(rng: np.random.Generator, noise: _NoiseBank, kind: int, scale: float, light: _Light) -> _Piece:
    radius = scale * rng.uniform(17, 24)
    reach = int(radius * (2.0 if kind in (0, 3) else 1.25)) + 3
    grid = np.arange(-reach, reach + 1, dtype=np.float32)
    x, y = np.meshgrid(grid, grid)
    angle = rng.uniform(0, 2 * np.pi)
    tilt = rng.uniform(0.9, 1.0)  # seen slightly from the side
    u = (np.cos(angle) * x + np.sin(angle) * y).astype(np.float32)
    v = ((-np.sin(angle) * x + np.cos(angle) * y) / (1 if kind in (0, 3) else tilt)).astype(np.float32)
    draw = {1: _washer, 2: _nut, 3: _bolt, 4: _button, 0: _OF_NO_CLASS[rng.integers(len(_OF_NO_CLASS))]}[kind]
    distance, relief, color, gloss = draw(rng, u, v, radius)
    grain = noise.sample(rng, u * rng.uniform(0.5, 1.0), v * rng.uniform(2, 5))
    cloud = noise.sample(rng, x * 1.5, y * 1.5)
    bevel = 2.2 * np.sqrt(np.clip(-distance, 0, 4) / 4)
    surface = relief + bevel + 0.22 * grain + 0.5 * cloud
    color = color * (1 + 0.07 * grain + 0.09 * cloud)[..., None]
    if rng.random() < 0.12:  # a film of rust or dirt
        film = np.clip(noise.sample(rng, x * 2, y * 2) - 0.3, 0, 1)[..., None]
        color = color * (1 - 0.7 * film) + _array([0.36, 0.20, 0.10]) * 0.7 * film
    lit = _lit(surface, color, gloss, light)
    return _Piece(np.clip(0.5 - distance, 0, 1), lit, float(rng.uniform(2.5, 5.0)))


def _polygon(u: np.ndarray, v: np.ndarray, sides: int, radius: float) -> np.ndarray:
    """Signed distance to a regular polygon whose inscribed circle has the given radius."""
    turns = np.arange(sides) * (2 * np.pi / sides)
    return np.max([np.cos(t) * u + np.sin(t) * v for t in turns], axis=0) - radius


def _bar(u: np.ndarray, v: np.ndarray, left: float, right: float, half: float, corner: float) -> np.ndarray:
    du = np.abs(u - (left + right) / 2) - (right - left) / 2 + corner
    dv = np.abs(v) - half + corner
    return np.hypot(np.maximum(du, 0), np.maximum(dv, 0)) + np.minimum(np.maximum(du, dv), 0) - corner


def _metal(rng: np.random.Generator, usual: tuple[int, ...] = ()) -> np.ndarray:
    """The colour of a metal, three times of four one of the `usual` ones."""
    usual = usual if usual and rng.random() < 0.75 else tuple(range(len(_METALS)))
    return _METALS[rng.choice(usual)] * rng.uniform(0.8, 1.15)


def _washer(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float) -> _Drawn:
    r = np.hypot(u, v)
    hole = radius * rng.uniform(0.42, 0.54)
    distance = np.maximum(r - radius, hole - r)
    if rng.random() < 0.2:  # a tab washer has a tongue
        tongue = radius * rng.uniform(1.1, 1.2)
        distance = np.minimum(distance, _bar(u, v, radius * 0.8, tongue, radius * 0.22, 1.5))
    groove = 0.3 * np.cos((r - hole) / (radius - hole) * 2 * np.pi)
    return distance, groove, np.broadcast_to(_metal(rng, (0, 2)), (*u.shape, 3)), rng.uniform(0.4, 0.9)


def _nut(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float) -> _Drawn:
    r = np.hypot(u, v)
    flat = radius * 0.88
    hole = flat * rng.uniform(0.34, 0.44)
    outline = _polygon(u, v, 6, flat)
    distance = np.maximum(outline, hole - r)
    relief = 0.7 * np.clip(-outline, 0, flat * 0.3) - 1.5 * np.exp(-(((r - hole) / 2.0) ** 2))
    return distance, relief, np.broadcast_to(_metal(rng, (1, 4)), (*u.shape, 3)), rng.uniform(0.4, 0.9)


def _bolt(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float) -> _Drawn:
    length, half = radius * rng.uniform(1.7, 2.2), radius * rng.uniform(0.38, 0.46)
    head, width = radius * rng.uniform(0.5, 0.7), half * rng.uniform(1.55, 1.75)
    left = -length / 2
    shaft = _bar(u, v, left + head - 1, length / 2, half, 2.0)
    top = _bar(u, v, left, left + head, width, 1.0 if rng.random() < 0.6 else head * 0.45)
    thread = 0.8 * np.sin((u + 0.25 * v) * 2 * np.pi / rng.uniform(3.2, 4.6)) * (u > left + head)
    barrel = np.where(u > left + head, half, width)
    relief = 0.75 * np.sqrt(np.clip(barrel**2 - v**2, 0, None)) + thread
    return np.minimum(shaft, top), relief, np.broadcast_to(_metal(rng, (0, 3)), (*u.shape, 3)), rng.uniform(0.3, 0.8)


def _button(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float) -> _Drawn:
    r = np.hypot(u, v)
    count = 4 if rng.random() < 0.6 else 2
    hole, ring = radius * rng.uniform(0.11, 0.15), radius * rng.uniform(0.24, 0.30)
    turns = np.arange(count) * (2 * np.pi / count)
    holes = np.min([np.hypot(u - ring * np.cos(t), v - ring * np.sin(t)) for t in turns], axis=0) - hole
    rim = 1.6 * np.exp(-(((r - radius * 0.84) / (radius * 0.11)) ** 2))
    color = _PLASTICS[rng.integers(len(_PLASTICS))] * rng.uniform(0.8, 1.1)
    swirl = 0.12 * np.sin(u / radius * rng.uniform(2, 8) + np.sin(v / radius * rng.uniform(2, 6)) * 2)
    return np.maximum(r - radius, -holes), rim, color * (1 + swirl)[..., None], rng.uniform(0.15, 0.6)


def _coin(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float) -> _Drawn:
    r = np.hypot(u, v)
    spokes = 0.7 * np.sin(np.arctan2(v, u) * rng.integers(3, 8)) * (r < radius * 0.6)
    rim = 1.2 * np.exp(-(((r - radius * 0.9) / 2) ** 2))
    color = _metal(rng) if rng.random() < 0.5 else _PLASTICS[rng.integers(len(_PLASTICS))]
    return r - radius * 0.9, spokes + rim, np.broadcast_to(color, (*u.shape, 3)), 0.5


def _o_ring(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float) -> _Drawn:
    tube = radius * rng.uniform(0.10, 0.16)
    from_tube = np.abs(np.hypot(u, v * rng.uniform(0.9, 1.1)) - radius * 0.85)
    relief = np.sqrt(np.clip(tube**2 - from_tube**2, 0, None))
    color = _array([0.12, 0.12, 0.13]) if rng.random() < 0.6 else _array([0.55, 0.20, 0.14])
    return from_tube - tube, relief, np.broadcast_to(color, (*u.shape, 3)), 0.25


def _nail(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float) -> _Drawn:
    length, half = radius * rng.uniform(2.2, 3.2), radius * rng.uniform(0.09, 0.14)
    shaft = _bar(u, v, -length / 2, length / 2, half, 0.5)
    head = _bar(u, v, -length / 2, -length / 2 + 2.5, half * 2.6, 1.0)
    relief = np.sqrt(np.clip(half**2 - v**2, 0, None))
    return np.minimum(shaft, head), relief, np.broadcast_to(_metal(rng), (*u.shape, 3)), 0.6


def _plug(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float) -> _Drawn:
    r = np.hypot(u, v)
    flat = radius * 0.85
    socket = -2.5 * (np.hypot(u, v) < flat * 0.42)
    relief = socket - 0.4 * np.clip(r - flat * 0.9, 0, None)
    return _polygon(u, v, 6, flat), relief, np.broadcast_to(_metal(rng), (*u.shape, 3)), 0.6


_OF_NO_CLASS = (_coin, _o_ring, _nail, _plug)


def _lay(
    canvas: np.ndarray,
    objects: list[tuple[int, np.ndarray, int]],
    piece: _Piece,
    kind: int,
    x: int,
    y: int,
    light: _Light,
) -> bool:
    """Put a piece with its shadow on the canvas and take its pixels from the objects below; False if it hides one."""
    height, width = canvas.shape[:2]
    reach = piece.alpha.shape[0] // 2
    top, bottom = max(y - reach, 0), min(y + reach + 1, height)
    left, right = max(x - reach, 0), min(x + reach + 1, width)
    window = np.s_[top:bottom, left:right]
    inner = np.s_[top - y + reach : bottom - y + reach, left - x + reach : right - x + reach]
    alpha = piece.alpha[inner]
    covers = alpha > 0.5
    if covers.sum() < _MIN_VISIBLE_PIXELS:
        return False
    for kind_below, mask, whole in objects:
        if kind_below:
            part = mask[window] & covers
            if part.any() and mask.sum() - part.sum() < max(_MIN_VISIBLE_SHARE * whole, _MIN_VISIBLE_PIXELS):
                return False
    offset = -light.direction[:2] * piece.thickness * 1.6
    shadow = ndimage.shift(piece.alpha, offset[::-1], order=1, prefilter=False)
    shadow = ndimage.gaussian_filter(shadow, 1.8)[inner]
    patch = canvas[window]
    patch *= (1 - 0.55 * shadow)[..., None]
    patch += (piece.color[inner] - patch) * alpha[..., None]
    for _, mask, _ in objects:
        mask[window] &= ~covers
    mask = np.zeros((height, width), bool)
    mask[window] = covers
    objects.append((kind, mask, int(covers.sum())))
    return True


# Light, surface and camera.


class _NoiseBank:
    """Periodic 1/f noise of mean 0 and deviation 1, sampled at any coordinates."""

    def __init__(self, rng: np.random.Generator) -> None:
        frequency = np.hypot(*np.meshgrid(*[np.fft.fftfreq(_NOISE_SIDE)] * 2))
        frequency[0, 0] = np.inf
        spectrum = np.fft.fft2(rng.standard_normal((_NOISE_SIDE, _NOISE_SIDE))) / frequency**1.1
        field = np.fft.ifft2(spectrum).real
        self.field = ((field - field.mean()) / field.std()).astype(np.float32)

    def sample(self, rng: np.random.Generator, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Noise at coordinates in pixels, (h, w) each, from a place drawn at random; float32 (h, w)."""
        shift = rng.uniform(0, _NOISE_SIDE, 2)
        across, down = _array(x + shift[1]), _array(y + shift[0])
        return cv2.remap(self.field, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)


def _light(rng: np.random.Generator) -> _Light:
    azimuth, lean = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.0)
    direction = _array([np.cos(azimuth) * lean, np.sin(azimuth) * lean, 1])
    direction /= np.linalg.norm(direction)
    halfway = direction + _array([0, 0, 1])
    color = _array([1, 1, 1]) + rng.uniform(-0.08, 0.08) * _array([1, 0.2, -1])
    return _Light(direction, halfway / np.linalg.norm(halfway), color, rng.uniform(0.35, 0.55))


def _lit(surface: np.ndarray, color: np.ndarray, gloss: float, light: _Light) -> np.ndarray:
    down, across = np.gradient(surface)
    normal = np.stack([-across, -down, np.ones_like(surface)], axis=-1)
    normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
    diffuse = np.clip(normal @ light.direction, 0, None)
    shine = np.clip(normal @ light.halfway, 0, None) ** 24
    shade = light.ambient + 0.75 * diffuse
    return (color * shade[..., None] * light.color + 0.45 * gloss * shine[..., None]).astype(np.float32)


def _surface(rng: np.random.Generator, noise: _NoiseBank, height: int, width: int) -> np.ndarray:
    """The bench: wood, sheet metal, a cutting mat, cardboard or concrete; float32 (h, w, 3)."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.choice([0, np.pi / 2]) + rng.normal(0, 0.15)
    cos, sin = float(np.cos(angle)), float(np.sin(angle))  # NumPy's own would make all of it 64 bits wide
    u, v = cos * x + sin * y, cos * y - sin * x
    streaks = noise.sample(rng, u * 0.12, v * 2.0)
    cloud = noise.sample(rng, x * 0.6, y * 0.6)
    fine = noise.sample(rng, x * 3.7, y * 3.7)
    kind = rng.integers(5)
    if kind == 0:
        rings = np.sin(v * rng.uniform(0.12, 0.3) + 2.5 * noise.sample(rng, u * 0.25, v * 0.5))
        dark, pale = _array([[0.30, 0.18, 0.10], [0.68, 0.49, 0.31]]) * rng.uniform(0.8, 1.2)
        color = dark + (pale - dark) * (0.55 + 0.18 * rings + 0.16 * streaks)[..., None]
    elif kind == 1:
        color = _array([0.50, 0.52, 0.55]) * (1 + 0.10 * streaks + 0.05 * cloud)[..., None]
    elif kind == 2:
        base = _array([[0.10, 0.33, 0.27], [0.14, 0.22, 0.38], [0.28, 0.28, 0.30]])[rng.integers(3)]
        step = rng.uniform(26, 44)
        lines = np.maximum(np.abs(u % step - step / 2), np.abs(v % step - step / 2)) > step / 2 - 0.7
        color = base * (1 + 0.05 * fine)[..., None] + 0.22 * lines[..., None]
    elif kind == 3:
        ridges = np.sin(v * 2 * np.pi / rng.uniform(7, 11))
        color = _array([0.66, 0.52, 0.37]) * (1 + 0.03 * ridges + 0.05 * fine + 0.05 * cloud)[..., None]
    else:
        color = _array([0.52, 0.51, 0.49]) * (1 + 0.10 * cloud + 0.09 * fine)[..., None]
    color = color * (1 + 0.06 * cloud)[..., None]
    for _ in range(rng.integers(1, 5)):  # outlines and stains of what lay here before
        cx, cy, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(13, 26)
        ring = np.hypot(x - cx, y - cy) if rng.random() < 0.6 else _polygon(x - cx, y - cy, 6, 0)
        trace = np.exp(-(((ring - radius) / rng.uniform(1, 3)) ** 2)) * np.clip(0.8 + 0.5 * fine, 0, 1)
        color = color * (1 - rng.uniform(0.15, 0.45) * trace)[..., None]
    for _ in range(rng.integers(0, 8)):  # scratches
        turn, where = rng.uniform(0, np.pi), rng.uniform(-0.3, 0.8) * max(height, width)
        cos, sin = float(np.cos(turn)), float(np.sin(turn))
        line = np.abs(cos * x + sin * y - where) < rng.uniform(0.4, 0.9)
        along = np.abs(cos * y - sin * x - rng.uniform(0, width)) < rng.uniform(15, 70)
        color = color + (rng.uniform(-0.12, 0.16) * (line & along))[..., None]
    return color.astype(np.float32)


def _photograph(rng: np.random.Generator, noise: _NoiseBank, canvas: np.ndarray) -> np.ndarray:
    """Uneven light, lens blur, colour cast, exposure and sensor noise; uint8 (h, w, 3)."""
    height, width = canvas.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    lamp = _array(rng.uniform(0, 1, 2) * (width, height))
    falloff = 1.12 - rng.uniform(0.1, 0.5) * ((x - lamp[0]) ** 2 + (y - lamp[1]) ** 2) / (width**2 + height**2)
    picture = canvas * (falloff * (1 + 0.04 * noise.sample(rng, x * 0.2, y * 0.2)))[..., None]
    blur = rng.uniform(0.3, 0.8)
    picture = ndimage.gaussian_filter(picture, (blur, blur, 0))
    if rng.random() < 0.2:  # one side out of focus
        soft = ndimage.gaussian_filter(picture, (2.2, 2.2, 0))
        side = np.clip((x / width if rng.random() < 0.5 else y / height) * 2 - 1.1, 0, 1)[..., None]
        picture = picture + (soft - picture) * side
    picture = picture * _array(rng.uniform(0.92, 1.08, 3) * rng.uniform(0.8, 1.2))
    picture = np.clip(picture, 0, 1) ** rng.uniform(0.8, 1.15)
    picture = picture + rng.standard_normal(picture.shape, np.float32) * rng.uniform(0.006, 0.02) * (0.4 + picture)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def _annotation(annotation_id: int, image_id: int, class_id: int, mask: np.ndarray) -> dict:
    rle = mask_util.encode(np.asfortranarray(mask, np.uint8))
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": class_id,
        "segmentation": {"size": [int(s) for s in rle["size"]], "counts": rle["counts"].decode("ascii")},
        "area": int(mask_util.area(rle)),
        "bbox": [float(b) for b in mask_util.toBbox(rle)],
        "iscrowd": 0,
    }


def _write_coco(path: Path, images: list[dict], annotations: list[dict], classes: dict[int, str]) -> None:
    coco = {
        "info": {"description": "Hardware on a workbench, drawn by the demo", "version": "1.0"},
        "licenses": [{"id": 1, "name": "CC0 1.0", "url": "https://creativecommons.org/publicdomain/zero/1.0/"}],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": class_id, "name": name} for class_id, name in classes.items()],
    }
    path.write_text(json.dumps(coco))
