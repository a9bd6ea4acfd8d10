"""Train what answers corrective clicks, on the labelled images and the masks obtained so far."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.steps.train import training_set
from campaign.store import Store
from ml_backend.detector import Progress
from ml_backend.files import write_whole
from ml_backend.interactive.segmenter import load_segmenter_class

# Where a campaign's segmenters lie; the newest checkpoint there answers.
MODELS = Path("models") / "interactive"


@dataclass(frozen=True)
class TrainedInteractive:
    """What was trained: its checkpoint, its version, and on how much."""

    checkpoint: Path
    version: str
    images: int
    masks: int


def train_interactive(
    store: Store, model: str, options: dict[str, Any], progress: Progress | None = None
) -> TrainedInteractive:
    """Trains a segmenter for the newest round; goes on where a killed run stopped, and keeps a finished one.

    Raises InputError for an unknown model, bad options or a campaign without annotated images.
    """
    kind = load_segmenter_class(model)
    newest = store.rounds.newest()
    number = newest.number if newest else 1
    data = training_set(store, number)
    heldout = store.images.annotated("heldout")
    chosen = {"seed": store.settings.seed} | options
    work = store.folder / MODELS / f"{number:03d}"
    trained = kind.train(data, heldout if heldout.images else None, work, options=chosen, progress=progress)
    version = kind.load(trained).version
    checkpoint = store.folder / MODELS / f"{number:03d}-{version}.pt"
    if not checkpoint.is_file():
        write_whole(checkpoint, lambda partial: shutil.copyfile(trained, partial))
    return TrainedInteractive(checkpoint, version, len(data.images), len(data.annotations))
