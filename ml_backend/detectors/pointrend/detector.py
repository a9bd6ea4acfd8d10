"""PointRend with an IoU head on detectron2: the published detector, for GPUs, and a small one for CPUs and tests.

detectron2 is in no package index and is installed from its repository; without it this module cannot be imported.
"""

from __future__ import annotations

import torch

from ml_backend.detectors.pointrend.config import PointRendOptions
from ml_backend.detectors.pointrend.network import build
from ml_backend.detectors.pointrend.training import Run, train
from ml_backend.detectors.shared.records import Detections
from ml_backend.detectors.shared.trained import KEPT_OPTIONS, TrainedDetector, bfloat16_where_fast, chosen_device


class PointRend(TrainedDetector):
    """detectron2's PointRend with an IoU head; the weights are the best of a run by AP on the held-out images."""

    FORMAT = "pointrend/1"
    OPTIONS = PointRendOptions
    KEPT = (*KEPT_OPTIONS, "norm", "schedule")
    NAME = "pointrend-"

    def _build(self):
        network = build(self.options, len(self.classes), pretrained=False)
        network.mixed = bfloat16_where_fast(self.options, self.device)
        return network

    def _detect(self, pixels: torch.Tensor, sizes: list[tuple[int, int]]) -> list[Detections]:
        return self.network.detect(pixels.contiguous(memory_format=torch.channels_last), sizes)

    @classmethod
    def _check(cls, options: PointRendOptions) -> None:
        if options.device:
            # Here, where an error is told as one, and not in a process of the run.
            chosen_device(options)

    @classmethod
    def _learn(cls, data, heldout, options, unfinished, name, earlier, progress):
        weights = earlier["network"] if earlier else None
        classes = dict(sorted(data.classes.items()))
        run = Run(data, heldout, classes, options, unfinished, name, weights, again=bool(earlier))
        state, best = train(run, progress)
        return state, {"best_step": best["step"], "steps": options.steps}
