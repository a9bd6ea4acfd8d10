"""A training run: schedule, checkpoints that survive a kill, progress. Knows no network in particular."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ml_backend.detector import Progress
from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How a run goes: AdamW with linear warm-up and cosine decay, and a running mean of the weights.

    steps, warmup: in training steps. learning_rate: its peak. averaging: decay of the mean, 0 keeps the last
    weights. clip: largest gradient norm. checkpoint_every: steps between checkpoints. seed: of every random choice.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.01
    warmup: int = 50
    averaging: float = 0.98
    clip: float = 10.0
    checkpoint_every: int = 100
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate at a step."""
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def run(
    network: nn.Module,
    batch: Callable[[int], Any],
    losses: Callable[[nn.Module, Any, int], dict[str, Tensor]],
    schedule: Schedule,
    checkpoint: Path,
    fingerprint: str,
    progress: Progress | None = None,
) -> dict[str, list[float]]:
    """Trains `network` in place and gives each loss by name, one value per step.

    A run that was killed goes on from its last checkpoint and ends with the weights that it would have had: all
    random choices of a step come from the seed and the step's number alone. A checkpoint of another run (another
    `fingerprint`) is left aside. The checkpoint stays until the caller has stored the result and removes it.

    Args:
        network: in training mode afterwards holds the averaged weights.
        batch: gives the data of a step; called one step ahead in a thread of its own.
        losses: gives the losses to be summed.
        checkpoint: file for the state of the unfinished run.
        fingerprint: names data and options, so that no other run's state is taken up.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.ndim > 1]
    plain = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": schedule.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=schedule.learning_rate)
    mean = {k: v.detach().clone() for k, v in network.state_dict().items()}
    history: dict[str, list[float]] = {}
    first = 0
    state = _resume(checkpoint, fingerprint, parameters[0].device)
    if state is not None:
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        mean, history, first = state["mean"], state["history"], state["step"]
    network.train()
    with ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(batch, first) if first < schedule.steps else None
        for step in range(first, schedule.steps):
            assert ahead is not None
            data = ahead.result()
            ahead = reader.submit(batch, step + 1) if step + 1 < schedule.steps else None
            torch.manual_seed(schedule.seed * 1_000_003 + step)
            for group in optimiser.param_groups:
                group["lr"] = schedule.rate(step)
            found = losses(network, data, step)
            total = torch.stack([v.float() for v in found.values()]).sum()
            optimiser.zero_grad(set_to_none=True)
            total.backward()
            norm = nn.utils.clip_grad_norm_(parameters, schedule.clip)
            if torch.isfinite(norm):
                optimiser.step()
            decay = min(schedule.averaging, (1 + step) / (10 + step))
            _average(mean, network.state_dict(), decay)
            for name, value in found.items():
                history.setdefault(name, [0.0] * step).append(float(value.detach()))
            for values in history.values():
                values.extend([0.0] * (step + 1 - len(values)))
            done = step + 1
            if done % schedule.checkpoint_every == 0 or done == schedule.steps:
                save(
                    checkpoint,
                    {
                        "fingerprint": fingerprint,
                        "step": done,
                        "network": network.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "mean": mean,
                        "history": history,
                    },
                )
            if progress:
                progress("train", done, schedule.steps)
    network.load_state_dict(mean)
    return history


def _average(mean: dict[str, Tensor], current: dict[str, Tensor], decay: float) -> None:
    floating = [k for k, v in mean.items() if v.is_floating_point()]
    torch._foreach_lerp_([mean[k] for k in floating], [current[k] for k in floating], 1 - decay)
    for key in mean.keys() - set(floating):
        mean[key].copy_(current[key])


def _resume(checkpoint: Path, fingerprint: str, device: torch.device) -> dict[str, Any] | None:
    if not checkpoint.is_file():
        return None
    try:
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        if state["fingerprint"] == fingerprint:
            log.info("training goes on at step %d", state["step"])
            return state
        log.info("%s belongs to another run; training starts anew", checkpoint)
    except Exception as error:
        log.warning("%s cannot be read (%s); training starts anew", checkpoint, error)
    return None


def save(path: Path, value: dict[str, Any]) -> None:
    """Writes `value` with torch.save beside `path` and renames it, so that a reader sees all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            torch.save(value, file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise InputError(path, "a file that can be written", getattr(error, "strerror", None) or error) from None


def read(path: Path, form: str) -> dict[str, Any]:
    """The checkpoint of a finished run at `path`, on the CPU. Raises InputError where it is none of format `form`."""
    if not path.is_file():
        raise InputError(path, "a checkpoint", "no such file")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(path, "a checkpoint", f"a file that cannot be read ({type(error).__name__})") from None
    if not isinstance(stored, dict) or stored.get("format") != form:
        raise InputError(path, f"a checkpoint of format {form}", "another file")
    return stored


def digest(*parts: Any) -> str:
    """A name, 16 hexadecimal digits, for values: dicts and lists by their JSON, bytes and tensors by content."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, dict) and any(isinstance(v, Tensor) for v in part.values()):
            for key in sorted(part):
                total.update(key.encode())
                total.update(part[key].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(part, bytes):
            total.update(part)
        else:
            total.update(json.dumps(part, sort_keys=True, default=str).encode())
    return total.hexdigest()[:16]


def fingerprint(
    options: dict[str, Any], data: CocoDataset, heldout: CocoDataset | None, start: dict[str, Tensor] | None
) -> str:
    """A name for all that the result of a run depends on: another result must not be taken for it.

    Args:
        options: that change the weights.
        data: what is learnt from.
        heldout: what weights are chosen, predicted IoU is calibrated and metrics are measured by.
        start: weights to start from.
    """
    return digest(options, _content(data), _content(heldout) if heldout else None, start or {})


def _content(data: CocoDataset) -> list[Any]:
    images = [[i.id, i.file_name, i.exhaustive] for i in data.images]
    annotations = [[a.id, a.image_id, a.class_id, a.iscrowd, a.rle["counts"].decode()] for a in data.annotations]
    return [sorted(data.classes.items()), images, annotations]
