"""The detector interface. A detector from elsewhere is one class and one entry point in `campaign.detectors`.

What it must keep, as `ml_backend.obligations` looks at it and `campaign check-detector NAME` says of any:

1. `predict` yields one `Predictions` per image, in order, also where there is no mask on it, and nothing for no images;
   masks best score first. Images come one by one and may be more than fit into memory.
2. `image_id` and `size` are those of the image's record, `class_id` is a key of `classes`, which are those it was
   trained on; `mask_id` counts from 0 on each image, as the store numbers masks anew.
3. `rle` is the mask's COCO compressed run lengths, as bytes, of the image's size, with at least one pixel.
4. `box` is x, y, width and height in pixels: it lies in the image and holds the mask, to a pixel.
5. `confidence` is that of the class, `predicted_iou` how well the mask is thought to fit; without a better guess it
   is 1. Their product is the score. `stability` is nan where it is not known. All are from 0 to 1.
6. `features` have one width, for all images and all versions that one campaign compares, and are finite in 16 bits;
   the nearer two features, the more alike the masks.
7. The same weights have the same `version`, and predict the same on the same machine; other weights have another.
8. `train` leaves a killed run so that the same call goes on with it and ends with the same weights, returns a finished
   run as it is, and takes the checkpoint of the round before as `start_from`. Where the files that lie in `output`
   itself, and are whole whenever it calls `progress`, say how far it is, another machine goes on with it.
9. Bad input is an `InputError`, of one line: a checkpoint that is missing or not its own, an image that cannot be read
   or is of another size than its record says, an option it does not know.

It may have a class method `check_options(options)`, which raises InputError for options it would not take;
`READS_IMAGES = False`, where it has its masks from elsewhere; `LEARNS = False`, where `train` learns nothing from what
is labelled; and `QUICK`, options of a training of seconds, for trials.

A detector that takes every image for one object, without anything to train:

>>> import numpy as np
>>> from pycocotools import mask as mask_util
>>> class WholeImage:
...     version, classes = "whole-1", {1: "scene"}
...     def predict(self, images):
...         for image in images:
...             rle = mask_util.encode(np.ones((image.height, image.width), np.uint8, order="F"))
...             yield Predictions(
...                 mask_id=[0], image_id=[image.id], class_id=[1], box=[[0, 0, image.width, image.height]],
...                 rle=[rle["counts"]], size=[rle["size"]], confidence=[0.5], predicted_iou=[1.0], features=[[1.0]],
...             )
...     @classmethod
...     def load(cls, checkpoint, **options):
...         return cls()
...     @classmethod
...     def train(cls, data, heldout, output, *, options, progress=None, start_from=None):
...         return output
>>> isinstance(WholeImage(), Detector)
True
>>> [part.score.tolist() for part in WholeImage().predict([ImageRecord(7, "a.png", 40, 30, Path("a.png"))])]
[[0.5]]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions

ENTRY_POINTS = "campaign.detectors"

# progress(step name, done, total): called often, so it must be cheap.
Progress = Callable[[str, int, int], None]


@runtime_checkable
class Detector(Protocol):
    """Predicts masks with features. `version` names the weights; the same weights always give the same version."""

    version: str
    classes: dict[int, str]

    def predict(self, images: Iterable[ImageRecord]) -> Iterator[Predictions]:
        """One `Predictions` per image, in order. Raises InputError where an image cannot be read."""
        ...

    @classmethod
    def load(cls, checkpoint: Path, **options: Any) -> Detector:
        """The detector stored at `checkpoint`. Raises InputError where that is missing or not this detector's."""
        ...

    @classmethod
    def train(
        cls,
        data: CocoDataset,
        heldout: CocoDataset | None,
        output: Path,
        *,
        options: dict[str, Any],
        progress: Progress | None = None,
        start_from: Path | None = None,
    ) -> Path:
        """Trains into the folder `output` and returns the finished checkpoint; goes on where a killed run stopped."""
        ...


def detector_names() -> list[str]:
    """Names of the detectors installed here, sorted."""
    return sorted({e.name for e in entry_points(group=ENTRY_POINTS)})


def load_detector_class(name: str) -> type[Detector]:
    """The detector class registered as `name`. Raises InputError for an unknown name or a missing package."""
    try:
        return _registered(name).load()
    except ImportError as error:
        raise InputError(f"detector {name}", "its packages to be installed", error) from None


def check_options(name: str, options: dict[str, Any]) -> None:
    """Raises InputError where the detector of this name would not take these options, or there is none of this name.

    A detector says so by a class method `check_options(options)`. Nothing is known of one without it, nor of one whose
    packages are installed only where it trains.
    """
    try:
        check: Callable[[dict[str, Any]], None] | None = getattr(_registered(name).load(), "check_options", None)
    except ImportError:
        return
    if check is not None:
        check(options)


def learns(name: str) -> bool:
    """Whether the detector of this name learns from what is labelled.

    It is taken to learn where it does not say otherwise, or is installed only where it trains.
    """
    try:
        return bool(getattr(load_detector_class(name), "LEARNS", True))
    except InputError:
        return True


def _registered(name: str) -> EntryPoint:
    installed = {e.name: e for e in entry_points(group=ENTRY_POINTS)}
    if name not in installed:
        raise InputError("detector", f"one of {', '.join(sorted(installed)) or 'none installed'}", name)
    return installed[name]
