"""PointRend's subdivision at inference, for the predicted classes alone ("PointRend", section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.projects.point_rend.point_features import (
    generate_regular_grid_point_coords,
    get_point_coords_wrt_image,
    get_uncertain_point_coords_on_grid,
    point_sample,
)
from torch import Tensor
from torch.nn import functional

# Masks are made so many values at a time; most of them are the point head's layers.
VALUES = 1 << 27


class Points:
    """Samples of feature levels at points of boxes.

    Args:
        features: levels (b, c, h, w), sampled one after the other.
        scales: network pixels of a cell's side, inverted, per level.
    """

    def __init__(self, features: Sequence[Tensor], scales: Sequence[float]):
        self.features = list(features)
        # Made once: every tensor from numbers is a copy to the device.
        self.sizes = [
            level.new_tensor([level.shape[3] / scale, level.shape[2] / scale])
            for level, scale in zip(features, scales, strict=True)
        ]

    def __call__(self, boxes: Tensor, images: Sequence[tuple[int, int]], points: Tensor) -> Tensor:
        """Features (n, sum of c, p) at points (n, p, 2) between 0 and 1 of boxes (n, 4).

        `images` says whose the boxes are: (image, number of boxes) in their order.
        """
        places = get_point_coords_wrt_image(boxes, points)
        columns = []
        for level, size in zip(self.features, self.sizes, strict=True):
            parts = (places / size).split([count for _, count in images])
            sampled = [
                point_sample(level[image : image + 1], part[None], align_corners=False)[0].transpose(0, 1)
                for (image, _), part in zip(images, parts, strict=True)
            ]
            columns.append(torch.cat(sampled))
        return columns[0] if len(columns) == 1 else torch.cat(columns, 1)


def final_masks(
    head: Any, features: dict[str, Tensor], boxes: Sequence[Tensor], classes: Tensor
) -> tuple[Tensor, Tensor]:
    """Final masks (n, m, m) as probabilities and RoI features (n, c, 14, 14), of all images in order.

    The numbers are those of the head's own inference, which keeps the logits of all classes at full resolution, 16
    MB a mask with 80 of them.

    Args:
        head: a `PointRendMaskHead`.
        features: levels (b, c, h, w) by name.
        boxes: (n_i, 4) per image.
        classes: (n,) from 0, of all images in order.
    """

    def points(names: Sequence[str]) -> Points:
        return Points([features[f] for f in names], [head._feature_scales[f] for f in names])

    coarse, fine = points(head.roi_pooler_in_features), points(head.mask_point_in_features)
    side = head.mask_point_subdivision_init_resolution << head.mask_point_subdivision_steps
    pooled = head.roi_pooler_size
    counts = [len(part) for part in boxes]
    joined = torch.cat(list(boxes))
    masks = joined.new_empty((len(joined), side, side))
    roi = joined.new_empty((len(joined), sum(f.shape[1] for f in coarse.features), pooled, pooled))
    low = 0
    for images in chunks(counts, max(VALUES // _values(head, side), 1)):
        high = low + sum(count for _, count in images)
        some, wanted = joined[low:high], classes[low:high]
        grid = generate_regular_grid_point_coords(high - low, pooled, joined.device)
        roi[low:high] = coarse(some, images, grid).view(high - low, -1, pooled, pooled)
        masks[low:high] = _subdivided(head, fine, head.coarse_head(roi[low:high]), some, images, wanted).sigmoid()
        low = high
    return masks, roi


def _subdivided(
    head: Any, fine: Points, coarse: Tensor, boxes: Tensor, images: Sequence[tuple[int, int]], classes: Tensor
) -> Tensor:
    """Mask logits (n, m, m) of the wanted classes."""
    n, side = len(boxes), head.mask_point_subdivision_init_resolution
    rows = torch.arange(n, device=boxes.device)

    def logits(points: Tensor) -> Tensor:
        return head._get_point_logits(fine(boxes, images, points), points, coarse)[rows, classes]

    # Sampled on a regular grid at first, then twice as fine and anew where it is least certain.
    values = logits(generate_regular_grid_point_coords(n, side, boxes.device)).view(n, 1, side, side)
    for _ in range(head.mask_point_subdivision_steps):
        values = functional.interpolate(values, scale_factor=2, mode="bilinear", align_corners=False)
        cells, points = get_uncertain_point_coords_on_grid(-values.abs(), head.mask_point_subdivision_num_points)
        values = values.flatten(1).scatter_(1, cells, logits(points)).view(values.shape)
    return values[:, 0]


def _values(head: Any, side: int) -> int:
    """Values that one mask takes at most at a time: a layer of the point head with its input, or the mask twice."""
    layers = [*head.point_head.fc_layers, head.point_head.predictor]
    widest = max(layer.in_channels + layer.out_channels for layer in layers)
    points = max(head.mask_point_subdivision_num_points, head.mask_point_subdivision_init_resolution**2)
    # The input is put together from features and coarse logits, which stay.
    return points * (widest + layers[0].in_channels) + 3 * side * side


def chunks(counts: Sequence[int], size: int) -> list[list[tuple[int, int]]]:
    """Rows of all images in order, `size` at a time, as (image, number of rows); images without rows are left out."""
    result: list[list[tuple[int, int]]] = []
    free = 0
    for image, count in enumerate(counts):
        while count:
            if free == 0:
                result.append([])
                free = size
            taken = min(count, free)
            result[-1].append((image, taken))
            count, free = count - taken, free - taken
    return result
