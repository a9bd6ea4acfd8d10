"""PointRend with an IoU head on detectron2: the published detector, for GPUs, and a small one for CPUs and tests.

detectron2 is in no package index and is installed from its repository; without it this module cannot be imported.
"""

from __future__ import annotations

from typing import Any

import torch
from detectron2.solver.build import get_default_optimizer_params
from torch import nn

from ml_backend.detectors.pointrend.config import PointRendOptions
from ml_backend.detectors.pointrend.network import PointRendNetwork, build
from ml_backend.detectors.pointrend.whole_images import ImageSampler
from ml_backend.detectors.shared.augmentation import CropSampler
from ml_backend.detectors.shared.trained import KEPT_OPTIONS, TrainedDetector


class PointRend(TrainedDetector):
    """detectron2's PointRend with an IoU head; the weights are the best of a run by AP on the held-out images."""

    FORMAT = "pointrend/1"
    OPTIONS = PointRendOptions
    KEPT = (*KEPT_OPTIONS, "norm", "schedule")
    NAME = "pointrend-"
    CHANNELS_LAST_ON_GPU = False

    @classmethod
    def network_of(cls, options: Any, classes: int, pretrained: bool) -> PointRendNetwork:
        """The network of a preset, see `ml_backend.detectors.pointrend.network`."""
        return build(options, classes, pretrained)

    @classmethod
    def sampler_of(cls, options: Any) -> type[CropSampler]:
        """Random crops, or whole images in the published schedule."""
        return ImageSampler if options.whole_images else CropSampler

    @classmethod
    def optimiser_of(cls, options: Any, network: nn.Module) -> torch.optim.Optimizer:
        """As detectron2 sets up sgd, where all decays but the weights of normalisation; adamw spares biases too."""
        if options.optimiser != "sgd":
            return super().optimiser_of(options, network)
        groups = get_default_optimizer_params(network, weight_decay=options.weight_decay, weight_decay_norm=0.0)
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=0.9)
