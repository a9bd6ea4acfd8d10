"""How every detector of this package is trained: the parts that its network brings, put into the training loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ml_backend.detector import Progress
from ml_backend.detectors.shared.augmentation import CropSampler
from ml_backend.detectors.shared.records import Target
from ml_backend.learning.checkpoints import Unfinished, save
from ml_backend.learning.devices import bfloat16_where_fast, chosen_device, training_processes
from ml_backend.learning.evaluation import mask_precision, predict_all
from ml_backend.learning.processes import rank, spread, world
from ml_backend.learning.training import Learner, Losses, Outcome, Schedule, Weights, outcome, run
from ml_backend.masks.coco import CocoDataset

# Beside the checkpoint: what all processes start from.
START = ".start.pt"  # hidden: it is of this machine's processes alone
# Steps before the first measurement of a training with an open end: a network from scratch has begun to find objects.
MEASURE_FROM = 250
# Steps of which `score_from` is a share at most: with an open end nobody knows how many there will be.
USUAL_STEPS = 500
Batch = tuple[Tensor, list[Target]]


class Parts(Protocol):
    """What a detector class brings to its training."""

    # Whether a GPU, too, is given a network's numbers with the channels last in training.
    CHANNELS_LAST_ON_GPU: ClassVar[bool]
    # Whether every parameter takes part in the losses of every step.
    ALL_USED: ClassVar[bool]

    @classmethod
    def network_of(cls, options: Any, classes: int, pretrained: bool) -> nn.Module:
        """A network whose `forward(images, targets, score)` returns losses by name."""
        ...

    @classmethod
    def sampler_of(cls, options: Any) -> type[CropSampler]:
        """What makes batches."""
        ...

    @classmethod
    def optimiser_of(cls, options: Any, network: nn.Module) -> torch.optim.Optimizer:
        """The optimiser of a network's parameters."""
        ...

    @classmethod
    def of_weights(cls, options: Any, classes: dict[int, str], weights: Weights) -> Any:
        """A detector with these weights."""
        ...


@dataclass(frozen=True)
class Run:
    """All that a process of a run must know; it can be sent to another process.

    options: resolved. weights: to start from, none for those that the options name; start: or a file of them. again:
    they are those of an earlier round, whose masks are worth scoring from the first step on.
    """

    parts: type[Parts]
    data: CocoDataset
    heldout: CocoDataset | None
    options: Any
    unfinished: Unfinished
    weights: Weights | None = None
    again: bool = False
    start: Path | None = None

    @property
    def classes(self) -> dict[int, str]:
        """Category id to name, in the order of the network's labels 1, 2, …."""
        return dict(sorted(self.data.classes.items()))

    @property
    def is_measured(self) -> bool:
        """Whether there are held-out masks to measure by."""
        return self.heldout is not None and bool(self.heldout.annotations)


def train(task: Run, progress: Progress | None) -> Outcome:
    """Trains and returns the weights that are kept, with what is known of them and of the run.

    Takes several processes where the options or the GPUs ask for them. A killed run goes on from its checkpoint.
    """
    processes = training_processes(task.options)
    if processes == 1:
        work(task, progress or (lambda *step: None))
    else:
        # A file, as processes share every tensor that they are sent in memory; and weights that cannot be had are
        # an error here.
        start = task.unfinished.path.with_name(START)
        weights = task.weights or task.parts.network_of(task.options, len(task.classes), True).state_dict()
        save(start, {"network": weights})
        try:
            spread(work, replace(task, weights=None, start=start), processes, progress)
        finally:
            start.unlink(missing_ok=True)
    return outcome(task.unfinished)


