"""A training run of PointRend: on a CPU or any number of GPUs, resumed after a kill, best weights by held-out AP."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from ml_backend.detector import Progress
from ml_backend.detectors.pointrend.config import PointRendOptions, fit_edges
from ml_backend.detectors.pointrend.network import build
from ml_backend.detectors.pointrend.processes import spread
from ml_backend.detectors.shared.augmentation import CropSampler, Scene
from ml_backend.detectors.shared.records import Target
from ml_backend.detectors.shared.trained import bfloat16_where_fast, chosen_device
from ml_backend.errors import InputError
from ml_backend.learning.training import Schedule, _average, _resume, save
from ml_backend.masks.coco import CocoDataset
from ml_backend.masks.pasting import paste

log = logging.getLogger(__name__)

# Beside the checkpoint: what all processes start from.
START = "start.pt"
_STRIDE = 32


@dataclass(frozen=True)
class Run:
    """All that a process of a run must know; it can be sent to another process.

    checkpoint: file for the state of the unfinished run. fingerprint: names data and options, so that no other
    run's state is taken up. weights: to start from, none for those that the options name; start: or a file of them.
    again: they are those of an earlier round, whose masks are worth scoring from the first step on.
    """

    data: CocoDataset
    heldout: CocoDataset | None
    classes: dict[int, str]
    options: PointRendOptions
    checkpoint: Path
    fingerprint: str
    weights: dict[str, Tensor] | None = None
    again: bool = False
    start: Path | None = None


class ImageSampler(CropSampler):
    """Batches of whole images, resized by their short side and flipped, as PointRend was trained when published."""

    options: PointRendOptions

    def batch(self, step: int) -> tuple[Tensor, list[Target]]:
        """Images (b, 3, h, w), padded to the largest, and their targets, whose masks are not padded."""
        rng = np.random.default_rng([self.options.seed, step])
        records = [*self.exhaustive, *self.incomplete]
        chosen = [records[i] for i in rng.choice(len(records), self.options.batch)]
        images, targets = zip(*(self._whole(self._scene(record), rng) for record in chosen), strict=True)
        height, width = (-(-max(i.shape[n] for i in images) // _STRIDE) * _STRIDE for n in (1, 2))
        padded = [functional.pad(i, (0, width - i.shape[2], 0, height - i.shape[1])) for i in images]
        return torch.stack(padded), list(targets)

    def _whole(self, scene: Scene, rng: np.random.Generator) -> tuple[Tensor, Target]:
        options = self.options
        height, width = scene.pixels.shape[:2]
        zoom = fit_edges(height, width, int(rng.choice(options.short_edges)), options.long_edge)
        h, w = max(round(height * zoom), 1), max(round(width * zoom), 1)
        pixels = torch.from_numpy((scene.pixels.astype(np.float32) - scene.mean) / scene.deviation)
        image = functional.interpolate(
            pixels.permute(2, 0, 1)[None], size=(h, w), mode="bilinear", align_corners=False, antialias=True
        )[0]
        masks = np.zeros((len(scene.windows), h, w), np.uint8)
        boxes = np.zeros((len(scene.windows), 4), np.float32)
        for mask, box, (x, y, bitmap) in zip(masks, boxes, scene.windows, strict=True):
            box[:] = [
                x * w / width,
                y * h / height,
                (x + bitmap.shape[1]) * w / width,
                (y + bitmap.shape[0]) * h / height,
            ]
            window, left, top = paste(bitmap, box, h, w)
            mask[top : top + window.shape[0], left : left + window.shape[1]] = window
        if rng.random() < 0.5:
            image, masks = image.flip(2), masks[:, :, ::-1].copy()
            boxes = np.stack([w - boxes[:, 2], boxes[:, 1], w - boxes[:, 0], boxes[:, 3]], 1)
        labels = torch.from_numpy(scene.labels.copy())
        return image, Target(torch.from_numpy(boxes), labels, torch.from_numpy(masks), scene.exhaustive)


def train(run: Run, progress: Progress | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Trains and gives the best weights, with what is known of them: `step`, and `ap` where it was measured.

    Takes several processes where the options or the GPUs ask for them. A killed run goes on from its checkpoint.
    """
    processes = _processes(run.options)
    if processes == 1:
        _work(run, progress or (lambda *step: None))
    else:
        # A file, as processes share every tensor that they are sent in memory; and weights that cannot be had are
        # an error here.
        start = run.checkpoint.with_name(START)
        save(start, {"network": run.weights or build(run.options, len(run.classes)).state_dict()})
        try:
            spread(_work, replace(run, weights=None, start=start), processes, progress)
        finally:
            start.unlink(missing_ok=True)
    state = _resume(run.checkpoint, run.fingerprint, torch.device("cpu"))
    if state is None:
        raise RuntimeError(f"{run.checkpoint}: expected the state of the finished run, got none")
    return state["best"]["network"], {k: v for k, v in state["best"].items() if k != "network"}


