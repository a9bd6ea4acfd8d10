"""The thin backbone of the `tiny` preset: small enough to train from scratch on two CPU cores."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork


def normalisation(channels: int) -> nn.GroupNorm:
    """Group normalisation: the batches of small crops are too small for batch statistics."""
    return nn.GroupNorm(8, channels)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut; the first may halve the resolution."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            normalisation(outputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            normalisation(outputs),
        )
        same = inputs == outputs and stride == 1
        self.shortcut: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), normalisation(outputs))
        )
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(b, outputs, h / stride, w / stride) of (b, inputs, h, w)."""
        return self.activation(self.body(x) + self.shortcut(x))


class ThinBackbone(nn.Module):
    """A residual network of four blocks with a 64-channel feature pyramid over strides 4, 8 and 16.

    Returns {"0": stride 4, "1": stride 8, "2": stride 16}, each (b, 64, h / stride, w / stride).
    """

    strides = (4, 8, 16)

    def __init__(self, widths: tuple[int, int, int, int] = (32, 64, 128, 192), out_channels: int = 64):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), normalisation(widths[0]), nn.ReLU(inplace=True)
        )
        self.blocks = nn.ModuleList(
            [
                ResidualBlock(widths[0], widths[1], 2),
                ResidualBlock(widths[1], widths[1], 1),
                ResidualBlock(widths[1], widths[2], 2),
                ResidualBlock(widths[2], widths[3], 2),
            ]
        )
        self.pyramid = FeaturePyramidNetwork(list(widths[1:]), out_channels, norm_layer=normalisation)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """The levels of the pyramid of images (b, 3, h, w)."""
        fine = self.blocks[1](self.blocks[0](self.stem(x)))
        middle = self.blocks[2](fine)
        coarse = self.blocks[3](middle)
        return self.pyramid(OrderedDict([("0", fine), ("1", middle), ("2", coarse)]))
