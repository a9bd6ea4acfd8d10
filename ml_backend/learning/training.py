"""The training loop: schedule, checkpoints that survive a kill, the best weights by held-out AP, several processes.

Knows no network in particular. All random choices of a step come from the seed and the step's number alone.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ml_backend.detector import Progress
from ml_backend.learning.checkpoints import Unfinished
from ml_backend.learning.processes import barrier, rank, world

log = logging.getLogger(__name__)

Weights = dict[str, Tensor]
# The losses of one step by name, of (network, data of the step, step).
Losses = Callable[[nn.Module, Any, int], dict[str, Tensor]]
_LOG_EVERY = 20


@dataclass(frozen=True)
class Schedule:
    """How a run goes: its learning rate, a running mean of the weights, and when they are stored and measured.

    steps, warmup: in training steps. learning_rate: its peak, after a linear warm-up. drops: shares of the steps
    after which the rate falls to a tenth; None is a cosine decay. averaging: decay of the mean, 0 keeps the last
    weights. clip: largest gradient norm. checkpoint_every: steps between checkpoints. measure_every: steps between
    measurements of the weights in the second half; None measures none. seed: of every random choice.
    """

    steps: int
    learning_rate: float
    warmup: int = 50
    drops: tuple[float, ...] | None = None
    averaging: float = 0.98
    clip: float = 10.0
    checkpoint_every: int = 100
    measure_every: int | None = None
    seed: int = 0

    def rate(self, step: int) -> float:
        """Learning rate at a step.

        >>> [round(Schedule(steps=10, learning_rate=1.0, warmup=2, drops=(0.5,)).rate(s), 3) for s in (0, 1, 4, 5)]
        [0.5, 1.0, 1.0, 0.1]
        """
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.drops is not None:
            return self.learning_rate * 0.1 ** sum(step >= share * self.steps for share in self.drops)
        done = (step - self.warmup) / max(self.steps - self.warmup, 1)
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))

    def is_measured(self, done: int) -> bool:
        """Whether the weights are measured after so many steps; after the last one they always are."""
        if self.measure_every is None or done < self.steps / 2:
            return False
        return done == self.steps or done % self.measure_every == 0

    def is_stored(self, done: int) -> bool:
        """Whether a checkpoint is stored after so many steps."""
        return done == self.steps or self.is_measured(done) or done % self.checkpoint_every == 0


@dataclass
class Learner:
    """What a run trains, in each of its processes.

    network: trained in place. optimiser: of its parameters. batch: data of a step; called ahead, in `readers` threads
    that `enter` begins. losses: summed at each step. measure: AP of weights on held-out images, asked of the first
    process alone. all_used: whether every parameter takes part in the losses of every step.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    batch: Callable[[int], Any]
    losses: Losses
    measure: Callable[[Weights], float] | None = None
    readers: int = 1
    enter: Callable[[], None] | None = None
    all_used: bool = True


def run(learner: Learner, schedule: Schedule, unfinished: Unfinished, progress: Progress | None = None) -> None:
    """Trains until all steps are done and stored, see `outcome`.

    A run that was killed goes on from its last checkpoint and ends with the weights that it would have had. The
    checkpoint stays until the caller has stored the result and removes it. Called in every process of the run, of
    which the first one measures, stores and reports.
    """
    state = _State(learner, schedule, unfinished)
    first = rank() == 0
    barrier()
    module: nn.Module = learner.network
    if world() > 1:
        unused = not learner.all_used
        module = DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=unused)
    learner.network.train()
    for step, data in read_ahead(learner, state.step, schedule.steps):
        losses = _learn(learner, schedule, module, data, step)
        state.advance()
        if first:
            if step % _LOG_EVERY == 0:
                log.info("step %d: %s", step + 1, ", ".join(f"{k} {float(v.detach()):.3f}" for k, v in losses.items()))
            state.keep()
            if progress:
                progress("train", step + 1, schedule.steps)
        if schedule.is_stored(step + 1):
            # Not at every step: the gradients are waited for anyway.
            barrier()


