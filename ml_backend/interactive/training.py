"""How a segmenter's network is trained: put into the training loop that detectors have, and measured by its losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_backend.detector import Progress
from ml_backend.interactive.encodings import nearest
from ml_backend.interactive.network import ClickNetwork, locally_normalised
from ml_backend.interactive.options import ClickOptions, SegmenterOptions
from ml_backend.interactive.samples import Batch, TrainingObject, add_clicks, prompt_channels
from ml_backend.interactive.segmenter import Click
from ml_backend.interactive.windows import seen
from ml_backend.learning.checkpoints import Unfinished
from ml_backend.learning.devices import chosen_device
from ml_backend.learning.training import Learner, Losses, Outcome, Schedule, adamw, outcome, run

# How much more a cell counts where a click is, and how far that reaches: the deviation of a Gaussian, in cells.
_NEAR, _NEAR_CELLS = 16.0, 4.0


def trained(
    network: nn.Module,
    batch: Callable[[int], Any],
    losses: Losses,
    options: SegmenterOptions,
    unfinished: Unfinished,
    progress: Progress | None,
) -> Outcome:
    """Trains a network and returns its weights; a killed run goes on from its checkpoint."""
    if options.threads:
        torch.set_num_threads(options.threads)
    network.to(chosen_device(options)).to(memory_format=torch.channels_last)
    schedule = Schedule(
        steps=options.steps,
        learning_rate=options.learning_rate,
        warmup=min(options.warmup, options.steps // 2),
        minutes=options.minutes,
        averaging=options.averaging,
        clip=options.clip,
        checkpoint_every=options.checkpoint_every,
        seed=options.seed,
    )
    optimiser = adamw(network, options.learning_rate, options.weight_decay)
    run(Learner(network, optimiser, batch, losses), schedule, unfinished, progress)
    return outcome(unfinished)


def click_losses(options: ClickOptions) -> Losses:
    """The losses of `click`: of every pass over the objects of a step, and of what every pixel teaches the encoder."""

    def losses(network: Any, batch: Batch, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([options.seed, step, 1])
        device = next(network.parameters()).device
        levels = network.encode(batch.pictures.to(device, memory_format=torch.channels_last))
        objects = [o for part in batch.parts for o in part.objects]
        total = {"dense": dense_loss(network.dense(levels[0]), batch.dense.to(device), batch.known.to(device))}
        if not objects:
            return total
        pixels, features = _views(network, batch, levels)
        truth = torch.from_numpy(np.stack([o.truth for o in objects])).to(device)
        share = pass_weights(options.passes)
        for number in range(options.passes):
            prompt = np.stack([prompt_channels(options, o.box, o.clicks, o.previous, options.radius) for o in objects])
            logits, quality = network.head(pixels, torch.from_numpy(prompt).to(device), features)
            near = torch.from_numpy(np.stack([click_weights(o.clicks, network.grid) for o in objects])).to(device)
            for name, loss in mask_losses(logits, quality, truth, near).items():
                total[name] = total.get(name, 0) + loss * share[number]
            if number + 1 < options.passes:
                _go_on(objects, logits, options, rng)
        return total

    return losses


def pass_weights(passes: int) -> list[float]:
    """What each pass counts in the loss, summing to 1: those after the first, which correct masks, twice as much.

    >>> pass_weights(3)
    [0.2, 0.4, 0.4]
    """
    weights = [1.0] + [2.0] * (passes - 1)
    return [w / sum(weights) for w in weights]


def click_weights(clicks: Sequence[Click], grid: int) -> np.ndarray:
    """What each cell counts in the loss, (grid, grid) float32: 1, and up to `1 + _NEAR` where a click is near.

    A click says most of the cells around it, and these are few: counted like all others they would teach next to
    nothing. Weights by what is wrong there would tell the truth to the network, which then changes what is right.
    """
    places = np.array([(c.x, c.y) for c in clicks]).reshape(-1, 2)
    distance = nearest(places, grid, grid)
    return 1 + _NEAR * np.exp(-0.5 * np.square(distance / _NEAR_CELLS))


def _views(network: ClickNetwork, batch: Batch, levels: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Pixels and features of the objects' windows."""
    pixels, features = [], []
    for row, part in enumerate(batch.parts):
        windows = [o.window for o in part.objects]
        pixels.append(seen(part.pixels, windows, network.grid))
        features.append(network.features_in([level[row] for level in levels], windows, part.scale))
    device = levels[0].device
    return locally_normalised(torch.cat(pixels).to(device)), torch.cat(features)


def _go_on(objects: list[TrainingObject], logits: Tensor, options: ClickOptions, rng: np.random.Generator) -> None:
    """What the annotators do with the masks that were proposed."""
    masks = (logits.detach() > 0).cpu().numpy()
    for thing, mask in zip(objects, masks, strict=True):
        thing.previous = mask
        add_clicks(thing, int(rng.choice([1, 1, 1, 2, 4])), options, rng)


def dense_loss(logits: Tensor, target: Tensor, known: Tensor) -> Tensor:
    """Binary cross-entropy of (b, 2, h, w); of pictures of which not all objects are known only what objects are."""
    loss = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    counted = known[:, None, None, None] | (target[:, :1] > 0.5)
    return (loss * counted).sum() / (counted.sum() * 2 + 1)


def mask_losses(logits: Tensor, quality: Tensor, truth: Tensor, weights: Tensor | None = None) -> dict[str, Tensor]:
    """Of masks (n, g, g): cross-entropy and how far their soft IoU is from 1; and of predicted IoU (n,), how far off.

    Args:
        logits: of the masks.
        quality: of predicted IoU.
        truth: (n, g, g), shares of cells in [0, 1].
        weights: (n, g, g) of the cells in the cross-entropy; None weighs all alike.
    """
    probability = logits.sigmoid()
    both, either = (probability * truth).sum((1, 2)), (probability + truth - probability * truth).sum((1, 2))
    with torch.no_grad():
        mask, solid = logits > 0, truth > 0.5
        iou = (mask & solid).sum((1, 2)) / (mask | solid).sum((1, 2)).clamp(min=1)
    return {
        "mask": functional.binary_cross_entropy_with_logits(logits, truth, weights) * 2,
        "overlap": (1 - (both + 1) / (either + 1)).mean(),
        "quality": functional.binary_cross_entropy_with_logits(quality, iou) * 0.5,
    }


def unfinished_at(output: Path, name: str, fingerprint: str) -> Unfinished:
    """The state of a run that is under way in the folder `output`."""
    return Unfinished(output / f"{name}.unfinished", fingerprint)
