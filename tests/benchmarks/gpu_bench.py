"""What the parts of the GPU benchmark share: device, sizes, clock, random numbers."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Sizes:
    """How much of everything: masks in trees, in pasting and IoU targets, images, and steps of training."""

    scipy: int = 4_000
    part: int = 20_000
    exact: int = 150_000
    large: int = 1_000_000
    masks: int = 1_000
    targets: int = 256
    drawn: int = 16
    images: int = 64
    batch: int = 8
    side: int = 800
    classes: int = 80
    steps: int = 30
    repeat: int = 3


FULL = Sizes()
QUICK = Sizes(
    scipy=500, part=1_500, exact=2_000, large=4_000, masks=40, targets=16, drawn=2, images=2, batch=1, side=192,
    classes=3, steps=7, repeat=1,
)  # fmt: skip


class OutOfTimeError(Exception):
    """The time of the whole run is up."""


@dataclass
class Bench:
    """What parts share: the device, the sizes, when the run must end, and a folder for files."""

    device: torch.device
    sizes: Sizes
    end: float
    folder: Path
    quick: bool
    seed: int = 0
    pictures: Any = None  # the data set of drawn images, once it is made

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds that are left of the run."""
        return self.end - time.perf_counter()

    def finish(self) -> None:
        """Wait until the device has done all it was given."""
        if self.gpu:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], repeat: int | None = None) -> float:
        """Median wall-clock seconds of some runs after a first one; the device has finished when a run ends."""
        times = []
        for _ in range((repeat or self.sizes.repeat) + 1):
            began = time.perf_counter()
            work()
            self.finish()
            times.append(time.perf_counter() - began)
        return float(np.median(times[1:]))

    def rng(self) -> np.random.Generator:
        """Random numbers, the same for every part and run."""
        return np.random.default_rng(self.seed)


def import_error(name: str) -> str | None:
    """Why a package does not import, None where it does."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a broken installation may raise anything
        return f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return None
