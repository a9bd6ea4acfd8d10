"""From images to predictions: scaling, tiling, and exact masks in the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pycocotools import mask as mask_util
from torch import Tensor
from torch.nn import functional

from ml_backend.coco import ImageRecord
from ml_backend.detectors.augmentation import load_pixels, scaled, statistics
from ml_backend.detectors.network import Detections
from ml_backend.detectors.options import DetectorOptions
from ml_backend.features import project, raw_feature
from ml_backend.pasting import paste, window_rle
from ml_backend.predictions import Predictions

_STRIDE = 32


@dataclass
class Tile:
    """A part of a scaled image: pixels (3, h, w), its corner, and the core that no other tile answers for.

    core: left, top, right, bottom in the tile's own pixels; up to the middle of each overlap, and without limit at
    the sides of the image.
    """

    pixels: Tensor
    x: int
    y: int
    core: tuple[float, float, float, float]


@dataclass
class Prepared:
    """An image ready for the network."""

    record: ImageRecord
    zoom: tuple[float, float]
    tiles: list[Tile]


def prepare(record: ImageRecord, options: DetectorOptions) -> Prepared:
    """Reads, normalises, scales and, where it is long, tiles an image."""
    pixels = load_pixels(record)
    mean, deviation = statistics(pixels, options.standardise)
    height, width = (max(round(n * options.scale), 1) for n in pixels.shape[:2])
    image = scaled(pixels, mean, deviation, height, width)
    tiles = []
    for y, h, top, bottom in tile_spans(height, options.tile):
        for x, w, left, right in tile_spans(width, options.tile):
            tiles.append(Tile(image[:, y : y + h, x : x + w], x, y, (left - x, top - y, right - x, bottom - y)))
    return Prepared(record, (width / record.width, height / record.height), tiles)


def tile_spans(length: int, tile: int) -> list[tuple[int, int, float, float]]:
    """(start, length, core's start, core's end) of tiles along one side, which overlap by at least a quarter.

    Cores meet in the middle of the overlaps; the first and the last are open to the outside.
    """
    if length <= tile:
        return [(0, length, -np.inf, np.inf)]
    count = int(np.ceil((length - tile) / (tile * 0.75))) + 1
    starts = np.linspace(0, length - tile, count).round().astype(int)
    borders = [-np.inf, *((starts[1:] + starts[:-1] + tile) / 2).tolist(), np.inf]
    return [(int(s), tile, borders[i], borders[i + 1]) for i, s in enumerate(starts)]


def batched(tiles: list[Tile]) -> tuple[Tensor, list[tuple[int, int]]]:
    """Tiles padded to one size of whole strides, (b, 3, h, w), and their sizes before."""
    sizes = [(int(t.pixels.shape[-2]), int(t.pixels.shape[-1])) for t in tiles]
    height = -(-max(s[0] for s in sizes) // _STRIDE) * _STRIDE
    width = -(-max(s[1] for s in sizes) // _STRIDE) * _STRIDE
    padded = [functional.pad(t.pixels, (0, width - s[1], 0, height - s[0])) for t, s in zip(tiles, sizes, strict=True)]
    return torch.stack(padded), sizes


def central(detections: Detections, tile: Tile, slack: float = 4.0) -> Tensor:
    """Which detections have their middle in their tile's core, (n,) bool.

    Others are another tile's, which sees more of them. Within `slack` of the core's sides both keep theirs, as they
    may place the middle differently; one of the two goes as a double.
    """
    left, top, right, bottom = tile.core
    x = (detections.boxes[:, 0] + detections.boxes[:, 2]) / 2
    y = (detections.boxes[:, 1] + detections.boxes[:, 3]) / 2
    inside = (x >= left - slack) & (x <= right + slack)
    return inside & (y >= top - slack) & (y <= bottom + slack)


def cut(detections: Detections, tile: Tile, slack: float = 2.0) -> Tensor:
    """Which detections reach a side of their tile where another tile goes on, (n,) bool: they may be halves."""
    height, width = tile.pixels.shape[-2:]
    inner = detections.boxes.new_tensor([tile.core[0], tile.core[1], -tile.core[2], -tile.core[3]]).isfinite()
    at_side = torch.cat(
        [detections.boxes[:, :2], detections.boxes.new_tensor([width, height]) - detections.boxes[:, 2:]], 1
    )
    return ((at_side <= slack) & inner).any(1)


def to_predictions(
    image: Prepared,
    found: list[Detections],
    options: DetectorOptions,
    classes: list[int],
    calibrate: Callable[[np.ndarray], np.ndarray],
    kinds: Sequence[str],
) -> tuple[Predictions, dict[str, np.ndarray]]:
    """Detections of an image's tiles as predictions in its own pixels, best score first, and features by kind.

    Args:
        image: what was detected in.
        found: detections of each tile.
        options: thresholds, features.
        classes: category ids of the labels 1, 2, ….
        calibrate: maps raw predicted IoU (n,) to the calibrated one.
        kinds: feature kinds to compute; the predictions themselves are given without.
    """
    parts = []
    for tile, detections in zip(image.tiles, found, strict=True):
        keep = central(detections, tile)
        corner = detections.boxes.new_tensor([tile.x, tile.y, tile.x, tile.y])
        at = torch.nonzero(keep)[:, 0]
        sources = detections.roi_features[at], detections.masks[at], detections.hidden[at]
        features = (project(kind, raw_feature(kind, *sources), options.feature_width) for kind in kinds)
        parts.append(
            (
                (detections.boxes + corner)[keep].float().cpu().numpy(),
                detections.labels[keep].cpu().numpy(),
                detections.confidence[keep].float().cpu().numpy(),
                detections.predicted_iou[keep].float().cpu().numpy(),
                detections.masks[keep].float().cpu().numpy(),
                cut(detections, tile)[keep].cpu().numpy(),
                *(feature.cpu().numpy() for feature in features),
            )
        )
    columns = (np.concatenate(c) for c in zip(*parts, strict=True))
    boxes, labels, confidence, predicted, masks, halves, *featured = columns
    record, zoom = image.record, np.array([*image.zoom, *image.zoom])
    boxes = boxes / zoom
    predicted = calibrate(predicted)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-confidence * predicted, kind="stable")
    order = order[area[order] > (options.min_area or 0.0)]
    rows, counts = [], []
    for row in order.tolist():
        window, x, y = paste(masks[row], boxes[row], record.height, record.width)
        if window.any():
            rows.append(row)
            counts.append(window_rle(window, x, y, record.height, record.width))
    kept = suppress(counts, halves[rows], record, options.mask_nms)[: options.max_detections]
    rows = np.array(rows, int)[kept]
    corners = boxes[rows].reshape(-1, 4)
    rle = np.empty(len(rows), object)
    rle[:] = [counts[i] for i in kept]
    predictions = Predictions(
        mask_id=np.arange(len(rows)),
        image_id=np.full(len(rows), record.id),
        class_id=np.asarray(classes, np.int32)[labels[rows] - 1],
        box=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
        rle=rle,
        size=np.tile([[record.height, record.width]], (len(rows), 1)),
        confidence=confidence[rows],
        predicted_iou=predicted[rows],
        features=np.zeros((len(rows), 0), np.float16),
    )
    return predictions, {kind: feature[rows] for kind, feature in zip(kinds, featured, strict=True)}


def suppress(counts: list[bytes], halves: np.ndarray, record: ImageRecord, limit: float) -> np.ndarray:
    """Rows that stay when of two masks that overlap by IoU over `limit` the later one goes, whatever its class.

    Masks that a tile cut, where `halves` (n,) bool holds, go before whole ones, and also where most of such a mask
    lies in another that stays: half an object has a small IoU with the whole.
    """
    if not counts:
        return np.zeros(0, int)
    rles = [{"size": [record.height, record.width], "counts": c} for c in counts]
    same = np.asarray(mask_util.iou(rles, rles, [0] * len(rles))) > limit
    cut_rows = np.flatnonzero(halves)
    if len(cut_rows):
        part = [rles[row] for row in cut_rows]
        same[:, cut_rows] |= np.asarray(mask_util.iou(part, rles, [1] * len(rles))).T > 0.5
    order = np.argsort(halves, kind="stable")
    keep = np.ones(len(counts), bool)
    for at, row in enumerate(order):
        if keep[row]:
            later = order[at + 1 :]
            keep[later] &= ~same[row, later]
    return np.flatnonzero(keep)


def groups(images: Iterator[Prepared], size: int) -> Iterator[list[Prepared]]:
    """Lists of up to `size` images, in order."""
    group: list[Prepared] = []
    for image in images:
        group.append(image)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
