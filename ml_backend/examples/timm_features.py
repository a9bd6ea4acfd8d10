"""Masks of any model, from a COCO results file, with features of their crops by any `timm` backbone.

Options: `results`, the file; `backbone`, a name of `timm`; `weights`, a file of them, else `pretrained` (downloaded),
or neither for random ones.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import timm
import torch

from ml_backend.detectors.coco_results import CocoResults
from ml_backend.errors import InputError
from ml_backend.learning.checkpoints import digest, read, save
from ml_backend.masks.images import read_rgb

FORM = "timm-features-1"
SIDE, MARGIN = 224, 0.1


class TimmFeatures:
    """The results' masks and scores; the feature is the backbone's pooled one of the crop around the mask."""

    def __init__(self, stored, results):
        self.masks, self.classes = results, results.classes
        self.network = timm.create_model(stored["backbone"], num_classes=0)
        self.network.load_state_dict(stored["weights"])
        self.network.eval()
        self.version = f"timm-{digest({'masks': results.version, 'backbone': stored['backbone']}, stored['weights'])}"

    @classmethod
    def load(cls, checkpoint, **_options):
        return cls(read(Path(checkpoint), FORM), CocoResults.load(Path(checkpoint).with_name("results.sqlite")))

    def predict(self, images):
        for image in images:
            rgb = read_rgb(image.path)
            if rgb.shape[:2] != (image.height, image.width):
                found = f"{rgb.shape[1]}x{rgb.shape[0]}"
                raise InputError(image.path, f"an image of {image.width}x{image.height}", found)
            masks = next(self.masks.predict([image]))
            yield replace(masks, features=self.features(rgb, masks.box))

    @torch.inference_mode()
    def features(self, rgb, boxes):
        """(n, d) of n boxes, each with a margin, in batches of 32."""
        values = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 127.5 - 1
        crops = []
        for x, y, w, h in boxes.tolist():
            left, top = max(0, int(x - MARGIN * w)), max(0, int(y - MARGIN * h))
            crop = values[:, :, top : int(y + h + MARGIN * h) + 1, left : int(x + w + MARGIN * w) + 1]
            crops.append(torch.nn.functional.interpolate(crop, (SIDE, SIDE), mode="bilinear", antialias=True))
        parts = [self.network(torch.cat(crops[n : n + 32])) for n in range(0, len(crops), 32)]
        return torch.cat(parts).numpy() if parts else np.zeros((0, self.network.head_hidden_size))

    @classmethod
    def train(cls, data, heldout, output, *, options, progress=None, start_from=None):
        """Nothing is trained: the backbone is kept beside the results."""
        checkpoint = Path(output) / "backbone.pt"
        earlier = Path(start_from) if start_from else None
        results = options.get("results") or (earlier and earlier.with_name("results.sqlite"))
        CocoResults.train(data, heldout, output, options={"results": results})
        if not checkpoint.exists():
            torch.manual_seed(options.get("seed", 0))
            name = options.get("backbone", "resnet18")
            network = timm.create_model(name, pretrained=options.get("pretrained", False), num_classes=0)
            if options.get("weights"):
                network.load_state_dict(torch.load(options["weights"], weights_only=True), strict=False)
            stored = read(earlier, FORM) if earlier else {"backbone": name, "weights": network.state_dict()}
            save(checkpoint, {"format": FORM} | stored)
        return checkpoint
