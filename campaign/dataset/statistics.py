"""Density and position of masks: how many lie in an image, how large they are, how long, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Shapes:
    """n masks of one class on some images.

    `per_image` (m,) counts the masks of each of the m images, those without any too. `side` (n,) is the root of a
    mask's area over that of its image, `aspect` (n,) the width of its box over the height, `centre` (n, 2) the middle
    of its box, x and y as shares of the image.
    """

    per_image: np.ndarray
    side: np.ndarray
    aspect: np.ndarray
    centre: np.ndarray

    def as_dict(self) -> dict[str, Any]:
        """Means and quantiles (5, 25, 50, 75 and 95 %); None where there is no mask, or no image."""
        return {
            "masks": len(self.side),
            "images": len(self.per_image),
            "images_with_masks": int((self.per_image > 0).sum()),
            "instances_per_image": _summary(self.per_image.astype(float)),
            "side_share": _summary(self.side),
            "aspect": _summary(self.aspect),
            "centre": {
                "mean": _rounded(self.centre.mean(axis=0)) if len(self.centre) else None,
                "deviation": _rounded(self.centre.std(axis=0)) if len(self.centre) else None,
            },
        }


def shapes(
    class_id: np.ndarray, image_id: np.ndarray, box: np.ndarray, area: np.ndarray, sizes: Mapping[int, tuple[int, int]]
) -> dict[int, Shapes]:
    """The shapes of the masks of each class, {class id: Shapes}.

    Args:
        class_id: (n,).
        image_id: (n,), all of them in `sizes`.
        box: (n, 4), x, y, width and height in pixels.
        area: (n,) pixels.
        sizes: {image id: (width, height)} of all images, also of those without masks.
    """
    ids = np.array(sorted(sizes), np.int64)
    extent = np.array([sizes[i] for i in ids.tolist()], float).reshape(-1, 2)
    at = np.searchsorted(ids, image_id)
    own = extent[at] if len(at) else np.zeros((0, 2))
    box = np.asarray(box, float).reshape(-1, 4)
    side = np.sqrt(area / np.maximum(own.prod(axis=1), 1))
    aspect = box[:, 2] / np.maximum(box[:, 3], 1)
    centre = (box[:, :2] + box[:, 2:] / 2) / np.maximum(own, 1)
    found = {}
    for number in np.unique(class_id).tolist():
        rows = class_id == number
        counts = np.bincount(at[rows], minlength=len(ids))
        found[number] = Shapes(counts, side[rows], aspect[rows], centre[rows])
    return found


def _summary(values: np.ndarray) -> dict[str, Any] | None:
    if not len(values):
        return None
    return {"mean": round(float(values.mean()), 6), "quantiles": _rounded(np.quantile(values, QUANTILES))}


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(values, 6).tolist()
