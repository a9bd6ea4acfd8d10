"""The detector interface. A detector from elsewhere is one class and one entry point in `campaign.detectors`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
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
    installed = {e.name: e for e in entry_points(group=ENTRY_POINTS)}
    if name not in installed:
        raise InputError("detector", f"one of {', '.join(sorted(installed)) or 'none installed'}", name)
    try:
        return installed[name].load()
    except ImportError as error:
        raise InputError(f"detector {name}", "its packages to be installed", error) from None
