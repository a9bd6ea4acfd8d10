"""Density and position of masks: how many lie in an image, how large they are, how long, and where."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from campaign.dataset.export import source_of
from campaign.dataset.listed import ListedMasks
from campaign.records.dataset_masks import DatasetMasks
from ml_backend.masks.rle import areas

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
LOOKED_AT = 20_000  # masks of a class whose size, aspect and place are kept, drawn by chance where there are more


@dataclass(frozen=True)
class Shapes:
    """The masks of one class on some images.

    `often` (k,) says how many images have 0, 1, ... masks. `side` (n,) is the root of a mask's area over that of its
    image, `aspect` (n,) the width of its box over the height, `centre` (n, 2) the middle of its box, x and y as shares
    of the image: of all masks, or of `n` drawn from them.
    """

    often: np.ndarray
    side: np.ndarray
    aspect: np.ndarray
    centre: np.ndarray

    @property
    def per_image(self) -> np.ndarray:
        """The masks of each image, rising, those without any too, (m,)."""
        return np.repeat(np.arange(len(self.often), dtype=np.int32), self.often)

    @property
    def masks(self) -> int:
        """How many masks there are."""
        return int(self.often @ np.arange(len(self.often)))

    def as_dict(self) -> dict[str, Any]:
        """Means and quantiles (5, 25, 50, 75 and 95 %); None where there is no mask, or no image."""
        images = int(self.often.sum())
        return {
            "masks": self.masks,
            "images": images,
            "images_with_masks": images - int(self.often[0]),
            "instances_per_image": _summary(self.per_image.astype(float)),
            "side_share": _summary(self.side),
            "aspect": _summary(self.aspect),
            "centre": {
                "mean": _rounded(self.centre.mean(axis=0)) if len(self.centre) else None,
                "deviation": _rounded(self.centre.std(axis=0)) if len(self.centre) else None,
            },
        }


@dataclass
class Tally:
    """What masks rest on and what they look like, counted as they pass in pieces.

    `sources` is {class id: {what masks rest on: how many}}, see `source_of`.
    """

    drawn: np.ndarray  # mask ids, rising, of those whose shapes are kept
    sources: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    _kept: list[tuple[np.ndarray, ...]] = field(default_factory=list)

    @classmethod
    def of(cls, masks: ListedMasks) -> Tally:
        """A tally of these masks, which has seen none of them yet."""
        rng, drawn = np.random.default_rng(0), [np.zeros(0, np.int64)]
        for number in np.unique(masks.class_id).tolist():
            own = masks.mask_id[masks.class_id == number]
            drawn.append(rng.choice(own, LOOKED_AT, replace=False) if len(own) > LOOKED_AT else own)
        return cls(np.sort(np.concatenate(drawn)))

    def add(self, masks: DatasetMasks) -> None:
        """Takes a piece of the masks into account."""
        rows = zip(masks.class_id.tolist(), masks.rule.tolist(), masks.voted.tolist(), strict=True)
        for (number, rule, voted), count in Counter(rows).items():
            self.sources[number][source_of(rule, voted)] += count
        place = np.minimum(np.searchsorted(self.drawn, masks.mask_id), len(self.drawn) - 1)
        own = masks.select(self.drawn[place] == masks.mask_id)
        self._kept.append((own.class_id, own.box, areas(own.rles()), own.size[:, ::-1]))

    def as_arrays(self) -> dict[str, np.ndarray]:
        """What was counted, for another process to `take`; (k,) rows of what is kept."""
        empty = np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros((0, 2), np.int32)
        columns = [np.concatenate(column) for column in zip(*(self._kept or [empty]), strict=True)]
        counts = [(number, what, count) for number, own in self.sources.items() for what, count in own.items()]
        return dict(zip(("class_id", "box", "area", "extent"), columns, strict=True)) | {
            "source_class": np.array([number for number, _, _ in counts], np.int64),
            "source": np.array([what for _, what, _ in counts], np.str_),
            "source_masks": np.array([count for _, _, count in counts], np.int64),
        }

    def take(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Takes what another tally of the same masks counted into account."""
        rows = zip(*(arrays[name].tolist() for name in ("source_class", "source", "source_masks")), strict=True)
        for number, what, count in rows:
            self.sources[number][what] += count
        self._kept.append(tuple(arrays[name] for name in ("class_id", "box", "area", "extent")))

    def shapes(self, masks: ListedMasks, images: int) -> dict[int, Shapes]:
        """The shapes of all masks, which have passed, by class; `images` is the number of images they are of."""
        columns = [np.concatenate(column) for column in zip(*self._kept, strict=True)] if self._kept else []
        found = {}
        for number in np.unique(masks.class_id).tolist():
            own = columns[0] == number
            often = often_of(masks.image_id[masks.class_id == number], images)
            found[number] = shapes_of(often, *(column[own] for column in columns[1:]))
        return found


def often_of(image_id: np.ndarray, images: int) -> np.ndarray:
    """How many of so many images have 0, 1, ... masks, (k,), given the image of each mask."""
    counts = np.unique(image_id, return_counts=True)[1]
    often = np.bincount(counts, minlength=1)
    often[0] = images - len(counts)
    return often


def shapes_of(often: np.ndarray, box: np.ndarray, area: np.ndarray, extent: np.ndarray) -> Shapes:
    """The shapes of n masks of a class.

    Args:
        often: (k,) how many images have 0, 1, ... of them.
        box: (n, 4), x, y, width and height in pixels.
        area: (n,) pixels.
        extent: (n, 2), width and height of the image of each mask, in pixels.
    """
    box, extent = np.asarray(box, float).reshape(-1, 4), np.asarray(extent, float).reshape(-1, 2)
    side = np.sqrt(area / np.maximum(extent.prod(axis=1), 1))
    aspect = box[:, 2] / np.maximum(box[:, 3], 1)
    return Shapes(often, side, aspect, (box[:, :2] + box[:, 2:] / 2) / np.maximum(extent, 1))


def _summary(values: np.ndarray) -> dict[str, Any] | None:
    if not len(values):
        return None
    return {"mean": round(float(values.mean()), 6), "quantiles": _rounded(np.quantile(values, QUANTILES))}


def _rounded(values: np.ndarray) -> list[float]:
    return np.round(values, 6).tolist()
