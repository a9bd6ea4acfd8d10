"""PointRend with an IoU head on detectron2: the published detector, for GPUs, and a small one for CPUs and tests.

detectron2 is in no package index and is installed from its repository; without it this module cannot be imported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ml_backend.calibration import Calibration
from ml_backend.coco import CocoDataset, ImageRecord
from ml_backend.detector import Progress
from ml_backend.detectors.mask_scoring import (
    CHECKPOINT,
    METRICS,
    PREDICTION_OPTIONS,
    UNFINISHED,
    bfloat16_where_fast,
    chosen_device,
    continued,
)
from ml_backend.detectors.mask_scoring import KEPT_OPTIONS as SHARED_KEPT_OPTIONS
from ml_backend.detectors.network import Detections
from ml_backend.detectors.pipeline import Pipeline
from ml_backend.detectors.pointrend_config import PointRendOptions
from ml_backend.detectors.pointrend_network import build
from ml_backend.detectors.pointrend_training import Run, train
from ml_backend.errors import InputError
from ml_backend.evaluation import measure
from ml_backend.features import KINDS
from ml_backend.predictions import Predictions
from ml_backend.training import digest, fingerprint, read, save

FORMAT = "pointrend/1"
# Options that a later round takes over with the weights.
KEPT_OPTIONS = (*SHARED_KEPT_OPTIONS, "norm", "schedule")


class PointRend:
    """Masks, confidence, predicted IoU and features of every image.

    Attributes:
        version: a name of the weights, the same for the same weights.
        classes: category id to name.
        options: how it was trained and predicts.
        metrics: AP and calibration on the held-out images, as far as they were measured.
    """

    def __init__(
        self,
        options: PointRendOptions,
        classes: dict[int, str],
        state: dict[str, torch.Tensor],
        calibration: Calibration,
        metrics: dict[str, Any],
    ):
        self.options, self.calibration, self.metrics = options, calibration, metrics
        self.classes = dict(sorted(classes.items()))
        self.device = chosen_device(options)
        if options.threads:
            torch.set_num_threads(options.threads)
        self.network = build(options, len(classes), pretrained=False)
        self.network.load_state_dict(state)
        self.network.mixed = bfloat16_where_fast(options, self.device)
        self.network.to(self.device).to(memory_format=torch.channels_last).eval()
        name = digest(state, list(calibration.raw), list(calibration.calibrated))
        self.version = f"pointrend-{options.preset}-{name}"

    @classmethod
    def load(cls, checkpoint: str | Path, **options: Any) -> PointRend:
        """The detector stored at `checkpoint`.

        `options` may give anew what concerns prediction only: device, thresholds, feature kind and so on. Raises
        InputError where the file is missing, not a checkpoint of this detector, or an option is not one of those.
        """
        stored = read(Path(checkpoint), FORMAT)
        for name in options:
            if name not in PREDICTION_OPTIONS:
                raise InputError(f"detector option {name}", f"one of {', '.join(sorted(PREDICTION_OPTIONS))}", name)
        values = {**stored["options"], **{k: v for k, v in options.items() if v is not None}}
        return cls(
            PointRendOptions.create(values),
            stored["classes"],
            stored["network"],
            Calibration(tuple(stored["calibration"][0]), tuple(stored["calibration"][1])),
            json.loads(stored["metrics"]),
        )

    def predict(self, images: Iterable[ImageRecord]) -> Iterator[Predictions]:
        """One `Predictions` per image, in order; masks best score first. Raises InputError for a bad image.

        Decoding of the next images and encoding of the last masks overlap with the network.
        """
        kind = self.options.feature
        for predictions, features in self._pipeline([kind])(images):
            yield replace(predictions, features=features[kind])

    def predict_kinds(
        self, images: Iterable[ImageRecord], kinds: Sequence[str] = KINDS
    ) -> Iterator[tuple[Predictions, dict[str, np.ndarray]]]:
        """As `predict`, with features of several kinds from the one pass, each (n, d) float16, instead of one."""
        yield from self._pipeline(kinds)(images)

    def _pipeline(self, kinds: Sequence[str]) -> Pipeline:
        return Pipeline(self._detect, self.options, self.device, list(self.classes), self.calibration, kinds)

    def _detect(self, pixels: torch.Tensor, sizes: list[tuple[int, int]]) -> list[Detections]:
        return self.network.detect(pixels.contiguous(memory_format=torch.channels_last), sizes)

    @classmethod
    def train(
        cls,
        data: CocoDataset,
        heldout: CocoDataset | None,
        output: str | Path,
        *,
        options: dict[str, Any] | None = None,
        progress: Progress | None = None,
        start_from: str | Path | None = None,
    ) -> Path:
        """Trains into the folder `output` and gives the finished checkpoint.

        A run that was killed goes on from its last checkpoint; a finished one of the same sets and options is given
        back as it is. The weights are the best by AP on `heldout`. Beside the checkpoint lies `metrics.json` with AP
        and calibration on them.

        Args:
            data: annotated images. Those not `exhaustive` teach objects, but not background.
            heldout: images for AP and for the calibration of predicted IoU; none leaves both out.
            output: folder, made if need be.
            options: of `PointRendOptions`.
            progress: called with ("train" or "heldout", done, total).
            start_from: checkpoint of an earlier round, whose weights, scale and anchors are taken over.

        Raises InputError for bad options, a set without objects, or weights or a checkpoint that does not fit.
        """
        output = Path(output)
        chosen = PointRendOptions.create(options)
        if chosen.device:
            # Here, where an error is told as one, and not in a process of the run.
            chosen_device(chosen)
        earlier = read(Path(start_from), FORMAT) if start_from else None
        classes = dict(sorted(data.classes.items()))
        if earlier is not None:
            chosen = continued(chosen, earlier, classes, KEPT_OPTIONS)
        chosen = chosen.resolve(data)
        values = chosen.model_dump(mode="json", exclude=PREDICTION_OPTIONS)
        name = fingerprint(values, data, heldout, earlier and earlier["network"])
        finished = output / CHECKPOINT
        if finished.is_file() and read(finished, FORMAT)["fingerprint"] == name:
            return finished
        weights = earlier["network"] if earlier else None
        run = Run(data, heldout, classes, chosen, output / UNFINISHED, name, weights, again=bool(earlier))
        state, best = train(run, progress)
        detector = cls(chosen, classes, state, Calibration(), {})
        if heldout is not None and heldout.annotations:
            found = detector.predict(heldout.images)
            limit = chosen.max_detections
            detector.calibration, detector.metrics = measure(found, heldout, limit, chosen.calibrate, progress)
        detector.metrics |= {"best_step": best["step"], "steps": chosen.steps}
        stored = {
            "format": FORMAT,
            "fingerprint": name,
            "options": detector.options.model_dump(mode="json"),
            "classes": classes,
            "network": state,
            "calibration": [list(detector.calibration.raw), list(detector.calibration.calibrated)],
            "metrics": json.dumps(detector.metrics),
        }
        save(finished, stored)
        (output / METRICS).write_text(json.dumps(detector.metrics, indent=2))
        (output / UNFINISHED).unlink(missing_ok=True)
        return finished
