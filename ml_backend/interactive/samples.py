"""What `click` learns from: parts of pictures, and objects in them as annotators begin or correct them."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ml_backend.errors import InputError
from ml_backend.interactive.annotators import Annotator, noisy_box
from ml_backend.interactive.corruption import corrupted
from ml_backend.interactive.encodings import box_channel, drawn
from ml_backend.interactive.options import ClickOptions, SegmenterOptions
from ml_backend.interactive.segmenter import Click
from ml_backend.interactive.windows import Window, extent_of, seen, window_around
from ml_backend.learning.pictures import jittered
from ml_backend.learning.scenes import Scene, Scenes
from ml_backend.masks.coco import CocoDataset, ImageRecord

# How objects are begun, and how often: by a box, by a mask that is to be corrected, else by a click.
_FROM_BOX, _FROM_MASK = 0.45, 0.35
# Of objects begun by a box, how many have clicks before their first mask; of masks to be corrected, how many a box.
_BOX_AND_CLICKS, _MASK_AND_BOX = 0.2, 0.4
# The largest part of an object that may lie outside of the part of a picture that it is learnt in.
_OUTSIDE = 0.2


@dataclass
class TrainingObject:
    """An object in its window, and what was said of it so far, in cells of the grid.

    window: in pixels of its part. truth: (g, g) float32, the share of each cell that it covers. solid: where that is
    over a half. box: x0, y0, x1, y1 or None. previous: (g, g) bool.
    """

    window: Window
    truth: np.ndarray
    box: np.ndarray | None
    previous: np.ndarray
    clicks: list[Click] = field(default_factory=list)

    @property
    def solid(self) -> np.ndarray:
        """(g, g) bool."""
        return self.truth > 0.5


@dataclass
class Part:
    """A part of a picture: pixels (3, h, w), normalised, how many network pixels one of them is, and its objects."""

    pixels: Tensor
    scale: float
    objects: list[TrainingObject]


@dataclass
class Batch:
    """Parts, the same as the encoder takes them (b, 3, c, c), and what every pixel teaches it.

    dense: (b, 2, c / 4, c / 4), the share of objects and of their outlines; known: (b,) whether all objects are known.
    """

    parts: list[Part]
    pictures: Tensor
    dense: Tensor
    known: Tensor


def prompt_channels(
    options: SegmenterOptions, box: np.ndarray | None, clicks: list[Click], previous: np.ndarray, radius: float
) -> np.ndarray:
    """What was said of an object, in cells: (4, g, g) float32, the mask so far, the box, positive, negative clicks."""
    height, width = previous.shape
    of_sign = [np.array([(c.x, c.y) for c in clicks if c.positive is sign]).reshape(-1, 2) for sign in (True, False)]
    discs = [drawn(points, height, width, options.encoding, radius) for points in of_sign]
    return np.stack([previous.astype(np.float32), box_channel(box, height, width), *discs])


def annotator_of(options: SegmenterOptions, rng: np.random.Generator) -> Annotator:
    """A simulated annotator to train with: mostly the place that the options say, and never twice equally exact."""
    return Annotator(place=options.place, noise=float(rng.uniform(0, 4)), least_region=6.0, boundary=options.boundary)


class ObjectSampler:
    """Batches for `click`, the same for the same seed and step."""

    def __init__(self, data: CocoDataset, options: ClickOptions):
        annotations = data.by_image()
        own = {i.id: [a for a in annotations.get(i.id, []) if not a.iscrowd] for i in data.images}
        self.options, self.images = options, [i for i in data.images if own[i.id]]
        if not self.images:
            raise InputError("labelled set", "at least one annotated object", "none")
        labels = {class_id: number + 1 for number, class_id in enumerate(sorted(data.classes))}
        self.scenes = Scenes(own, labels, standardise=True)
        weights = np.sqrt([len(own[i.id]) for i in self.images])
        self._weights = weights / weights.sum()

    def batch(self, step: int) -> Batch:
        """What a step learns from."""
        rng = np.random.default_rng([self.options.seed, step])
        return joined([self._part(self._drawn(rng), rng) for _ in range(self.options.regions)])

    def _drawn(self, rng: np.random.Generator) -> ImageRecord:
        return self.images[rng.choice(len(self.images), p=self._weights)]

    def _part(self, record: ImageRecord, rng: np.random.Generator) -> tuple[Part, Tensor, Tensor, bool]:
        options, scene = self.options, self.scenes.of(record)
        x, y, bitmap = scene.windows[rng.integers(len(scene.windows))]
        height, width = bitmap.shape
        assert options.scale is not None
        jitter = np.log(options.scale_jitter)
        zoom = options.scale * np.exp(rng.uniform(-jitter, jitter))
        # A large object is scaled down so far that it fits.
        zoom = min(zoom, options.crop / (1.2 * max(height, width)))
        side = max(round(options.crop / zoom), 8)
        middle = np.array([x + width / 2, y + height / 2]) + rng.uniform(-0.3, 0.3, 2) * (side - max(height, width))
        x0, y0 = (int(v) for v in np.floor(middle - side / 2))
        pixels, bitmaps = _cut(scene, x0, y0, side)
        pixels, bitmaps = _turned(pixels, bitmaps, int(rng.integers(2 if options.upright else 8)))
        image = jittered(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), options.colour_jitter, rng)
        picture = functional.interpolate(
            image[None], size=(options.crop, options.crop), mode="bilinear", align_corners=False, antialias=True
        )[0]
        dense = _dense(bitmaps, options.crop // 4)
        objects = self._objects([b for b, whole in bitmaps if whole], bitmaps, rng)
        return Part(image, options.crop / side, objects), picture, dense, scene.exhaustive

    def _objects(
        self, bitmaps: list[np.ndarray], everything: list[tuple[np.ndarray, bool]], rng: np.random.Generator
    ) -> list[TrainingObject]:
        if not bitmaps:
            return []
        union = np.zeros(bitmaps[0].shape, np.uint8)
        for bitmap, _ in everything:
            union |= bitmap
        chosen = rng.choice(len(bitmaps), min(self.options.objects, len(bitmaps)), replace=False)
        return [self._begun(bitmaps[i], union, rng) for i in chosen]

    def _begun(self, bitmap: np.ndarray, union: np.ndarray, rng: np.random.Generator) -> TrainingObject:
        """An object as an annotator has begun it."""
        options, grid = self.options, self.options.grid
        extent = extent_of(bitmap)
        assert extent is not None
        how = rng.random()
        from_click = how >= _FROM_BOX + _FROM_MASK
        box = noisy_box(extent, rng)
        window = window_around(box, options.margin * float(np.exp(rng.normal(0, 0.12))))
        moved = rng.normal(0, 0.04, 2) * window.side
        window = Window(window.x0 + moved[0], window.y0 + moved[1], window.side)
        first: tuple[Click, ...] = ()
        if from_click:
            first = annotator_of(options, rng).first(bitmap > 0, rng)
            if rng.random() < 0.5:
                assert options.first_side is not None
                side = options.first_side * float(np.exp(rng.normal(0, 0.3)))
                window = Window(first[0].x - side / 2, first[0].y - side / 2, side)
        layers = torch.from_numpy(np.stack([bitmap, union & ~bitmap]).astype(np.float32))
        truth, others = seen(layers, [window], grid)[0].numpy()
        thing = TrainingObject(window, truth, None, np.zeros((grid, grid), bool))
        if from_click:
            points = window.on_grid(np.array([(c.x, c.y) for c in first]), grid)
            thing.clicks = [Click(float(px), float(py), c.positive) for (px, py), c in zip(points, first, strict=True)]
        elif how < _FROM_BOX:
            thing.box = window.on_grid(np.array(box), grid).ravel()
            if rng.random() < _BOX_AND_CLICKS:
                thing.previous = corrupted(thing.solid, others > 0.5, rng)
                add_clicks(thing, int(rng.integers(1, 5)), options, rng)
        else:
            thing.previous = corrupted(thing.solid, others > 0.5, rng)
            if rng.random() < _MASK_AND_BOX:
                thing.box = window.on_grid(np.array(box), grid).ravel()
            add_clicks(thing, int(rng.choice([1, 1, 1, 2, 3])), options, rng)
        return thing


def add_clicks(thing: TrainingObject, count: int, options: SegmenterOptions, rng: np.random.Generator) -> None:
    """Adds so many clicks on the errors of the mask so far, fewer where it has none."""
    annotator = annotator_of(options, rng)
    for _ in range(count):
        thing.clicks += annotator.click(thing.previous, thing.solid, rng)


def _cut(scene: Scene, x0: int, y0: int, side: int) -> tuple[np.ndarray, list[tuple[np.ndarray, bool]]]:
    """A square of a scene, normalised (side, side, 3), and the objects in it, each with whether it is whole enough."""
    height, width = scene.pixels.shape[:2]
    left, top, right, bottom = max(x0, 0), max(y0, 0), min(x0 + side, width), min(y0 + side, height)
    pixels = np.zeros((side, side, 3), np.float32)
    part = (scene.pixels[top:bottom, left:right].astype(np.float32) - scene.mean) / scene.deviation
    pixels[top - y0 : bottom - y0, left - x0 : right - x0] = part
    bitmaps = []
    for x, y, bitmap in scene.windows:
        h, w = bitmap.shape
        a, b, c, d = max(x, x0), max(y, y0), min(x + w, x0 + side), min(y + h, y0 + side)
        if a >= c or b >= d:
            continue
        inside = np.zeros((side, side), np.uint8)
        inside[b - y0 : d - y0, a - x0 : c - x0] = bitmap[b - y : d - y, a - x : c - x]
        area = int(inside.sum())
        if area:
            bitmaps.append((inside, area >= max((1 - _OUTSIDE) * bitmap.sum(), 8)))
    return pixels, bitmaps


def _turned(
    pixels: np.ndarray, bitmaps: list[tuple[np.ndarray, bool]], turn: int
) -> tuple[np.ndarray, list[tuple[np.ndarray, bool]]]:
    """Mirrored and turned, in one of eight ways."""

    def of(array: np.ndarray) -> np.ndarray:
        if turn & 1:
            array = array[:, ::-1]
        if turn & 2:
            array = array[::-1]
        return array.swapaxes(0, 1) if turn & 4 else array

    return of(pixels), [(np.ascontiguousarray(of(b)), whole) for b, whole in bitmaps]


def _dense(bitmaps: list[tuple[np.ndarray, bool]], cells: int) -> Tensor:
    """(2, cells, cells): the share of each cell that objects cover, and whether an outline runs through it."""
    if not bitmaps:
        return torch.zeros(2, cells, cells)
    kernel = np.ones((3, 3), np.uint8)
    filled, outline = np.zeros_like(bitmaps[0][0]), np.zeros_like(bitmaps[0][0])
    for bitmap, _ in bitmaps:
        filled |= bitmap
        outline |= bitmap - cv2.erode(bitmap, kernel, borderValue=1)
    both = torch.from_numpy(np.stack([filled, outline]).astype(np.float32))
    share = functional.adaptive_avg_pool2d(both[None, :1], cells)
    touched = functional.adaptive_max_pool2d(both[None, 1:], cells)
    return torch.cat([share, touched], 1)[0]


def joined(parts: list[tuple[Part, Tensor, Tensor, bool]]) -> Batch:
    """A batch of parts."""
    own, pictures, dense, known = zip(*parts, strict=True)
    return Batch(list(own), torch.stack(pictures), torch.stack(dense), torch.tensor(known))
