"""Options of segmenters that are trained here."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pycocotools import mask as mask_util
from pydantic import Field

from ml_backend.errors import InputError
from ml_backend.interactive.annotators import Place
from ml_backend.interactive.encodings import ClickEncoding
from ml_backend.learning.options import LearningOptions
from ml_backend.masks.coco import CocoDataset


class SegmenterOptions(LearningOptions):
    """Options of training and answering that segmenters share."""

    KIND: ClassVar[str] = "segmenter"
    PREDICTION: ClassVar[frozenset[str]] = frozenset({"device", "threads", "flips", "tile"})

    seed: int = Field(0, ge=0, description="seed of all random choices")
    device: str | None = Field(None, description="torch device; None is cuda where there is one, else cpu")
    threads: int | None = Field(None, ge=1, description="CPU threads; None leaves torch's choice")
    steps: int = Field(800, ge=1, description="training steps")
    minutes: float | None = Field(
        None, gt=0, description="minutes of training after which it is about to be over; None is no limit"
    )
    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW")
    warmup: int = Field(30, ge=0, description="steps of linear warm-up")
    averaging: float = Field(0.98, ge=0, lt=1, description="decay of the running mean of weights that is kept")
    clip: float = Field(5.0, gt=0, description="largest norm of the gradient")
    colour_jitter: float = Field(0.3, ge=0, description="strength of changes of colour and contrast; 0 is none")
    encoding: ClickEncoding = Field(ClickEncoding.DISC, description="how clicks are drawn: disc, gaussian or distance")
    place: Place = Field(Place.SPREAD, description="where simulated clicks go: centre, random or spread")
    boundary: bool = Field(False, description="simulated clicks go on outlines instead of into error regions")
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints of an unfinished run")

    def identity(self) -> dict[str, Any]:
        """What the weights of a run depend on, as JSON."""
        return self.model_dump(mode="json", exclude=set(self.PREDICTION))


class ClickOptions(SegmenterOptions):
    """Options of `click`. Lengths called "network pixels" are counted after a picture was scaled by `scale`."""

    scale: float | None = Field(None, gt=0, description="network pixels per image pixel; None suits the objects")
    object_size: float = Field(32, gt=0, description="network pixels that the median object is scaled to")
    first_side: float | None = Field(
        None, gt=0, description="side of the window around a first click, image pixels; None suits the objects"
    )
    grid: int = Field(64, ge=16, multiple_of=8, description="cells of a side of the window that is segmented")
    margin: float = Field(1.6, gt=1, description="side of a window in sides of what it is about")
    radius: float = Field(3.0, gt=0, description="radius of a click's disc in cells")
    upright: bool = Field(False, description="training pictures are mirrored, but not turned")
    regions: int = Field(2, ge=1, description="parts of pictures per step")
    crop: int = Field(160, ge=64, multiple_of=32, description="side of such a part, network pixels")
    objects: int = Field(5, ge=1, description="objects learnt from in each part")
    passes: int = Field(4, ge=1, description="times that each is segmented in a step, with new clicks in between")
    scale_jitter: float = Field(1.4, ge=1, description="parts are scaled by 1/this to this")
    flips: int = Field(2, ge=1, le=4, description="mirrored views whose mean is the answer: 1, 2 or 4")
    tile: int = Field(1024, ge=256, multiple_of=32, description="larger pictures are encoded in tiles, network pixels")

    def resolve(self, data: CocoDataset) -> ClickOptions:
        """The same with scale and first side chosen from the objects. Raises InputError where there are none."""
        sizes = _sizes(data)
        sides = np.sqrt(sizes.prod(1))
        scale = self.scale or float(np.clip(self.object_size / np.median(sides), 0.25, 3.0))
        first = self.first_side or float(np.percentile(sizes.max(1), 75) * self.margin)
        return self.model_copy(update={"scale": round(scale, 4), "first_side": round(first, 2)})


class PublishedOptions(SegmenterOptions):
    """Options of `published`, the pair of Benenson, Popov and Ferrari; lengths are pixels of a crop."""

    steps: int = Field(2000, ge=1, description="training steps of each of the two networks")
    learning_rate: float = Field(3e-4, gt=0, description="peak learning rate of AdamW")
    backbone: Literal["resnet50", "resnet101", "mobilenet_v3_large"] = Field(
        "resnet50", description="of DeepLabv3: resnet50, resnet101 or mobilenet_v3_large"
    )
    crop: int = Field(513, ge=33, description="side of a crop")
    object: int = Field(385, ge=16, description="side of the object's box in it")
    radius: float = Field(5.0, gt=0, description="radius of a click's disc")
    batch: int = Field(4, ge=2, description="objects per step")
    first_side: float | None = Field(
        None, gt=0, description="side of the box that stands in for one around a first click; None suits the objects"
    )

    def resolve(self, data: CocoDataset) -> PublishedOptions:
        """The same with the first side chosen from the objects. Raises InputError where there are none."""
        first = self.first_side or float(np.median(_sizes(data).max(1)))
        return self.model_copy(update={"first_side": round(first, 2)})


def _sizes(data: CocoDataset) -> np.ndarray:
    """Width and height of the objects' boxes, (n, 2) pixels. Raises InputError where there are none."""
    rles = [a.rle for a in data.annotations if not a.iscrowd]
    if not rles:
        raise InputError("labelled set", "at least one annotated object", "none")
    return np.asarray(mask_util.toBbox(rles)).reshape(-1, 4)[:, 2:]


class Sam2Options(LearningOptions):
    """Options of `sam2`."""

    KIND: ClassVar[str] = "segmenter"

    config: str = Field("configs/sam2.1/sam2.1_hiera_t.yaml", description="configuration of the package sam2")
    device: str | None = Field(None, description="torch device; None is cuda where there is one, else cpu")
