"""RoIAlign over a whole feature pyramid in one call, several times faster on a CPU than torchvision's kernel.

Every output cell is a weighted sum of feature vectors, which is what an embedding bag computes, in parallel and with
a fast backward pass. On other devices torchvision's kernel is used; both give the same values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align


class PyramidAlign(nn.Module):
    """RoI features of one size from the pyramid level that suits each box.

    Args:
        size: cells along each side.
        samples: bilinear samples along each side of a cell.
        strides: stride of each level, finest first.
        canonical: side in pixels from which on a box is taken from the second level; each level doubles it.
    """

    def __init__(self, size: int, samples: int, strides: tuple[int, ...], canonical: float):
        super().__init__()
        self.size, self.samples, self.strides, self.canonical = size, samples, strides, canonical

    def levels(self, boxes: Tensor) -> Tensor:
        """Pyramid level of each box (n, 4), int64."""
        side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp(min=1e-6).sqrt()
        level = torch.floor(torch.log2(side / self.canonical) + 1)
        return level.clamp(0, len(self.strides) - 1).long()

    def forward(self, features: list[Tensor], boxes: list[Tensor], finest: bool = False) -> Tensor:
        """(n, channels, size, size) for the boxes of all images together, in order.

        Args:
            features: one (b, channels, h, w) per level.
            boxes: one (n_i, 4) per image: x0, y0, x1, y1 in pixels of the network's input.
            finest: take all from the finest level, P2.
        """
        joined = torch.cat(boxes)
        image = torch.cat([torch.full((len(b),), i, device=b.device) for i, b in enumerate(boxes)])
        level = torch.zeros_like(image) if finest else self.levels(joined)
        if not joined.is_cuda:
            return self._bags(features, joined, image, level)
        result = joined.new_zeros((len(joined), features[0].shape[1], self.size, self.size))
        for at in range(1 if finest else len(features)):
            chosen = torch.nonzero(level == at)[:, 0]
            rois = torch.cat([image[chosen, None].to(joined.dtype), joined[chosen]], dim=1)
            aligned = roi_align(features[at].float(), rois, self.size, 1 / self.strides[at], self.samples, True)
            result = result.index_put((chosen,), aligned)
        return result

    def _bags(self, features: list[Tensor], boxes: Tensor, image: Tensor, level: Tensor) -> Tensor:
        channels = features[0].shape[1]
        used = features[: int(level.max()) + 1] if len(level) else features[:1]
        table = torch.cat([f.permute(0, 2, 3, 1).reshape(-1, channels) for f in used]).float()
        shapes = [(f.shape[0] * f.shape[2] * f.shape[3], f.shape[2], f.shape[3]) for f in used]
        rows = torch.tensor([0, *(s[0] for s in shapes[:-1])]).cumsum(0)[level]
        heights = torch.tensor([s[1] for s in shapes])[level]
        widths = torch.tensor([s[2] for s in shapes])[level]
        scaled = boxes / torch.tensor(self.strides, dtype=boxes.dtype)[level][:, None] - 0.5
        x, x_weight = self._axis(scaled[:, 0], scaled[:, 2], widths)
        y, y_weight = self._axis(scaled[:, 1], scaled[:, 3], heights)
        n, size, taps = len(boxes), self.size, 2 * self.samples
        first = (rows + image * heights * widths)[:, None, None]
        y = (first + y * widths[:, None, None]).view(n, size, 1, taps, 1)
        index = (y + x.view(n, 1, size, 1, taps)).reshape(n * size * size, taps * taps)
        weight = (y_weight.view(n, size, 1, taps, 1) * x_weight.view(n, 1, size, 1, taps)).reshape(index.shape)
        cells = functional.embedding_bag(index, table, per_sample_weights=weight, mode="sum")
        return cells.view(n, size, size, channels).permute(0, 3, 1, 2)

    def _axis(self, low: Tensor, high: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Feature rows or columns and their weights along one axis, each (n, size, 2 * samples)."""
        steps = self.size * self.samples
        places = (torch.arange(steps, dtype=low.dtype) + 0.5) / steps
        at = low[:, None] + (high - low)[:, None] * places
        last = (length - 1).to(low.dtype)[:, None]
        inside = ((at >= -1) & (at <= last + 1)).to(low.dtype) / self.samples
        at = torch.minimum(at.clamp(min=0), last)
        lower = at.floor()
        upper = torch.minimum(lower + 1, last)
        fraction = at - lower
        index = torch.stack([lower, upper], -1).long()
        weight = torch.stack([1 - fraction, fraction], -1) * inside[..., None]
        shape = (len(low), self.size, 2 * self.samples)
        return index.view(shape), weight.view(shape)
