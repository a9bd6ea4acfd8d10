"""Mask Scoring R-CNN on torchvision: a detector that pip alone installs, for a CPU or a GPU."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from ml_backend.calibration import Calibration
from ml_backend.coco import CocoDataset, ImageRecord
from ml_backend.detector import Progress
from ml_backend.detectors.augmentation import CropSampler
from ml_backend.detectors.network import Detections
from ml_backend.detectors.options import DetectorOptions
from ml_backend.detectors.pipeline import Pipeline
from ml_backend.detectors.presets import build
from ml_backend.errors import InputError
from ml_backend.evaluation import measure
from ml_backend.features import KINDS
from ml_backend.predictions import Predictions
from ml_backend.training import Schedule, digest, fingerprint, read, run, save

log = logging.getLogger(__name__)

FORMAT = "mask-scoring-rcnn/1"
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


class MaskScoringRCNN:
    """Masks, confidence, predicted IoU and features of every image.

    Attributes:
        version: a name of the weights, the same for the same weights.
        classes: category id to name.
        options: how it was trained and predicts.
        metrics: AP and calibration on the held-out images, as far as they were measured.
    """

    def __init__(
        self,
        options: DetectorOptions,
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
        self.network.to(self.device).to(memory_format=torch.channels_last).eval()
        self.version = f"{options.preset}-{digest(state, list(calibration.raw), list(calibration.calibrated))}"

    @classmethod
    def load(cls, checkpoint: str | Path, **options: Any) -> MaskScoringRCNN:
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
            DetectorOptions.create(values),
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
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        half = bfloat16_where_fast(self.options, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self.network.detect(pixels, sizes)

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
            options: of `DetectorOptions`.
            progress: called with ("train" or "heldout", done, total).
            start_from: checkpoint of an earlier round, whose weights, scale and anchors are taken over.

        Raises InputError for bad options, a set without objects, or a checkpoint that does not fit.
        """
        output = Path(output)
        chosen = DetectorOptions.create(options)
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
        network = _train_network(data, list(classes), chosen, output / UNFINISHED, name, earlier, progress)
        state = {k: v.detach().cpu() for k, v in network.state_dict().items()}
        detector = cls(chosen, classes, state, Calibration(), {})
        if heldout is not None and heldout.annotations:
            found = detector.predict(heldout.images)
            limit = chosen.max_detections
            detector.calibration, detector.metrics = measure(found, heldout, limit, chosen.calibrate, progress)
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


def _train_network(data, classes, options, unfinished, name, earlier, progress):
    device = chosen_device(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    network = build(options, len(classes), pretrained=earlier is None)
    network.to(device).to(memory_format=torch.channels_last)
    if earlier is not None:
        network.load_state_dict(earlier["network"])
    sampler = CropSampler(data, classes, options)
    half = bfloat16_where_fast(options, device)

    def losses(net, batch, step):
        images, targets = batch
        images = images.to(device, memory_format=torch.channels_last)
        score = earlier is not None or step >= options.steps * options.score_from
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return net(images, [t.to(device) for t in targets], score)

    schedule = Schedule(
        options.steps, options.learning_rate, options.weight_decay, min(options.warmup, options.steps // 2),
        options.averaging, options.clip, options.checkpoint_every, options.seed,
    )  # fmt: skip
    run(network, sampler.batch, losses, schedule, unfinished, name, progress)
    return network


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
