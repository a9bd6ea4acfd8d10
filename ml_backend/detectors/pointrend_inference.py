"""From image files to predictions: decoding, the network and encoding of masks side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ml_backend.coco import ImageRecord
from ml_backend.detectors.augmentation import load_pixels, statistics
from ml_backend.detectors.device_pasting import edges
from ml_backend.detectors.inference import Tile, batched, central, cut, suppress, tile_spans
from ml_backend.detectors.network import Detections
from ml_backend.detectors.pointrend_config import PointRendOptions
from ml_backend.features import project, raw_feature
from ml_backend.pasting import edges_rle
from ml_backend.predictions import Predictions

Detect = Callable[[Tensor, list[tuple[int, int]]], list[Detections]]
Calibrate = Callable[[np.ndarray], np.ndarray]


@dataclass
class Read:
    """A decoded image: pixels (h, w, 3) uint8 and what they are normalised by."""

    record: ImageRecord
    pixels: Tensor
    mean: np.ndarray
    deviation: float | np.ndarray


@dataclass
class Found:
    """Masks of one image or of a part of it, off the device; row i of everything belongs to the same mask.

    boxes (n, 4) as x0, y0, x1, y1 in pixels of the image; labels (n,) from 1; confidence, predicted_iou (n,); halves
    (n,) bool, masks that a tile cut; features by kind, each (n, d) float16; edges as `device_pasting.edges` gives them.
    """

    boxes: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    predicted_iou: np.ndarray
    halves: np.ndarray
    features: dict[str, np.ndarray]
    edges: list[np.ndarray]


class Pipeline:
    """Predicts images in order while the next ones are decoded and the masks of the last ones encoded.

    Args:
        detect: the network's detections of a batch and the sizes of its images.
        options: resolved options.
        device: where the network is.
        classes: category ids of the labels 1, 2, ….
        calibrate: maps raw predicted IoU (n,) to the calibrated one.
        kinds: feature kinds to compute, all in the one pass.
    """

    def __init__(
        self,
        detect: Detect,
        options: PointRendOptions,
        device: torch.device,
        classes: Sequence[int],
        calibrate: Calibrate,
        kinds: Sequence[str],
    ):
        self.detect, self.options, self.device = detect, options, device
        self.classes, self.calibrate, self.kinds = list(classes), calibrate, tuple(kinds)

    def __call__(self, images: Iterable[ImageRecord]) -> Iterator[tuple[Predictions, dict[str, np.ndarray]]]:
        """Predictions without features, best score first, and features by kind, of each image in order.

        Raises InputError for an image that cannot be read.
        """
        options = self.options
        with ThreadPoolExecutor(options.readers) as reader, ThreadPoolExecutor(options.encoders) as encoder:
            encoding: deque[Future] = deque()
            for group in self._groups(images, reader):
                for image, parts in zip(group, self._found(group), strict=True):
                    encoding.append(encoder.submit(self._encode, image.record, parts))
                while encoding and (encoding[0].done() or len(encoding) > 2 * options.predict_batch):
                    yield encoding.popleft().result()
            while encoding:
                yield encoding.popleft().result()

    def _groups(self, images: Iterable[ImageRecord], reader: ThreadPoolExecutor) -> Iterator[list[Read]]:
        records, size = iter(images), self.options.predict_batch
        ahead = deque(reader.submit(self._read, r) for r in islice(records, size + self.options.readers))
        while ahead:
            group: list[Read] = []
            while ahead and len(group) < size:
                group.append(ahead.popleft().result())
                ahead.extend(reader.submit(self._read, r) for r in islice(records, 1))
            yield group

    def _read(self, record: ImageRecord) -> Read:
        pixels = load_pixels(record)
        mean, deviation = statistics(pixels, self.options.standardise)
        # Pillow's pixels cannot be written to, which torch warns of.
        tensor = torch.from_numpy(np.array(pixels, copy=not pixels.flags.writeable))
        return Read(record, tensor.pin_memory() if self.device.type == "cuda" else tensor, mean, deviation)

    def _tiles(self, image: Read) -> tuple[list[Tile], tuple[float, float]]:
        """The image on the device, normalised, scaled and cut; and network pixels per image pixel, across and down."""
        record = image.record
        zoom = self.options.zoom(record.height, record.width)
        height, width = (max(round(n * zoom), 1) for n in (record.height, record.width))
        pixels = image.pixels.to(self.device, non_blocking=True).permute(2, 0, 1)[None].float()
        if (height, width) != (record.height, record.width):
            pixels = functional.interpolate(
                pixels, size=(height, width), mode="bilinear", align_corners=False, antialias=True
            )
        mean = torch.as_tensor(image.mean, dtype=torch.float32, device=self.device).view(-1, 1, 1)
        deviation = torch.as_tensor(image.deviation, dtype=torch.float32, device=self.device).view(-1, 1, 1)
        scaled = ((pixels - mean) / deviation)[0]
        tiles = []
        for y, h, top, bottom in tile_spans(height, self.options.tile):
            for x, w, left, right in tile_spans(width, self.options.tile):
                core = (left - x, top - y, right - x, bottom - y)
                tiles.append(Tile(scaled[:, y : y + h, x : x + w], x, y, core))
        return tiles, (width / record.width, height / record.height)

    @torch.inference_mode()
    def _found(self, group: list[Read]) -> list[list[Found]]:
        prepared = [self._tiles(image) for image in group]
        tiles = [(at, tile) for at, (parts, _) in enumerate(prepared) for tile in parts]
        found: list[list[Found]] = [[] for _ in group]
        step = self.options.predict_batch
        for start in range(0, len(tiles), step):
            some = tiles[start : start + step]
            pixels, sizes = batched([tile for _, tile in some])
            for (at, tile), detections in zip(some, self.detect(pixels, sizes), strict=True):
                found[at].append(self._kept(group[at].record, prepared[at][1], tile, detections))
        return found

    def _kept(self, record: ImageRecord, zoom: tuple[float, float], tile: Tile, found: Detections) -> Found:
        """The detections of a tile that count, brought off the device as little as they can be."""
        corner = found.boxes.new_tensor([tile.x, tile.y, tile.x, tile.y])
        boxes = (found.boxes + corner) / found.boxes.new_tensor([*zoom, *zoom])
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        rows = torch.nonzero(central(found, tile) & (area > (self.options.min_area or 0.0)))[:, 0]
        boxes, masks = boxes[rows], found.masks[rows]
        features = {}
        for kind in self.kinds:
            raw = raw_feature(kind, found.roi_features[rows], masks, found.hidden[rows])
            features[kind] = project(kind, raw, self.options.feature_width).cpu().numpy()
        single = (found.labels, found.confidence, found.predicted_iou, cut(found, tile))
        columns = (boxes, *(c[rows, None] for c in single))
        # One transfer for all numbers: each waits for the device.
        numbers = torch.cat([c.float() for c in columns], 1).cpu().numpy()
        places = edges(masks, boxes, record.height, record.width, self.options.paste_pixels)
        labels, halves = numbers[:, 4].astype(int), numbers[:, 7] > 0
        return Found(numbers[:, :4], labels, numbers[:, 5], numbers[:, 6], halves, features, places)

    def _encode(self, record: ImageRecord, parts: list[Found]) -> tuple[Predictions, dict[str, np.ndarray]]:
        boxes, labels, confidence, predicted, halves = (
            np.concatenate([getattr(p, name) for p in parts])
            for name in ("boxes", "labels", "confidence", "predicted_iou", "halves")
        )
        predicted = self.calibrate(predicted)
        places = [e for part in parts for e in part.edges]
        order = [int(row) for row in np.argsort(-confidence * predicted, kind="stable") if len(places[row])]
        counts = [edges_rle(places[row], record.height, record.width) for row in order]
        kept = suppress(counts, halves[order], record, self.options.mask_nms)[: self.options.max_detections]
        rows = np.array(order, int)[kept]
        rle = np.empty(len(rows), object)
        rle[:] = [counts[at] for at in kept]
        corners = boxes[rows].reshape(-1, 4)
        features = {kind: np.concatenate([part.features[kind] for part in parts])[rows] for kind in parts[0].features}
        predictions = Predictions(
            mask_id=np.arange(len(rows)),
            image_id=np.full(len(rows), record.id),
            class_id=np.asarray(self.classes, np.int32)[labels[rows] - 1],
            box=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
            rle=rle,
            size=np.tile([[record.height, record.width]], (len(rows), 1)),
            confidence=confidence[rows],
            predicted_iou=predicted[rows],
            features=np.zeros((len(rows), 0), np.float16),
        )
        return predictions, features
