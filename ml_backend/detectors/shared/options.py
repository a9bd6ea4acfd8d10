"""Options of the torchvision detector, with presets, and what is chosen from the labelled set where nothing is said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from pycocotools import mask as mask_util
from pydantic import Field

from ml_backend.errors import InputError
from ml_backend.learning.features import FeatureKind
from ml_backend.learning.options import LearningOptions
from ml_backend.masks.coco import CocoDataset

Options = TypeVar("Options", bound="DetectorOptions")


class DetectorOptions(LearningOptions):
    """Every option of training and prediction. None means: chosen from the labelled set or the device.

    Lengths called "network pixels" are counted after an image has been scaled by `scale`.
    """

    KIND: ClassVar[str] = "detector"
    PREDICTION: ClassVar[frozenset[str]] = frozenset({
        "device", "threads", "bfloat16", "min_score", "min_area", "nms", "mask_nms", "max_detections", "predict_batch",
        "tile", "feature", "feature_width", "readers", "encoders", "paste_pixels",
    })  # fmt: skip

    preset: Literal["tiny", "resnet50"] = Field("tiny", description="thin network from scratch, or ResNet-50 FPN")
    seed: int = Field(0, ge=0, description="seed of all random choices")
    device: str | None = Field(None, description="torch device; None is cuda where there is one, else cpu")
    threads: int | None = Field(None, ge=1, description="CPU threads; None leaves torch's choice")
    bfloat16: bool | None = Field(None, description="compute in bfloat16; None is yes where the device is fast at it")

    weights: str = Field("none", description="start of resnet50: coco (downloaded), none, or a local file of weights")
    scale: float | None = Field(None, gt=0, description="network pixels per image pixel")
    object_size: float = Field(32, gt=0, description="network pixels that the median object is scaled to")
    anchors: tuple[tuple[float, ...], ...] | None = Field(None, description="anchor sides per level, network pixels")
    standardise: bool = Field(True, description="bring every image to mean 0 and deviation 1, keeping its colours")

    steps: int = Field(10_000, ge=1, description="most training steps")
    minutes: float | None = Field(
        25, gt=0, description="minutes of training after which it is about to be over; None is no limit"
    )
    patience: int | None = Field(
        2,
        ge=1,
        description="measurements of held-out AP in a row that show no rise, after which training ends; None goes on",
    )
    batch: int = Field(4, ge=1, description="crops per step")
    crop: int = Field(
        256, ge=64, multiple_of=32, description="side of a training crop, network pixels (multiple of 32)"
    )
    learning_rate: float = Field(2e-3, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of AdamW")
    warmup: int = Field(
        50,
        ge=0,
        description="steps of linear warm-up; the rate then stays, and decays over the last fifth of the steps; with "
        "neither minutes nor patience it decays from there on",
    )
    averaging: float = Field(0.98, ge=0, lt=1, description="decay of the running mean of weights that is kept")
    clip: float = Field(10.0, gt=0, description="largest norm of the gradient")
    scale_jitter: float = Field(1.5, ge=1, description="crops are scaled by 1/this to this")
    upright: bool | None = Field(
        None,
        description="training crops are mirrored, but not turned: for photos with an up and a down; None is yes where "
        "the labelled objects of a class are mostly wide or mostly tall",
    )
    colour_jitter: float = Field(0.4, ge=0, description="strength of changes of colour and contrast; 0 is none")
    score_from: float = Field(
        0.4,
        ge=0,
        le=1,
        description="share of the steps after which the IoU head trains; of at most 500 where minutes or patience may "
        "end a training",
    )
    incomplete_share: float = Field(0.5, ge=0, le=1, description="share of crops from images annotated incompletely")
    processes: int | None = Field(1, ge=1, description="training processes, one per GPU; None is all GPUs")
    evaluate_every: int | None = Field(
        None,
        ge=1,
        description="steps between measurements of held-out AP, whose best weights are kept; None measures after 250 "
        "steps and then after a quarter more each time. With neither minutes nor patience it is measured in the second "
        "half alone, and not at all where None",
    )
    evaluate_images: int = Field(50, ge=1, description="most held-out images in those measurements")
    checkpoint_every: int = Field(100, ge=1, description="steps between checkpoints of an unfinished run")
    calibrate: bool = Field(True, description="correct predicted IoU on the held-out images")

    min_score: float = Field(0.1, ge=0, le=1, description="least class confidence of a prediction")
    min_area: float | None = Field(None, ge=0, description="least box area of a prediction, image pixels")
    nms: float = Field(0.5, gt=0, le=1, description="box IoU over which the less confident of two is dropped")
    mask_nms: float = Field(0.5, gt=0, le=1, description="mask IoU over which the lower score of two is dropped")
    max_detections: int = Field(500, ge=1, description="most predictions per image")
    predict_batch: int = Field(1, ge=1, description="images per forward pass")
    tile: int = Field(1536, ge=256, description="longer images are cut into tiles of this side, network pixels")
    readers: int = Field(4, ge=1, description="threads that decode images; on a CPU one does in training")
    encoders: int = Field(2, ge=1, description="threads that encode masks")
    paste_pixels: int = Field(
        1 << 24, ge=1 << 16, description="values, pixels and weights, that masks are pasted with at a time"
    )

    feature: FeatureKind = Field(
        "mask_attention",
        description="feature that masks are clustered by: mask_attention, backbone, mask_logits, mask_iou, box_head or "
        "box_and_iou_head",
    )
    feature_width: int = Field(512, ge=1, description="width of the projected feature")

    # Options that came after others had trained without them, with what was done before them: they name a run only
    # where they say something else.
    LATER: ClassVar[Mapping[str, Any]] = {
        "processes": 1,
        "evaluate_every": None,
        "evaluate_images": 100,
        "upright": False,
        "minutes": None,
        "patience": None,
    }

    @classmethod
    def preset_values(cls, values: dict[str, Any]) -> dict[str, Any]:
        """What the preset that `values` name says in place of the defaults."""
        return PRESETS.get(str(values.get("preset", "tiny")), {})

    def identity(self) -> dict[str, Any]:
        """What the weights of a run depend on, as JSON."""
        values = self.model_dump(mode="json", exclude=set(self.PREDICTION))
        return {k: v for k, v in values.items() if k not in self.LATER or v != self.LATER[k]}

    @property
    def has_open_end(self) -> bool:
        """Whether time, or a held-out AP that no longer rises, may end a training before its steps are done."""
        return self.minutes is not None or self.patience is not None

    @property
    def rate_drops(self) -> tuple[float, ...] | None:
        """Shares of the steps after which the learning rate falls to a tenth; None is a cosine decay."""
        return None

    @property
    def measure_every(self) -> int | None:
        """Steps between measurements of held-out AP; None measures none unless the end of a training is open."""
        return self.evaluate_every

    def zoom(self, height: int, width: int) -> float:
        """Network pixels per image pixel at which an image is predicted."""
        return float(self.scale or 1.0)

    def resolve(self: Options, data: CocoDataset) -> Options:
        """The same with scale, anchors and least area chosen from the objects in `data`."""
        sides = object_sides(data)
        if len(sides) == 0:
            raise InputError("labelled set", "at least one annotated object", "none")
        scale = self.scale or float(np.clip(self.object_size / np.median(sides), 0.25, 3.0))
        chosen: dict[str, Any] = {"scale": round(scale, 4)}
        if self.anchors is None:
            # The proposal head of the weights that resnet50 starts from has one size of anchors per level.
            several = 1 if self.preset == "resnet50" else MOST_SIZES
            chosen["anchors"] = spread_anchors(sides * scale, PYRAMID_LEVELS[self.preset], several)
        if self.min_area is None:
            chosen["min_area"] = round(float(np.percentile(sides, 1)) ** 2 * 0.7, 1)
        if self.upright is None:
            chosen["upright"] = is_upright(data)
        return self.model_copy(update=chosen)


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "resnet50": {
        "weights": "coco",
        "object_size": 64.0,
        "standardise": False,
        "steps": 6000,
        "minutes": 120,
        "evaluate_images": 100,
        "min_score": 0.2,
        "crop": 640,
        "learning_rate": 1e-4,
        "weight_decay": 0.05,
        "warmup": 300,
        "averaging": 0.999,
        "clip": 1.0,
        "predict_batch": 4,
        "tile": 2048,
    },
}
PYRAMID_LEVELS = {"tiny": 3, "resnet50": 5}
# Most sizes of anchors on one level of the pyramid.
MOST_SIZES = 3
# Mean distance of classes from square, as |log(width / height)|, from which on images have an up and a down.
_UPRIGHT = 0.15


def object_boxes(data: CocoDataset) -> np.ndarray:
    """Boxes of the annotated objects that are no crowd, (n, 4) as x, y, width, height in image pixels."""
    boxes = mask_util.toBbox([a.rle for a in data.annotations if not a.iscrowd]) if data.annotations else []
    return np.asarray(boxes, float).reshape(-1, 4)


def object_sides(data: CocoDataset) -> np.ndarray:
    """Square root of the box area of each annotated object, (n,) image pixels."""
    boxes = object_boxes(data)
    return np.sqrt(boxes[:, 2] * boxes[:, 3])


def is_upright(data: CocoDataset) -> bool:
    """Whether images have an up and a down: the objects of a class are wide, or tall, more than the other way round.

    What lies in all directions, as cells do under a microscope, is as often the one as the other.
    """
    boxes = object_boxes(data)
    labels = np.array([a.class_id for a in data.annotations if not a.iscrowd])
    if not len(boxes):
        return False
    shape = np.log(boxes[:, 2] / boxes[:, 3])
    # Less the distance that chance alone brings, so that a few objects say nothing.
    distances = [
        (rows.sum(), abs(shape[rows].mean()) - 2 * shape[rows].std() / np.sqrt(rows.sum()))
        for rows in (labels == class_id for class_id in np.unique(labels))
        if rows.sum() >= 10
    ]
    return bool(sum(n * max(d, 0.0) for n, d in distances) / len(boxes) >= _UPRIGHT)


def spread_anchors(sides: np.ndarray, levels: int, several: int = 1) -> tuple[tuple[float, ...], ...]:
    """Anchor sides per level, spread evenly in octaves over the objects' sides.

    An object between two sizes that are far apart overlaps neither enough to be learnt from. So a level has as many
    sizes, at most `several`, as bring neighbours within an octave.
    """
    low, high = np.percentile(sides, [10, 97])
    low = max(float(low), 6.0)
    high = max(float(high), low * 1.5)
    each = int(np.clip(np.ceil((np.log2(high / low) + 1) / levels), 1, several))
    sizes = [round(float(s), 1) for s in np.geomspace(low, high, levels * each)]
    return tuple(tuple(sizes[at : at + each]) for at in range(0, len(sizes), each))
