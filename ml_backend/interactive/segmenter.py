"""The segmenter interface: a picture is encoded once, each prompt runs the head alone.

A segmenter from elsewhere is one class and one entry point in the group `campaign.segmenters`. What it must keep:

1. `encode` takes a whole picture and returns what `segment` needs of it, nothing that later prompts change.
   `Encoding.nbytes` is about what it holds in memory; the server keeps encodings under a limit by it.
2. `segment` is a pure function of encoding and prompt: the same two give the same proposal, in any order and thread.
3. Its mask has the picture's shape; holes and parts are kept. `predicted_iou` is how well it is thought to fit.
4. Coordinates are pixels of the picture, x to the right and y down; the middle of the first pixel is (0.5, 0.5).
5. The same weights have the same `version`, other weights another.
6. `train` leaves a killed run so that the same call goes on with it, and returns a finished run as it is.
7. Bad input is an `InputError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ml_backend.detector import Progress
from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset

ENTRY_POINTS = "campaign.segmenters"


@dataclass(frozen=True)
class Click:
    """A point that an annotator set: inside the object where `positive`, else outside of it. In pixels."""

    x: float
    y: float
    positive: bool


@dataclass(frozen=True)
class Prompt:
    """What an annotator has said of one object so far, oldest click first.

    box: x0, y0, x1, y1 in pixels; None where nobody drew one. previous: (height, width) bool, the mask that is being
    corrected; None where the object is begun from nothing.
    """

    box: tuple[float, float, float, float] | None = None
    clicks: tuple[Click, ...] = ()
    previous: np.ndarray | None = None


@dataclass(frozen=True)
class Proposal:
    """The mask that answers a prompt, (height, width) bool, and how well it is thought to fit, in [0, 1].

    stability: the IoU of the mask cut at probabilities 0.4 and 0.6.
    """

    mask: np.ndarray
    predicted_iou: float
    stability: float


class Encoding(Protocol):
    """A picture as a segmenter sees it. `nbytes` is about what it holds in memory."""

    height: int
    width: int

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        ...


@runtime_checkable
class Segmenter(Protocol):
    """Makes masks from prompts. `version` names the weights."""

    version: str

    def encode(self, image: np.ndarray) -> Encoding:
        """The picture, (height, width, 3) uint8 RGB, as `segment` takes it."""
        ...

    def segment(self, encoding: Any, prompt: Prompt) -> Proposal:
        """The mask of the object that the prompt is about. Raises InputError where that has no box, click or mask."""
        ...

    @classmethod
    def load(cls, checkpoint: Path, **options: Any) -> Segmenter:
        """The segmenter stored at `checkpoint`. Raises InputError where that is missing or not this segmenter's."""
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
    ) -> Path:
        """Trains into the folder `output` and returns the finished checkpoint; goes on where a killed run stopped."""
        ...


def segmenter_names() -> list[str]:
    """Names of the segmenters installed here, sorted."""
    return sorted({e.name for e in entry_points(group=ENTRY_POINTS)})


def load_segmenter_class(name: str) -> type[Segmenter]:
    """The segmenter class registered as `name`. Raises InputError for an unknown name or a missing package."""
    installed = {e.name: e for e in entry_points(group=ENTRY_POINTS)}
    if name not in installed:
        raise InputError("segmenter", f"one of {', '.join(sorted(installed)) or 'none installed'}", name)
    try:
        return installed[name].load()
    except ImportError as error:
        raise InputError(f"segmenter {name}", "its packages to be installed", error) from None
