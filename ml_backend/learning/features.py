"""Features of predicted masks, by which they are clustered, and the projection that makes them small.

"Scaling up instance annotation via label propagation", section 3.2, and the embeddings of Mask R-CNN and Mask Scoring
R-CNN (J. Hu, MIT MSc thesis 2019). Shared by every detector of this package. Beside them how stable a mask is.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ml_backend.learning.iou_head import resize_masks

FeatureKind = Literal["mask_attention", "backbone", "mask_logits", "mask_iou", "box_head", "box_and_iou_head"]
KINDS: tuple[str, ...] = get_args(FeatureKind)
WIDTH = 512
SEED = 20210621
_ROI, _MASK = 7, 56
# Layers of a head, which are stored as they are.
_LAYERS = frozenset({"mask_iou", "box_head", "box_and_iou_head"})
# Probabilities at which a mask is cut to see how much of it depends on the cut.
_LOW, _HIGH = 0.4, 0.6


def raw_feature(kind: str, roi_features: Tensor, masks: Tensor, hidden: Tensor, box_hidden: Tensor) -> Tensor:
    """One feature per mask before projection, float32.

    | kind | what | width |
    | --- | --- | --- |
    | mask_attention | P2 RoI features at 7x7 times the mask at 7x7 | 49 x channels |
    | backbone | P2 RoI features at 7x7 | 49 x channels |
    | mask_logits | mask probabilities at 56x56 | 3136 |
    | mask_iou | second fully connected layer of the IoU head | its width |
    | box_head | last fully connected layer of the box head | its width |
    | box_and_iou_head | box_head, then mask_iou | both widths |

    Args:
        kind: one of `KINDS`.
        roi_features: (n, channels, 14, 14) from the finest pyramid level, P2.
        masks: (n, h, w) probabilities of the final masks over their boxes.
        hidden: (n, hidden) second output of the IoU head.
        box_hidden: (n, box_hidden) last fully connected layer of the box head, which class and box are predicted from.
    """
    if kind == "mask_iou":
        return hidden.float()
    if kind == "box_head":
        return box_hidden.float()
    if kind == "box_and_iou_head":
        return torch.cat([box_hidden.float(), hidden.float()], 1)
    if kind == "mask_logits":
        return resize_masks(masks, _MASK).flatten(1)
    if kind not in KINDS:
        raise ValueError(f"expected a feature kind among {', '.join(KINDS)}, got {kind!r}")
    small = functional.adaptive_avg_pool2d(roi_features.float(), _ROI)
    if kind == "mask_attention":
        small = small * resize_masks(resize_masks(masks, _MASK), _ROI)[:, None]
    return small.flatten(1)


def stability(masks: Tensor) -> Tensor:
    """How little of each mask depends on where its probabilities are cut, (n,) float32 from 0 to 1.

    The IoU of the mask cut at 0.4 and at 0.6 (after the stability score of "Segment Anything", section 4): 1 where its
    outline is sharp, 0 where it never passes 0.6.

    Args:
        masks: (n, h, w) probabilities of the final masks over their boxes.
    """
    fine = resize_masks(masks, _MASK) if masks.shape[-1] < _MASK else masks
    wide, narrow = ((fine > cut).flatten(1).sum(1) for cut in (_LOW, _HIGH))
    return narrow / wide.clamp(min=1)


def feature_width(kind: str, raw_width: int, width: int = WIDTH) -> int:
    """Width of a feature after `project`."""
    return raw_width if kind in _LAYERS or raw_width <= width else width


def project(kind: str, raw: Tensor, width: int = WIDTH, seed: int = SEED) -> Tensor:
    """Features as they are stored, (n, at most width) float16.

    All kinds but layers of a head go through a Gaussian random projection, which keeps distances in expectation; one
    that is narrow already stays as it is. The same seed gives the same projection on every machine. Computed where
    `raw` is; the matrix stays there for the next images.
    """
    if feature_width(kind, raw.shape[1], width) != raw.shape[1]:
        raw = raw @ _matrix(raw.shape[1], width, seed, raw.device)
    return raw.clamp(-65504, 65504).half()


@lru_cache(maxsize=8)
def projection(raw_width: int, width: int = WIDTH, seed: int = SEED) -> np.ndarray:
    """The Gaussian projection matrix, (raw_width, width) float32, of variance 1/width.

    Drawn by NumPy's frozen legacy generator, whose stream no release may change.
    """
    draws = np.random.RandomState(seed).standard_normal((raw_width, width))
    return (draws / np.sqrt(width)).astype(np.float32)


@lru_cache(maxsize=8)
def _matrix(raw_width: int, width: int, seed: int, device: torch.device) -> Tensor:
    return torch.from_numpy(projection(raw_width, width, seed)).to(device)
