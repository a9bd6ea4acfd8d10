"""`sam2`: Segment Anything 2 from the optional package `sam2`, with weights of the user's. Nothing is trained here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from ml_backend.detector import Progress
from ml_backend.errors import InputError
from ml_backend.interactive.options import Sam2Options
from ml_backend.interactive.prompts import checked
from ml_backend.interactive.segmenter import Prompt, Proposal
from ml_backend.learning.checkpoints import digest
from ml_backend.learning.devices import chosen_device
from ml_backend.masks.coco import CocoDataset

# Logits of a previous mask, and the side on which the model takes them.
_CERTAIN, _MASK_SIDE = 8.0, 256


@dataclass(frozen=True)
class Sam2Encoding:
    """A picture that a predictor of the package holds; prompts only read it."""

    predictor: Any
    height: int
    width: int
    nbytes: int


class Sam2Segmenter:
    """Masks of boxes, clicks and previous masks by a model of the package `sam2`.

    Attributes:
        version: a name of the weights, the same for the same weights.
        options: of the model.
    """

    NAME: ClassVar[str] = "sam2"

    def __init__(self, model: Any, options: Sam2Options):
        self.model, self.options = model.eval(), options
        self.version = f"{self.NAME}-{digest(dict(model.state_dict()), options.config)}"

    @classmethod
    def load(cls, checkpoint: str | Path, **options: Any) -> Sam2Segmenter:
        """The model with the weights in the file `checkpoint`, as they are published.

        Raises InputError where the package or the file is missing, or the weights are not those of `config`.
        """
        chosen = Sam2Options.create({k: v for k, v in options.items() if v is not None})
        path = Path(checkpoint)
        if not path.is_file():
            raise InputError(path, "weights of sam2", "no such file")
        model = built(chosen)
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
            model.load_state_dict(stored["model"])
        except Exception as error:
            raise InputError(path, f"weights of sam2 for {chosen.config}", type(error).__name__) from None
        return cls(model, chosen)

    @classmethod
    def train(
        cls,
        data: CocoDataset,
        heldout: CocoDataset | None,
        output: Path,
        *,
        options: dict[str, Any],
        progress: Progress | None = None,
    ) -> Path:
        """Raises InputError: its weights come from elsewhere."""
        raise InputError("sam2", "weights in `correct.checkpoint`, as nothing of it is trained here", "a training")

    def encode(self, image: np.ndarray) -> Sam2Encoding:
        """The picture, (height, width, 3) uint8 RGB, as `segment` takes it."""
        from sam2.sam2_image_predictor import SAM2ImagePredictor

        predictor = SAM2ImagePredictor(self.model)
        predictor.set_image(image)
        features = predictor._features
        held = [features["image_embed"], *features["high_res_feats"]]
        nbytes = sum(tensor.numel() * tensor.element_size() for tensor in held)
        return Sam2Encoding(predictor, image.shape[0], image.shape[1], nbytes + image.nbytes)

    def segment(self, encoding: Sam2Encoding, prompt: Prompt) -> Proposal:
        """The mask of the object that the prompt is about. Raises InputError where that has no box, click or mask."""
        said = checked(prompt, encoding.height, encoding.width)
        clicks = said.clicks
        logits, iou, _ = encoding.predictor.predict(
            point_coords=np.array([(c.x, c.y) for c in clicks], np.float32) if clicks else None,
            point_labels=np.array([int(c.positive) for c in clicks]) if clicks else None,
            box=None if said.box is None else np.array(said.box, np.float32),
            mask_input=None if said.previous is None else previous_logits(said.previous),
            multimask_output=False,
            return_logits=True,
        )
        surest = np.log(0.6 / 0.4)
        low, high = int((logits[0] > -surest).sum()), int((logits[0] > surest).sum())
        return Proposal(logits[0] > 0, float(np.clip(iou[0], 0, 1)), high / max(low, 1))


def built(options: Sam2Options) -> Any:
    """The model of a configuration, with random weights. Raises InputError where the package or that is missing."""
    try:
        from sam2.build_sam import build_sam2
    except ImportError as error:
        raise InputError(
            "segmenter sam2", "its package, pip install 'label-studio-cluster-verification[sam2]'", error
        ) from None
    try:
        return build_sam2(options.config, None, device=str(chosen_device(options)))
    except InputError:
        raise
    except Exception as error:
        raise InputError("segmenter option config", "a configuration of the package sam2", error) from None


def previous_logits(mask: np.ndarray) -> np.ndarray:
    """A mask (height, width) as the model takes it, (1, 256, 256) float32 logits over the whole picture."""
    import cv2

    shares = cv2.resize(mask.astype(np.float32), (_MASK_SIDE, _MASK_SIDE), interpolation=cv2.INTER_AREA)
    return ((2 * shares - 1) * _CERTAIN)[None]
