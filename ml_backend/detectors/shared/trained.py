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
from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.detectors.shared.pipeline import Pipeline
from ml_backend.detectors.shared.records import Detections
from ml_backend.errors import InputError
from ml_backend.learning.calibration import Calibration
from ml_backend.learning.evaluation import measure
from ml_backend.learning.features import KINDS
from ml_backend.learning.training import digest, fingerprint, read, save
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions

CHECKPOINT, UNFINISHED, METRICS = "model.pt", "unfinished.pt", "metrics.json"
# Options that change what is predicted, or how fast, but not the weights; they may be given anew when a checkpoint is
# loaded.
PREDICTION_OPTIONS = {
    "device", "threads", "bfloat16", "min_score", "min_area", "nms", "mask_nms", "max_detections", "predict_batch",
    "tile", "feature", "feature_width", "readers", "encoders", "paste_pixels",
}  # fmt: skip
# Options that a later round takes over with the weights.
KEPT_OPTIONS = ("scale", "anchors", "standardise")

Options = TypeVar("Options", bound=DetectorOptions)
Trained = TypeVar("Trained", bound="TrainedDetector")


class TrainedDetector:
    """Masks, confidence, predicted IoU and features of every image; a network's own part is in what derives from it.

    Attributes:
        version: a name of the weights, the same for the same weights.
        classes: category id to name.
        options: how it was trained and predicts.
        metrics: AP and calibration on the held-out images, as far as they were measured.
    """

    FORMAT: ClassVar[str]
    OPTIONS: ClassVar[type[DetectorOptions]]
    KEPT: ClassVar[tuple[str, ...]] = KEPT_OPTIONS
    NAME: ClassVar[str] = ""  # what its versions begin with

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
        self.network: Any = self._build()
        self.network.load_state_dict(state)
        self.network.to(self.device).to(memory_format=torch.channels_last).eval()
        name = digest(state, list(calibration.raw), list(calibration.calibrated))
        self.version = f"{self.NAME}{options.preset}-{name}"

    def _build(self) -> nn.Module:
        """The network of the options, without weights."""
        raise NotImplementedError

    def _detect(self, pixels: torch.Tensor, sizes: list[tuple[int, int]]) -> list[Detections]:
        raise NotImplementedError

    @classmethod
    def _check(cls, options: Any) -> None:
        """Raises InputError for options with which a run need not begin."""

    @classmethod
    def _learn(
        cls,
        data: CocoDataset,
        heldout: CocoDataset | None,
        options: Any,
        unfinished: Path,
        name: str,
        earlier: dict[str, Any] | None,
        progress: Progress | None,
    ) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The weights that a run ends with, on the CPU, and what is to be told of it beside its metrics."""
        raise NotImplementedError

    @classmethod
    def load(cls: type[Trained], checkpoint: str | Path, **options: Any) -> Trained:
        """The detector stored at `checkpoint`.

        `options` may give anew what concerns prediction only: device, thresholds, feature kind and so on. Raises
        InputError where the file is missing, not a checkpoint of this detector, or an option is not one of those.
        """
        stored = read(Path(checkpoint), cls.FORMAT)
        for name in options:
            if name not in PREDICTION_OPTIONS:
                raise InputError(f"detector option {name}", f"one of {', '.join(sorted(PREDICTION_OPTIONS))}", name)
        values = {**stored["options"], **{k: v for k, v in options.items() if v is not None}}
        return cls(
            cls.OPTIONS.create(values),
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
        back as it is. Beside the checkpoint lies `metrics.json` with AP and calibration on `heldout`.

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
        cls._check(chosen)
        earlier = read(Path(start_from), cls.FORMAT) if start_from else None
        classes = dict(sorted(data.classes.items()))
        if earlier is not None:
            chosen = continued(chosen, earlier, classes, cls.KEPT)
        chosen = chosen.resolve(data)
        values = chosen.model_dump(mode="json", exclude=PREDICTION_OPTIONS)
        name = fingerprint(values, data, heldout, earlier and earlier["network"])
        finished = output / CHECKPOINT
        if finished.is_file() and read(finished, cls.FORMAT)["fingerprint"] == name:
            return finished
        state, told = cls._learn(data, heldout, chosen, output / UNFINISHED, name, earlier, progress)
        detector = cls(chosen, classes, state, Calibration(), {})
        if heldout is not None and heldout.annotations:
            found = detector.predict(heldout.images)
            limit = chosen.max_detections
            detector.calibration, detector.metrics = measure(found, heldout, limit, chosen.calibrate, progress)
        detector.metrics |= told
        stored = {
            "format": cls.FORMAT,
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


def chosen_device(options: DetectorOptions) -> torch.device:
    """The device of the options, or the best there is. Raises InputError where this machine has no such device."""
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Named by its number, for other threads may have another current one.
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError):
        here = ", ".join(["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))])
        raise InputError("detector option device", f"a torch device of this machine ({here})", name) from None


def bfloat16_where_fast(options: DetectorOptions, device: torch.device) -> bool:
    """Whether to compute in bfloat16: as the options say, else where the device itself does and nothing emulates it."""
    if options.bfloat16 is not None:
        return options.bfloat16
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())