def _processes(options: PointRendOptions) -> int:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if options.processes:
        if 0 < gpus < options.processes:
            raise InputError("detector option processes", f"at most {gpus}, one per GPU", options.processes)
        return options.processes
    return 1 if options.device is not None else max(gpus, 1)


def _work(run: Run, report: Progress) -> None:
    """One process of the run; the first one reports, measures and keeps the state."""
    options, rank, world = run.options, comm.get_rank(), comm.get_world_size()
    device = (
        torch.device("cuda", comm.get_local_rank())
        if world > 1 and torch.cuda.is_available()
        else chosen_device(options)
    )
    if options.threads:
        torch.set_num_threads(options.threads)
    weights = run.weights
    if run.start is not None:
        weights = torch.load(run.start, map_location="cpu", weights_only=True)["network"]
    network = build(options, len(run.classes), pretrained=weights is None)
    if weights is not None:
        network.load_state_dict(weights)
    network.to(device)
    network.mixed = bfloat16_where_fast(options, device)
    if device.type == "cpu":
        network.to(memory_format=torch.channels_last)
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimiser = _optimiser(options, network)
    mean = {k: v.detach().clone() for k, v in network.state_dict().items()}
    best: dict[str, Any] = {"step": 0}
    first = 0
    state = _resume(run.checkpoint, run.fingerprint, torch.device("cpu"))
    if state is not None:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        mean = {k: v.to(device) for k, v in state["mean"].items()}
        best, first = state["best"], state["step"]
    del weights, state
    comm.synchronize()
    learner: nn.Module = DistributedDataParallel(network, broadcast_buffers=False) if world > 1 else network
    network.train()
    for step, (images, targets) in _batches(run, first, device):
        torch.manual_seed((options.seed * 1_000_003 + step) * world + rank)
        for group in optimiser.param_groups:
            group["lr"] = rate(options, step)
        images = images.to(device, non_blocking=True)
        targets = [_each(t, lambda column: column.to(device, non_blocking=True)) for t in targets]
        if device.type == "cpu":
            images = images.contiguous(memory_format=torch.channels_last)
        score = run.again or step >= options.steps * options.score_from
        losses = learner(images, targets, score)
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        norm = nn.utils.clip_grad_norm_(parameters, options.clip)
        if torch.isfinite(norm):
            optimiser.step()
        _average(mean, network.state_dict(), min(options.averaging, (1 + step) / (10 + step)))
        done = step + 1
        measured = done == options.steps or (_is_measured(run) and done % _evaluate_every(options) == 0)
        measured &= done >= options.steps / 2
        saved = measured or done % options.checkpoint_every == 0
        if rank == 0:
            if measured:
                best = _better(run, best, mean, done)
            if saved:
                kept = {"fingerprint": run.fingerprint, "step": done, "mean": mean, "best": best}
                save(run.checkpoint, {**kept, "network": network.state_dict(), "optimiser": optimiser.state_dict()})
            if step % 20 == 0:
                log.info("step %d: %s", done, ", ".join(f"{k} {float(v.detach()):.3f}" for k, v in losses.items()))
            report("train", done, options.steps)
        if saved:
            # Not at every step: the gradients are waited for anyway.
            comm.synchronize()


