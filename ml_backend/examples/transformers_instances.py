"""Instance segmentation by `transformers` as a detector: Mask2Former, MaskFormer and their kin, fine-tuned.

Options: `model`, a name or folder that `from_pretrained` takes; `steps`, `learning_rate`, `seed`.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from pycocotools import mask as mask_util
from transformers import AutoModelForUniversalSegmentation

from ml_backend.errors import InputError
from ml_backend.files import write_whole
from ml_backend.learning.checkpoints import digest
from ml_backend.masks.coco import decode
from ml_backend.masks.images import read_rgb
from ml_backend.predictions import Predictions


def pixels(image):
    """The image as the network takes it, (1, 3, h, w). Raises InputError where it is none or of another size."""
    rgb = read_rgb(image.path)
    if rgb.shape[:2] != (image.height, image.width):
        raise InputError(image.path, f"an image of {image.width}x{image.height}", f"{rgb.shape[1]}x{rgb.shape[0]}")
    side = [max(32, round(length / 32) * 32) for length in rgb.shape[:2]]
    values = torch.from_numpy(rgb).permute(2, 0, 1)[None].float() / 127.5 - 1
    return torch.nn.functional.interpolate(values, side, mode="bilinear", antialias=True)


class TransformersInstances:
    """One mask for each query that is no background; its score is the class's times how sure its pixels are."""

    QUICK: ClassVar = {"steps": 2}

    def __init__(self, folder):
        self.model = AutoModelForUniversalSegmentation.from_pretrained(folder).eval()
        self.classes = {int(k): v for k, v in json.loads((folder / "classes.json").read_text()).items()}
        self.version = f"transformers-{digest(self.model.state_dict())}"

    @classmethod
    def load(cls, checkpoint, **_options):
        if Path(checkpoint).name != "classes.json" or not Path(checkpoint).is_file():
            raise InputError(checkpoint, "a checkpoint of this detector", "another file or none")
        return cls(Path(checkpoint).parent)

    @torch.inference_mode()
    def predict(self, images):
        for image in images:
            out = self.model(pixels(image), output_hidden_states=True)
            confidence, label = out.class_queries_logits[0].softmax(-1)[:, :-1].max(-1)
            size = (image.height, image.width)
            logits = torch.nn.functional.interpolate(out.masks_queries_logits, size, mode="bilinear")[0]
            masks, sure = logits > 0, logits.sigmoid()
            area = masks.flatten(1).sum(1)
            fits = (sure * masks).flatten(1).sum(1) / area.clamp(min=1)
            kept = torch.nonzero(area)[:, 0]
            kept = kept[torch.argsort(-(confidence * fits)[kept], stable=True)]
            rles = [mask_util.encode(np.asfortranarray(masks[q].numpy().astype(np.uint8))) for q in kept]
            yield Predictions(
                mask_id=range(len(kept)), image_id=[image.id] * len(kept),
                class_id=[sorted(self.classes)[n] for n in label[kept]], box=[mask_util.toBbox(rle) for rle in rles],
                rle=np.array([rle["counts"] for rle in rles], object), size=[size] * len(kept),
                confidence=confidence[kept], predicted_iou=fits[kept],
                features=out.transformer_decoder_last_hidden_state[0][kept],
            )  # fmt: skip

    @classmethod
    def train(cls, data, heldout, output, *, options, progress=None, start_from=None):
        """A killed run begins anew, with the same seed, and ends the same."""
        finished = Path(output) / "classes.json"
        if finished.exists():
            return finished
        torch.manual_seed(options.get("seed", 0))
        source = Path(start_from).parent if start_from else options["model"]
        classes, of_image = sorted(data.classes), defaultdict(list)
        model = AutoModelForUniversalSegmentation.from_pretrained(
            source, num_labels=len(classes), ignore_mismatched_sizes=True
        ).train()
        optimiser = torch.optim.AdamW(model.parameters(), options.get("learning_rate", 1e-4))
        for annotation in data.annotations:
            of_image[annotation.image_id].append(annotation)
        for step in range(steps := options.get("steps", 2000)):
            image = [i for i in data.images if of_image[i.id]][step % len(of_image)]
            values, own = pixels(image), of_image[image.id]
            masks = torch.from_numpy(np.stack([decode(a.rle) for a in own])).float()[:, None]
            masks = torch.nn.functional.interpolate(masks, values.shape[2:])[:, 0]
            labels = torch.tensor([classes.index(a.class_id) for a in own])
            optimiser.zero_grad()
            model(values, mask_labels=[masks], class_labels=[labels]).loss.backward()
            optimiser.step()
            if progress:
                progress("train", step + 1, steps)
        model.save_pretrained(output)
        write_whole(finished, lambda partial: partial.write_text(json.dumps(data.classes)))
        return finished
