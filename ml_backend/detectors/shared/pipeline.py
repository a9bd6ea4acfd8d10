"""From image files to predictions: decoding, the network and encoding of masks side by side, for every network."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ml_backend.detectors.shared.device_pasting import edges
from ml_backend.detectors.shared.inference import Tile, batched, central, cut, suppress, tiles
from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.detectors.shared.records import Detections
from ml_backend.learning.features import project, raw_feature, stability
from ml_backend.learning.pictures import load_pixels, statistics
from ml_backend.masks.coco import ImageRecord
from ml_backend.masks.pasting import edges_rle
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
class TileMasks:
    """Masks of one image or of a part of it, off the device; row i of everything belongs to the same mask.

    boxes (n, 4) as x0, y0, x1, y1 in pixels of the image; labels (n,) from 1; confidence, predicted_iou and stability
    (n,); halves (n,) bool, masks that a tile cut; features by kind, each (n, d) float16; edges as
    `device_pasting.edges`.
    """

    boxes: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    predicted_iou: np.ndarray
    stability: np.ndarray
    halves: np.ndarray
    features: dict[str, np.ndarray]
    edges: list[np.ndarray]


# Tiles that go through the network together: image, tile, and whether it is the image's last.
Batch = list[tuple[ImageRecord, Tile, bool]]


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
        options: DetectorOptions,
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
        with (
            ThreadPoolExecutor(options.readers, initializer=self._enter) as reader,
            ThreadPoolExecutor(1, initializer=self._enter) as cutter,
            ThreadPoolExecutor(options.encoders) as encoder,
        ):
            encoding: deque[Future] = deque()
            parts: list[TileMasks] = []
            for batch in _ahead(self._batches(self._decoded(images, reader)), cutter):
                for (record, _, last), kept in zip(batch, self._masks(batch), strict=True):
                    parts.append(kept)
                    if last:
                        encoding.append(encoder.submit(self._encode, record, parts))
                        parts = []
                while encoding and (encoding[0].done() or len(encoding) > 2 * options.predict_batch):
                    yield encoding.popleft().result()
            while encoding:
                yield encoding.popleft().result()

    def _enter(self) -> None:
        """Makes the network's device that of a thread, which would open the first GPU otherwise."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    def _decoded(self, images: Iterable[ImageRecord], reader: ThreadPoolExecutor) -> Iterator[Read]:
        records = iter(images)
        depth = self.options.predict_batch + self.options.readers
        ahead = deque(reader.submit(self._read, r) for r in islice(records, depth))
        while ahead:
            yield ahead.popleft().result()
            ahead.extend(reader.submit(self._read, r) for r in islice(records, 1))

    @torch.inference_mode()
    def _batches(self, images: Iterator[Read]) -> Iterator[Batch]:
        parts = (part for image in images for part in self._tiles(image))
        while batch := list(islice(parts, self.options.predict_batch)):
            yield batch

    def _read(self, record: ImageRecord) -> Read:
        pixels = load_pixels(record)
        mean, deviation = statistics(pixels, self.options.standardise)
        # Pillow's pixels cannot be written to, which torch warns of.
        tensor = torch.from_numpy(np.array(pixels, copy=not pixels.flags.writeable))
        return Read(record, tensor.pin_memory() if self.device.type == "cuda" else tensor, mean, deviation)

    def _size(self, record: ImageRecord) -> tuple[int, int]:
        """Height and width of an image in network pixels."""
        zoom = self.options.zoom(record.height, record.width)
        return max(round(record.height * zoom), 1), max(round(record.width * zoom), 1)

    def _tiles(self, image: Read) -> Iterator[tuple[ImageRecord, Tile, bool]]:
        """The image on the device, scaled, cut and normalised."""
        pixels = image.pixels.to(self.device, non_blocking=True).permute(2, 0, 1)
        mean = torch.as_tensor(image.mean, dtype=torch.float32, device=self.device).view(-1, 1, 1)
        deviation = torch.as_tensor(image.deviation, dtype=torch.float32, device=self.device).view(-1, 1, 1)
        for tile in tiles(pixels, *self._size(image.record), self.options.tile):
            last = tile.core[2:] == (np.inf, np.inf)
            yield image.record, replace(tile, pixels=(tile.pixels - mean) / deviation), last

    @torch.inference_mode()
    def _masks(self, batch: Batch) -> list[TileMasks]:
        pixels, sizes = batched([tile for _, tile, _ in batch])
        detections = self.detect(pixels, sizes)
        return [self._kept(record, tile, part) for (record, tile, _), part in zip(batch, detections, strict=True)]

    def _kept(self, record: ImageRecord, tile: Tile, detections: Detections) -> TileMasks:
        """The detections of a tile that count, brought off the device as little as they can be."""
        corner = detections.boxes.new_tensor([tile.x, tile.y, tile.x, tile.y])
        height, width = self._size(record)
        zoom = detections.boxes.new_tensor([width / record.width, height / record.height])
        boxes = (detections.boxes + corner) / zoom.repeat(2)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        rows = torch.nonzero(central(detections, tile) & (area > (self.options.min_area or 0.0)))[:, 0]
        boxes, masks = boxes[rows], detections.masks[rows]
        features = {}
        for kind in self.kinds:
            layers = detections.hidden[rows], detections.box_hidden[rows]
            raw = raw_feature(kind, detections.roi_features[rows], masks, *layers)
            features[kind] = project(kind, raw, self.options.feature_width).cpu().numpy()
        single = (detections.labels, detections.confidence, detections.predicted_iou, cut(detections, tile))
        columns = (boxes, *(c[rows, None] for c in single), stability(masks)[:, None])
        # One transfer for all numbers: each waits for the device.
        numbers = torch.cat([c.float() for c in columns], 1).cpu().numpy()
        places = edges(masks, boxes, record.height, record.width, self.options.paste_pixels)
        labels, halves = numbers[:, 4].astype(int), numbers[:, 7] > 0
        stable = numbers[:, 8]
        return TileMasks(numbers[:, :4], labels, numbers[:, 5], numbers[:, 6], stable, halves, features, places)

    def _encode(self, record: ImageRecord, parts: list[TileMasks]) -> tuple[Predictions, dict[str, np.ndarray]]:
        boxes, labels, confidence, predicted, stable, halves = (
            np.concatenate([getattr(p, name) for p in parts])
            for name in ("boxes", "labels", "confidence", "predicted_iou", "stability", "halves")
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
            stability=stable[rows],
        )
        return predictions, features


def _ahead(values: Iterator[Any], thread: ThreadPoolExecutor) -> Iterator[Any]:
    """The same values; each is made in `thread` while the one before is in use."""
    nothing = object()
    waiting = thread.submit(next, values, nothing)
    while (value := waiting.result()) is not nothing:
        waiting = thread.submit(next, values, nothing)
        yield value