def _batches(run: Run, first: int, device: torch.device):
    """(step, (images, targets)) from step `first` on, read ahead in threads, in pinned memory where a GPU takes them.

    Each process has its share of a step's batch. On a CPU one thread reads: the network needs the others.
    """
    rank, world = comm.get_rank(), comm.get_world_size()
    options = run.options.model_copy(update={"batch": max(run.options.batch // world, 1)})
    kind: Callable[..., CropSampler] = ImageSampler if options.whole_images else CropSampler
    sampler = kind(run.data, list(run.classes), options)
    gpu = device.type == "cuda"

    def read(step: int) -> tuple[Tensor, list[Target]]:
        images, targets = sampler.batch(step * world + rank)
        if not gpu:
            return images, targets
        return images.pin_memory(), [_each(t, Tensor.pin_memory) for t in targets]

    threads = options.readers if gpu else 1
    # A thread starts on the first GPU, which may be another process's.
    enter = (lambda: torch.cuda.set_device(device)) if gpu and device.index is not None else None
    with ThreadPoolExecutor(threads, initializer=enter) as reader:
        ahead = deque(reader.submit(read, step) for step in range(first, min(first + threads, options.steps)))
        for step in range(first, options.steps):
            data = ahead.popleft().result()
            if step + threads < options.steps:
                ahead.append(reader.submit(read, step + threads))
            yield step, data


def _each(target: Target, change: Callable[[Tensor], Tensor]) -> Target:
    return replace(target, boxes=change(target.boxes), labels=change(target.labels), masks=change(target.masks))


def _optimiser(options: PointRendOptions, network: nn.Module) -> torch.optim.Optimizer:
    """sgd as detectron2 sets it up, where all decays but the weights of normalisation; adamw spares biases too."""
    if options.optimiser == "sgd":
        groups = get_default_optimizer_params(network, weight_decay=options.weight_decay, weight_decay_norm=0.0)
        return torch.optim.SGD(groups, lr=options.learning_rate, momentum=0.9)
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate)


def rate(options: PointRendOptions, step: int) -> float:
    """Learning rate at a step: warm-up, then cosine decay for adamw and drops to a tenth for sgd."""
    warmup = min(options.warmup, options.steps // 2)
    if options.optimiser == "adamw":
        return Schedule(options.steps, options.learning_rate, warmup=warmup).rate(step)
    if step < warmup:
        return options.learning_rate * (step + 1) / warmup
    return options.learning_rate * 0.1 ** sum(step >= share * options.steps for share in options.drops)


def _is_measured(run: Run) -> bool:
    return run.heldout is not None and bool(run.heldout.annotations)


def _evaluate_every(options: PointRendOptions) -> int:
    return options.evaluate_every or max(options.steps // 4, 1)


def _better(run: Run, best: dict[str, Any], mean: dict[str, Tensor], step: int) -> dict[str, Any]:
    """The better of `best` and the weights `mean` by held-out AP; without held-out images the later."""
    found: dict[str, Any] = {"step": step, "network": {k: v.detach().cpu().clone() for k, v in mean.items()}}
    alone = step == run.options.steps and "network" not in best
    if alone or not _is_measured(run):
        return found
    found["ap"] = heldout_ap(run, found["network"])
    log.info("step %d: held-out AP %.3f", step, found["ap"])
    return best if best.get("ap", -1.0) > found["ap"] else found


def heldout_ap(run: Run, state: dict[str, Tensor]) -> float:
    """Mask AP of weights on the held-out images, or the first of them where there are many."""
    from ml_backend.detectors.pointrend.detector import PointRend
    from ml_backend.learning.calibration import Calibration
    from ml_backend.learning.evaluation import average_precision, predict_all

    assert run.heldout is not None
    images = run.heldout.images[: run.options.evaluate_images]
    known = {i.id for i in images}
    truth = CocoDataset(images, run.heldout.classes, [a for a in run.heldout.annotations if a.image_id in known])
    detector = PointRend(run.options, run.classes, state, Calibration(), {})
    ap = average_precision(predict_all(detector, images), truth, run.options.max_detections)["mask"].ap
    return 0.0 if np.isnan(ap) else ap
