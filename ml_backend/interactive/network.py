"""The network of `click`: a thin encoder of the whole picture, and a small head over one window of it.

The head sees the window's pixels, the encoder's features there, the mask so far, the box and the clicks on one grid.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_backend.interactive.options import ClickOptions
from ml_backend.interactive.windows import Window, seen
from ml_backend.learning.backbone import ResidualBlock, ThinBackbone, normalisation

# Channels of what was said of an object: its mask so far, the box, positive and negative clicks.
PROMPT_CHANNELS = 4
_FEATURES = 48
_WIDTHS = (16, 32, 48, 96, 160)
# From so many cells of a level per cell of the head's half grid the next coarser level is taken.
_TOO_FINE = 2.0


class ClickNetwork(nn.Module):
    """`encode` pictures, then `propose` masks for windows of them."""

    def __init__(self, options: ClickOptions):
        super().__init__()
        self.scale, self.grid = float(options.scale or 1.0), options.grid
        self.backbone = ThinBackbone(out_channels=_FEATURES)
        # In training alone every pixel teaches the encoder what an object is, and where one ends.
        self.dense = nn.Conv2d(_FEATURES, 2, 1)
        self.head = ClickHead()

    def encode(self, pictures: Tensor) -> list[Tensor]:
        """Features of pictures (b, 3, h, w), normalised and scaled, at strides 4, 8 and 16."""
        return list(self.backbone(pictures).values())

    def features_in(self, levels: Sequence[Tensor], windows: Sequence[Window], scale: float) -> Tensor:
        """What the levels of one picture (c, h, w) show in windows, (n, c, grid / 2, grid / 2).

        Args:
            levels: finest first.
            windows: in image pixels.
            scale: network pixels per image pixel.
        """
        half = self.grid // 2
        out = levels[0].new_zeros((len(windows), levels[0].shape[0], half, half))
        chosen = [self._level(w.side * scale) for w in windows]
        for number, level in enumerate(levels):
            rows = [i for i, c in enumerate(chosen) if c == number]
            if rows:
                stride = ThinBackbone.strides[number]
                out[rows] = seen(level, [windows[i] for i in rows], half, scale / stride).to(out.dtype)
        return out

    def _level(self, side: float) -> int:
        cells = side / ThinBackbone.strides[0] / (self.grid // 2)
        level = 0
        while cells > _TOO_FINE and level < len(ThinBackbone.strides) - 1:
            cells, level = cells / 2, level + 1
        return level


class ClickHead(nn.Module):
    """A small U-Net over the grid of a window, (n, grid, grid) logits and (n,) predicted IoU."""

    def __init__(self) -> None:
        super().__init__()
        full, half_in, half, quarter, eighth = _WIDTHS
        self.fine = _layer(3 + PROMPT_CHANNELS, full)
        self.down = _layer(full, half_in, stride=2)
        self.join = _layer(half_in + _FEATURES, half, kernel=1)
        self.middle = ResidualBlock(half, half, 1)
        self.quarter = ResidualBlock(half, quarter, 2)
        self.eighth = nn.Sequential(ResidualBlock(quarter, eighth, 2), ResidualBlock(eighth, eighth, 1))
        self.up_quarter = _Up(eighth, quarter)
        self.up_half = _Up(quarter, half)
        self.up_full = _layer(half, full, kernel=1)
        self.last = _layer(2 * full, full)
        self.mask = nn.Conv2d(full, 1, 1)
        self.quality = nn.Sequential(nn.Linear(eighth + 3 * half + 3, 64), nn.ReLU(inplace=True), nn.Linear(64, 1))

    def forward(self, pixels: Tensor, prompt: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, g, g) and predicted IoU (n,) as a logit.

        Args:
            pixels: (n, 3, g, g), normalised over the window.
            prompt: (n, 4, g, g).
            features: (n, c, g / 2, g / 2).
        """
        fine = self.fine(torch.cat([pixels, prompt], 1))
        half = self.middle(self.join(torch.cat([self.down(fine), features], 1)))
        quarter = self.quarter(half)
        eighth = self.eighth(quarter)
        decoded = self.up_half(self.up_quarter(eighth, quarter), half)
        full = functional.interpolate(self.up_full(decoded), scale_factor=2, mode="bilinear", align_corners=False)
        logits = self.mask(self.last(torch.cat([fine, full], 1)))[:, 0]
        return logits, self._quality(eighth.detach(), decoded.detach(), logits.detach())

    def _quality(self, deep: Tensor, decoded: Tensor, logits: Tensor) -> Tensor:
        """How well the mask is thought to fit, from what was seen inside, outside and at the edge of it."""
        inside = logits.sigmoid()
        small = functional.avg_pool2d(inside[:, None], 2)
        edge = 4 * small * (1 - small)
        seen_ = [(decoded * w).sum((2, 3)) / (w.sum((2, 3)) + 1) for w in (small, 1 - small, edge)]
        low, high = (inside > 0.4).float().sum((1, 2)), (inside > 0.6).float().sum((1, 2))
        said = torch.stack([(high + 1) / (low + 1), inside.mean((1, 2)), edge.mean((1, 2, 3))], 1)
        return self.quality(torch.cat([deep.mean((2, 3)), *seen_, said], 1))[:, 0]


class _Up(nn.Module):
    """Twice the resolution, joined with what was there on the way down."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.narrow = _layer(inputs, outputs, kernel=1)
        self.body = _layer(outputs, outputs)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        up = functional.interpolate(self.narrow(x), scale_factor=2, mode="nearest")
        return self.body(up + skip)


def _layer(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        normalisation(outputs),
        nn.ReLU(inplace=True),
    )


def locally_normalised(pixels: Tensor) -> Tensor:
    """Windows (n, 3, g, g), each brought to mean 0 and deviation 1 over its colours together."""
    mean = pixels.mean((2, 3), keepdim=True)
    deviation = (pixels - mean).square().mean((1, 2, 3), keepdim=True).sqrt()
    return (pixels - mean) / (deviation + 0.05)
