"""The IoU head: how well a predicted mask fits, from RoI features and the mask itself.

Shared by every detector of this package ("Scaling up instance annotation via label propagation", section 3, after
Mask Scoring R-CNN). It looks at the mask that is exported, not at an intermediate one, and knows no classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

RESOLUTION = 14


class IoUHead(nn.Module):
    """Predicts the IoU of n masks with their true masks.

    Four 3x3 convolutions over the RoI features with the mask as one more channel, the last of stride 2, then two
    fully connected layers and one sigmoid. The published widths are 256 channels and 1024 units; a narrow network
    takes narrower ones.

    Args:
        channels: channels of the RoI features, without the mask.
        width: channels of the convolutions.
        hidden: units of each of the two fully connected layers.
    """

    def __init__(self, channels: int = 256, width: int = 256, hidden: int = 1024):
        super().__init__()
        widths = [channels + 1, width, width, width, width]
        convolutions = [nn.Conv2d(widths[i], widths[i + 1], 3, stride=2 if i == 3 else 1, padding=1) for i in range(4)]
        self.convolutions = nn.ModuleList(convolutions)
        self.first = nn.Linear(width * (RESOLUTION // 2) ** 2, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.last = nn.Linear(hidden, 1)
        for convolution in convolutions:
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            if convolution.bias is not None:
                nn.init.zeros_(convolution.bias)
        for layer in (self.first, self.second):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.zeros_(self.last.bias)

    @property
    def hidden(self) -> int:
        """Width of the MaskIoU feature."""
        return self.second.out_features

    def forward(self, roi_features: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """(predicted IoU (n,), output of the second fully connected layer (n, hidden)).

        Args:
            roi_features: (n, channels, 14, 14). Detached here: this head teaches the detector nothing.
            masks: (n, h, w) probabilities of the final masks over their boxes, of any resolution. Detached too.
        """
        small = resize_masks(masks.detach(), RESOLUTION).to(roi_features.dtype)
        x = torch.cat([roi_features.detach(), small[:, None]], dim=1)
        for convolution in self.convolutions:
            x = functional.relu(convolution(x))
        x = functional.relu(self.first(x.flatten(1)))
        hidden = functional.relu(self.second(x))
        return torch.sigmoid(self.last(hidden).float())[:, 0], hidden


def resize_masks(masks: Tensor, size: int) -> Tensor:
    """(n, h, w) mask probabilities as (n, size, size) float32, bilinear and antialiased."""
    if masks.shape[0] == 0:
        return masks.new_zeros((0, size, size), dtype=torch.float32)
    masks = masks.float()
    if masks.shape[-2:] == (size, size):
        return masks
    return functional.interpolate(
        masks[:, None], size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )[:, 0]


def iou_loss(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of predicted IoU, (n,) against (n,); 0 where an image gave no mask to learn from."""
    if predicted.numel() == 0:
        return predicted.sum()
    return functional.l1_loss(predicted.float(), target.detach().float())


def balanced(target: Tensor, low: float = 0.1) -> Tensor:
    """Rows to learn from: all masks with a target over `low`, and at most as many of the others.

    The mean absolute error is least at the median, so a head that sees mostly misses early in training would settle
    on 0 for good.
    """
    hits, misses = torch.nonzero(target > low)[:, 0], torch.nonzero(target <= low)[:, 0]
    return torch.cat([hits, misses[: len(hits)]])
