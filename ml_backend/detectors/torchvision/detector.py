"""Mask Scoring R-CNN on torchvision: a detector that pip alone installs, for a CPU or a GPU."""

from __future__ import annotations

from typing import Any

from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.detectors.shared.trained import TrainedDetector
from ml_backend.detectors.torchvision.network import MaskScoringNetwork
from ml_backend.detectors.torchvision.presets import build


class MaskScoringRCNN(TrainedDetector):
    """torchvision's Mask R-CNN with an IoU head; the weights are the last of a run unless AP is measured on the way."""

    FORMAT = "mask-scoring-rcnn/1"
    OPTIONS = DetectorOptions
    TRAINING = 2  # the backbone also learns from the class of every pixel
    # The IoU head learns in a part of the steps only.
    ALL_USED = False

    @classmethod
    def network_of(cls, options: Any, classes: int, pretrained: bool) -> MaskScoringNetwork:
        """The network of a preset, see `ml_backend.detectors.torchvision.presets`."""
        return build(options, classes, pretrained)
