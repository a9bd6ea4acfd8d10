"""What a detector is once it was trained, whichever network it has: checkpoints, prediction, the course of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import nn

from ml_backend.detector import Progress
from ml_backend.detectors.shared.augmentation import CropSampler
from ml_backend.detectors.shared.options import DetectorOptions, Options
from ml_backend.detectors.shared.pipeline import Pipeline
from ml_backend.detectors.shared.records import Detections
from ml_backend.detectors.shared.training import Run, train
from ml_backend.errors import InputError
from ml_backend.files import whole_file
from ml_backend.learning.calibration import Calibration
from ml_backend.learning.checkpoints import Unfinished, digest, fingerprint, read, save
from ml_backend.learning.devices import bfloat16_where_fast, chosen_device
from ml_backend.learning.evaluation import measure
from ml_backend.learning.features import KINDS
from ml_backend.learning.training import Weights, adamw
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions

CHECKPOINT, UNFINISHED, METRICS = "model.pt", "unfinished.pt", "metrics.json"
# Options that a later round takes over with the weights.
KEPT_OPTIONS = ("scale", "anchors", "standardise", "upright")
# A training of seconds on small images, which teaches next to nothing, and all that its network dares to say.
QUICK_OPTIONS = {
    "steps": 6, "minutes": None, "patience": None, "batch": 1, "crop": 64, "warmup": 2, "scale": 1.0, "score_from": 0,
    "threads": 1, "checkpoint_every": 2, "max_detections": 30, "min_score": 0.0, "min_area": 0.0,
}  # fmt: skip

Trained = TypeVar("Trained", bound="TrainedDetector")


class TrainedDetector:
    """Masks, confidence, predicted IoU and features of every image; a network's own part is in what derives from it.

    Attributes:
        version: a name of the weights, the same for the same weights.
        classes: category id to name.
        options: how it was trained and predicts.
        metrics: AP and calibration on the held-out images, as far as they were measured; and how training went, see
            `ml_backend.learning.training.course`.
    """

    FORMAT: ClassVar[str]
    OPTIONS: ClassVar[type[DetectorOptions]]
    KEPT: ClassVar[tuple[str, ...]] = KEPT_OPTIONS
    NAME: ClassVar[str] = ""  # what its versions begin with
    QUICK: ClassVar[dict[str, Any]] = QUICK_OPTIONS
    TRAINING: ClassVar[int] = 1  # raised where the same options train otherwise than before: a run then begins anew
    # See `ml_backend.detectors.shared.training.Parts`.
    CHANNELS_LAST_ON_GPU: ClassVar[bool] = True
    ALL_USED: ClassVar[bool] = True

    def __init__(
        self,
        options: Any,
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
        self.network: Any = self.network_of(options, len(self.classes), False)
        self.network.mixed = bfloat16_where_fast(options, self.device)
        self.network.load_state_dict(state)
        self.network.to(self.device).to(memory_format=torch.channels_last).eval()
        name = digest(state, list(calibration.raw), list(calibration.calibrated))
        self.version = f"{self.NAME}{options.preset}-{name}"

    @classmethod
    def network_of(cls, options: Any, classes: int, pretrained: bool) -> Any:
        """The network of resolved `options` for so many classes.

        `forward(images, targets, score)` returns its losses by name, `detect(images, sizes)` the `Detections` of each
        image, and its attribute `mixed` says whether to compute in bfloat16.

        Args:
            options: of the detector.
            classes: how many.
            pretrained: load the weights that the options name; not needed where others follow.
        """
        raise NotImplementedError

    @classmethod
    def sampler_of(cls, options: Any) -> type[CropSampler]:
        """What makes training batches: random crops."""
        return CropSampler

    @classmethod
    def optimiser_of(cls, options: Any, network: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a network's parameters."""
        return adamw(network, options.learning_rate, options.weight_decay)

    @classmethod
    def of_weights(cls: type[Trained], options: Any, classes: dict[int, str], weights: Weights) -> Trained:
        """A detector with these weights, neither measured nor calibrated."""
        return cls(options, classes, weights, Calibration(), {})

    @classmethod
    def load(cls: type[Trained], checkpoint: str | Path, **options: Any) -> Trained:
        """The detector stored at `checkpoint`.

        `options` may give anew what concerns prediction only: device, thresholds, feature kind and so on. Raises
        InputError where the file is missing, not a checkpoint of this detector, or an option is not one of those.
        """
        stored = read(Path(checkpoint), cls.FORMAT)
        return cls(
            cls.OPTIONS.of_checkpoint(stored["options"], options),
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

    def detect(self, pixels: torch.Tensor, sizes: list[tuple[int, int]]) -> list[Detections]:
        """What the network detects in a batch of images or tiles, see `network_of`."""
        return self.network.detect(pixels.contiguous(memory_format=torch.channels_last), sizes)

    def _pipeline(self, kinds: Sequence[str]) -> Pipeline:
        return Pipeline(self.detect, self.options, self.device, list(self.classes), self.calibration, kinds)

    @classmethod
    def check_options(cls, options: dict[str, Any]) -> None:
        """Raises InputError for an unknown option or a bad value."""
        cls.OPTIONS.create(options)

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
        """Trains into the folder `output` and returns the finished checkpoint.

        A run that was killed goes on from its last checkpoint; a finished one of the same sets and options is
        returned as it is. Beside the checkpoint lies `metrics.json` with AP and calibration on `heldout`.

        Args:
            data: annotated images. Those not `exhaustive` teach objects, but not background.
            heldout: images for AP and for the calibration of predicted IoU; none leaves both out.
            output: folder, made if need be.
            options: of the detector.
            progress: called with ("train" or "heldout", done, total).
            start_from: checkpoint of an earlier round, whose weights, scale and anchors are taken over.

        Raises InputError for bad options, a set without objects, or weights or a checkpoint that does not fit.
        """
        output = Path(output)
        chosen = cls.OPTIONS.create(options)
        if chosen.device:
            # Here, where an error is one of the options, and not in a process of the run.
            chosen_device(chosen)
        earlier = read(Path(start_from), cls.FORMAT) if start_from else None
        classes = dict(sorted(data.classes.items()))
        if earlier is not None:
            chosen = continued(chosen, earlier, classes, cls.KEPT)
        chosen = chosen.resolve(data)
        identity = chosen.identity() | ({"training": cls.TRAINING} if cls.TRAINING > 1 else {})
        name = fingerprint(identity, data, heldout, earlier and earlier["network"])
        finished = output / CHECKPOINT
        if finished.is_file() and read(finished, cls.FORMAT)["fingerprint"] == name:
            return finished
        unfinished = Unfinished(output / UNFINISHED, name)
        weights = earlier["network"] if earlier else None
        done = train(Run(cls, data, heldout, chosen, unfinished, weights, again=weights is not None), progress)
        detector = cls.of_weights(chosen, classes, done.weights)
        if heldout is not None and heldout.annotations:
            predictions = detector.predict(heldout.images)
            limit = chosen.max_detections
            detector.calibration, detector.metrics = measure(predictions, heldout, limit, chosen.calibrate, progress)
        detector.metrics |= {"best_step": done.step, "steps": done.course["steps"], "training": done.course}
        stored = {
            "format": cls.FORMAT,
            "fingerprint": name,
            "options": detector.options.model_dump(mode="json"),
            "classes": classes,
            "network": done.weights,
            "calibration": [list(detector.calibration.raw), list(detector.calibration.calibrated)],
            "metrics": json.dumps(detector.metrics),
        }
        save(finished, stored)
        with whole_file(output / METRICS) as file:
            json.dump(detector.metrics, file, indent=2)
        (output / UNFINISHED).unlink(missing_ok=True)
        return finished


def continued(options: Options, earlier: dict[str, Any], classes: dict[int, str], kept: Sequence[str]) -> Options:
    """Options that go with the weights of an earlier round, whose options `kept` are taken over.

    Raises InputError where they cannot.
    """
    former = options.create(earlier["options"])
    if former.preset != options.preset:
        raise InputError("start_from", f"a checkpoint of preset {options.preset}", former.preset)
    if earlier["classes"] != classes:
        raise InputError("start_from", f"a checkpoint for the classes {classes}", earlier["classes"])
    values = {name: getattr(former, name) for name in kept}
    if options.min_area is None:
        values["min_area"] = former.min_area
    return options.model_copy(update=values)