def outcome(unfinished: Unfinished) -> tuple[Weights, dict[str, Any]]:
    """The weights that a run ended with, on the CPU, and what is known of them: `step`, and `ap` where measured.

    They are the best by held-out AP where it was measured, else the last.
    """
    state = unfinished.load()
    if state is None:
        raise RuntimeError(f"{unfinished.path}: expected the state of the finished run, got none")
    best = dict(state.get("best") or {})
    weights = best.pop("network", None)
    return (state["mean"], {"step": state["step"]}) if weights is None else (weights, best)


def adamw(network: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW that lets weights decay, but neither biases nor the weights of normalisation."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)


def read_ahead(learner: Learner, first: int, steps: int) -> Iterator[tuple[int, Any]]:
    """(step, its data) from step `first` on, in order, read ahead in the learner's threads."""
    with ThreadPoolExecutor(learner.readers, initializer=learner.enter) as reader:
        ahead = deque(reader.submit(learner.batch, step) for step in range(first, min(first + learner.readers, steps)))
        for step in range(first, steps):
            data = ahead.popleft().result()
            if step + learner.readers < steps:
                ahead.append(reader.submit(learner.batch, step + learner.readers))
            yield step, data


def _learn(learner: Learner, schedule: Schedule, module: nn.Module, data: Any, step: int) -> dict[str, Tensor]:
    """One step of the optimiser; a gradient that is not finite changes nothing."""
    torch.manual_seed((schedule.seed * 1_000_003 + step) * world() + rank())
    for group in learner.optimiser.param_groups:
        group["lr"] = schedule.rate(step)
    losses = learner.losses(module, data, step)
    total = torch.stack([loss.float() for loss in losses.values()]).sum()
    learner.optimiser.zero_grad(set_to_none=True)
    total.backward()
    norm = nn.utils.clip_grad_norm_([p for p in learner.network.parameters() if p.requires_grad], schedule.clip)
    if torch.isfinite(norm):
        learner.optimiser.step()
    return losses


class _State:
    """Where a run stands: steps done, the running mean of the weights and the best ones so far."""

    def __init__(self, learner: Learner, schedule: Schedule, unfinished: Unfinished):
        self.learner, self.schedule, self.unfinished = learner, schedule, unfinished
        self.step = 0
        self.best: dict[str, Any] = {"step": 0}
        stored = unfinished.load()
        if stored is not None:
            log.info("training goes on at step %d", stored["step"])
            learner.network.load_state_dict(stored["network"])
            learner.optimiser.load_state_dict(stored["optimiser"])
            self.step, self.best = stored["step"], stored.get("best") or self.best
        self.mean = {k: v.detach().clone() for k, v in learner.network.state_dict().items()}
        if stored is not None:
            for key, value in stored["mean"].items():
                self.mean[key].copy_(value)

    def advance(self) -> None:
        """Takes the weights of one more step into the mean."""
        decay = min(self.schedule.averaging, (1 + self.step) / (10 + self.step))
        current = self.learner.network.state_dict()
        floating = [k for k, v in self.mean.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.mean[k] for k in floating], [current[k] for k in floating], 1 - decay)
        for key in self.mean.keys() - set(floating):
            self.mean[key].copy_(current[key])
        self.step += 1

    def keep(self) -> None:
        """Measures and stores where the schedule says so."""
        if self.learner.measure is not None and self.schedule.is_measured(self.step):
            self._compare(self.learner.measure)
        if self.schedule.is_stored(self.step):
            self.unfinished.save(
                {
                    "step": self.step,
                    "network": self.learner.network.state_dict(),
                    "optimiser": self.learner.optimiser.state_dict(),
                    "mean": self.mean,
                    "best": self.best,
                }
            )

    def _compare(self, measure: Callable[[Weights], float]) -> None:
        """Makes the mean the best weights unless earlier ones have a higher AP."""
        weights = {k: v.detach().cpu().clone() for k, v in self.mean.items()}
        latest: dict[str, Any] = {"step": self.step, "network": weights}
        if self.step < self.schedule.steps or "network" in self.best:
            latest["ap"] = measure(weights)
            log.info("step %d: held-out AP %.3f", self.step, latest["ap"])
            if self.best.get("ap", -1.0) > latest["ap"]:
                return
        self.best = latest
