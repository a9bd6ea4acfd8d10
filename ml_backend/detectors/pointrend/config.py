"""Options of the PointRend detector, its presets and schedules; imports nothing of detectron2."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ml_backend.detectors.shared.options import DetectorOptions, is_upright, object_sides, spread_anchors
from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset

PUBLISHED_MIN_AREA = 1000.0


class PointRendOptions(DetectorOptions):
    """The options of the torchvision detector, and what PointRend on detectron2 has beside them."""

    preset: Literal["small", "r50", "r101"] = Field(  # type: ignore[assignment]
        "small", description="ResNet-18 with narrow heads, from scratch, or ResNet-50 or -101 FPN"
    )
    weights: str = Field(
        "none", description="start of r50 and r101: zoo (COCO, downloaded), imagenet (downloaded), none, or a file"
    )
    norm: Literal["group", "frozen"] | None = Field(
        None,
        description="normalisation of the backbone, which its weights must have been trained with; None is frozen "
        "where it starts from weights, as zoo's and ImageNet's have it, else group",
    )
    schedule: Literal["short", "published"] = Field(
        "short",
        description="short: crops of objects scaled to object_size; published: whole images, 270,000 steps of 16",
    )
    optimiser: Literal["adamw", "sgd"] = Field(
        "adamw", description="adamw with cosine decay, or sgd with two drops, which does all steps"
    )
    drops: tuple[float, ...] = Field((7 / 9, 25 / 27), description="shares of the steps after which sgd's rate drops")
    short_edges: tuple[int, ...] = Field(
        (640, 672, 704, 736, 768, 800), min_length=1, description="short sides of whole training images; last predicts"
    )
    long_edge: int = Field(1333, ge=64, description="longest side of a whole image, network pixels")
    processes: int | None = Field(None, ge=1, description="training processes, one per GPU; None is all GPUs")
    evaluate_every: int | None = Field(
        None,
        ge=1,
        description="steps between measurements of held-out AP, whose best weights are kept; None measures after 250 "
        "steps and then after a quarter more each time. With neither minutes nor patience it is measured in the second "
        "half alone; None is then a quarter of the steps",
    )
    min_score: float = Field(0.2, ge=0, le=1, description="least class confidence of a prediction")
    scored_per_image: int = Field(32, ge=1, description="detections per image that the IoU head learns from")

    LATER: ClassVar[Mapping[str, Any]] = {"upright": False, "minutes": None, "patience": None}

    @classmethod
    def preset_values(cls, values: dict[str, Any]) -> dict[str, Any]:
        """What the preset and the schedule that `values` name say in place of the defaults."""
        return _defaults(str(values.get("preset", "small")), values.get("schedule"))

    @property
    def has_open_end(self) -> bool:
        """As for every detector, but sgd's drops are at shares of the steps, which are then all done."""
        return super().has_open_end and self.optimiser != "sgd"

    @property
    def rate_drops(self) -> tuple[float, ...] | None:
        """Shares of the steps after which sgd's learning rate falls to a tenth; None is adamw's cosine decay."""
        return self.drops if self.optimiser == "sgd" else None

    @property
    def measure_every(self) -> int | None:
        """Steps between measurements of held-out AP; None where the end of a training is open."""
        return self.evaluate_every or (None if self.has_open_end else max(self.steps // 4, 1))

    @property
    def whole_images(self) -> bool:
        """Whether images are resized by their short side, as published, and not by their objects."""
        return self.schedule == "published"

    def zoom(self, height: int, width: int) -> float:
        """Network pixels per image pixel at which an image is predicted."""
        if not self.whole_images:
            return super().zoom(height, width)
        return fit_edges(height, width, self.short_edges[-1], self.long_edge)

    def resolve(self, data: CocoDataset) -> PointRendOptions:
        """The same with scale, anchors, least area and normalisation chosen, from the objects in `data`."""
        sides = object_sides(data)
        if len(sides) == 0:
            raise InputError("labelled set", "at least one annotated object", "none")
        scale = self.scale or float(np.clip(self.object_size / np.median(sides), 0.25, 3.0))
        chosen: dict[str, Any] = {"scale": round(scale, 4)}
        if self.anchors is None:
            published = tuple((float(2**i),) for i in range(5, 10))
            narrow = self.preset == "small"
            chosen["anchors"] = published if self.whole_images else spread_anchors(sides * scale, 3 if narrow else 5)
            if self.whole_images and narrow:
                chosen["anchors"] = published[:3]
        if self.min_area is None:
            least = round(float(np.percentile(sides, 1)) ** 2 * 0.7, 1)
            chosen["min_area"] = min(least, PUBLISHED_MIN_AREA)
        if self.upright is None:
            chosen["upright"] = is_upright(data)
        if self.norm is None:
            chosen["norm"] = "group" if self.preset == "small" or self.weights == "none" else "frozen"
        return self.model_copy(update=chosen)


def fit_edges(height: int, width: int, short: int, long: int) -> float:
    """The zoom that brings the short side to `short` unless the long one would pass `long`.

    >>> fit_edges(400, 600, short=800, long=1333), fit_edges(100, 1000, short=800, long=1333)
    (2.0, 1.333)
    """
    return min(short / min(height, width), long / max(height, width))


# The published schedule: detectron2's "3x" for PointRend, 16 images a step.
PUBLISHED: dict[str, Any] = {
    "schedule": "published",
    "standardise": False,
    "steps": 270_000,
    "minutes": None,
    "patience": None,
    "batch": 16,
    "optimiser": "sgd",
    "learning_rate": 0.02,
    "weight_decay": 1e-4,
    "warmup": 1000,
    "averaging": 0.0,
    "clip": 100.0,
    "score_from": 0.0,
    "checkpoint_every": 1000,
    "evaluate_every": 5000,
    "evaluate_images": 100,
    "colour_jitter": 0.0,
    "predict_batch": 4,
    "tile": 4096,
}
_SHORT_LARGE: dict[str, Any] = {
    "schedule": "short",
    "standardise": False,
    "object_size": 64.0,
    "steps": 6000,
    "minutes": 120,
    "evaluate_images": 100,
    "batch": 8,
    "crop": 640,
    "learning_rate": 1e-4,
    "weight_decay": 0.05,
    "warmup": 300,
    "averaging": 0.999,
    "clip": 1.0,
    "score_from": 0.2,
    "predict_batch": 4,
    "tile": 2048,
}
SHORT: dict[str, dict[str, Any]] = {
    # Measuring takes its time on a CPU.
    "small": {"schedule": "short", "evaluate_images": 25},
    "r50": _SHORT_LARGE,
    "r101": _SHORT_LARGE,
}
PRESETS: dict[str, dict[str, Any]] = {
    "small": {"schedule": "short"},
    "r50": {"weights": "zoo", "schedule": "published"},
    "r101": {"weights": "zoo", "schedule": "published"},
}


def _defaults(preset: str, schedule: Any) -> dict[str, Any]:
    chosen = PRESETS.get(preset, {})
    if (schedule or chosen.get("schedule")) == "published":
        return {**chosen, **PUBLISHED}
    return {**chosen, **SHORT.get(preset, {})}
