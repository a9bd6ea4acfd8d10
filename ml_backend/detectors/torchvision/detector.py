"""Mask Scoring R-CNN on torchvision: a detector that pip alone installs, for a CPU or a GPU."""

from __future__ import annotations

import torch

from ml_backend.detectors.shared.augmentation import CropSampler
from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.detectors.shared.records import Detections
from ml_backend.detectors.shared.trained import TrainedDetector, bfloat16_where_fast, chosen_device
from ml_backend.detectors.torchvision.presets import build
from ml_backend.learning.training import Schedule, run


class MaskScoringRCNN(TrainedDetector):
    """torchvision's Mask R-CNN with an IoU head."""

    FORMAT = "mask-scoring-rcnn/1"
    OPTIONS = DetectorOptions

    def _build(self):
        return build(self.options, len(self.classes), pretrained=False)

    def _detect(self, pixels: torch.Tensor, sizes: list[tuple[int, int]]) -> list[Detections]:
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        half = bfloat16_where_fast(self.options, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
            return self.network.detect(pixels, sizes)

    @classmethod
    def _learn(cls, data, heldout, options, unfinished, name, earlier, progress):
        device = chosen_device(options)
        if options.threads:
            torch.set_num_threads(options.threads)
        network = build(options, len(data.classes), pretrained=earlier is None)
        network.to(device).to(memory_format=torch.channels_last)
        if earlier is not None:
            network.load_state_dict(earlier["network"])
        sampler = CropSampler(data, sorted(data.classes), options)
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
        return {k: v.detach().cpu() for k, v in network.state_dict().items()}, {}