def work(task: Run, report: Progress) -> None:
    """One process of the run."""
    options = task.options
    several = world() > 1 and torch.cuda.is_available()
    device = torch.device("cuda", rank()) if several else chosen_device(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    learner = learner_of(task, device)
    run(learner, schedule_of(options, task.is_measured), task.unfinished, report)


def schedule_of(options: Any, measured: bool) -> Schedule:
    """How a run of resolved options goes, with or without held-out masks to measure by."""
    every, open_end = options.measure_every, options.has_open_end
    return Schedule(
        steps=options.steps,
        learning_rate=options.learning_rate,
        warmup=min(options.warmup, options.steps // 2),
        drops=options.rate_drops,
        minutes=options.minutes if open_end else None,
        patience=options.patience if open_end and measured else None,
        averaging=options.averaging,
        clip=options.clip,
        checkpoint_every=options.checkpoint_every,
        measure_every=every if measured else None,
        measure_from=MEASURE_FROM if measured and open_end and every is None else None,
        seed=options.seed,
    )


def learner_of(task: Run, device: torch.device) -> Learner:
    """The network of a run on `device`, with its start weights, and all that it learns from."""
    options, parts = task.options, task.parts
    weights = task.weights
    if task.start is not None:
        weights = torch.load(task.start, map_location="cpu", weights_only=True)["network"]
    network: Any = parts.network_of(options, len(task.classes), weights is None)
    if weights is not None:
        network.load_state_dict(weights)
    last = device.type == "cpu" or parts.CHANNELS_LAST_ON_GPU
    network.to(device)
    if last:
        network.to(memory_format=torch.channels_last)
    network.mixed = bfloat16_where_fast(options, device)
    gpu = device.type == "cuda"
    return Learner(
        network=network,
        optimiser=parts.optimiser_of(options, network),
        batch=batches(task, gpu),
        losses=_losses(task, device, torch.channels_last if last else torch.preserve_format),
        measure=(lambda state: heldout_ap(task, state)) if task.is_measured else None,
        # On a CPU one thread reads: the network needs the others.
        readers=options.readers if gpu else 1,
        # A thread starts on the first GPU, which may be another process's.
        enter=(lambda: torch.cuda.set_device(device)) if gpu and device.index is not None else None,
        all_used=parts.ALL_USED,
    )


def batches(task: Run, pinned: bool) -> Callable[[int], Batch]:
    """The batch of a step, of which each process has its share; in pinned memory, which a GPU takes sooner."""
    first, count = rank(), world()
    options = task.options.model_copy(update={"batch": max(task.options.batch // count, 1)})
    sampler = task.parts.sampler_of(options)(task.data, list(task.classes), options)

    def read(step: int) -> Batch:
        images, targets = sampler.batch(step * count + first)
        return (images.pin_memory(), [t.pin_memory() for t in targets]) if pinned else (images, targets)

    return read


def _losses(task: Run, device: torch.device, memory_format: torch.memory_format) -> Losses:
    options = task.options
    steps = min(options.steps, USUAL_STEPS) if options.has_open_end else options.steps

    def losses(module: nn.Module, batch: Batch, step: int) -> dict[str, Tensor]:
        images, targets = batch
        images = images.to(device, non_blocking=True, memory_format=memory_format)
        score = task.again or step >= steps * options.score_from
        return module(images, [t.to(device) for t in targets], score)

    return losses


def heldout_ap(task: Run, weights: Weights) -> dict[str, Any]:
    """Mask AP of weights on the held-out images, or the first of them where there are many, as a point of the curve."""
    assert task.heldout is not None
    options = task.options
    images = task.heldout.images[: options.evaluate_images]
    known = {i.id for i in images}
    truth = CocoDataset(images, task.heldout.classes, [a for a in task.heldout.annotations if a.image_id in known])
    detector = task.parts.of_weights(options, task.classes, weights)
    every, classes = mask_precision(predict_all(detector, images), truth, options.max_detections)
    return {
        "ap": _or_zero(every.ap),
        "ap50": _or_zero(every.ap50),
        "classes": {
            str(class_id): {"ap": round(one.ap, 5), "ap50": round(one.ap50, 5)}
            for class_id, one in classes.items()
            if not np.isnan(one.ap)
        },
    }


def _or_zero(ap: float) -> float:
    """Where no object is true there is no AP."""
    return 0.0 if np.isnan(ap) else round(ap, 5)
