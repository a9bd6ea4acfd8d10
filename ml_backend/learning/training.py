"""The training loop: schedule, checkpoints that survive a kill, the best weights by held-out AP, several processes.

Knows no network in particular. All random choices of a step come from the seed and the step's number alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ml_backend.detector import Progress
from ml_backend.learning.checkpoints import Unfinished
from ml_backend.learning.curve import Point, gained_last, has_stopped_rising
from ml_backend.learning.processes import agreed, barrier, rank, world

log = logging.getLogger(__name__)

Weights = dict[str, Tensor]
# The losses of one step by name, of (network, data of the step, step).
Losses = Callable[[nn.Module, Any, int], dict[str, Tensor]]
_LOG_EVERY = 20
# Several processes agree every so many steps whether time is up.
_AGREE_EVERY = 10
# The rate of a run with an open end decays over one step in so many, the last ones.
_DECAY = 5


@dataclass(frozen=True)
class Schedule:
    """How a run goes: its learning rate, a running mean of the weights, when they are stored and measured, its end.

    A run with an **open end** (`minutes` or `patience`) keeps its peak rate until the first of its limits is near:
    steps, time, or a held-out AP that has stopped rising. The rate then decays over a further quarter of the steps
    done so far, a fifth of them all, as in "Scaling laws and compute-optimal training beyond fixed training durations".
    Without an open end all steps are done, and the rate follows from their number.

    steps: training steps; with an open end at most so many. learning_rate: its peak, after a linear warm-up of so many
    steps. drops: shares of the steps after which the rate falls to a tenth; None is a cosine decay; not with an open
    end. minutes: of training, measurements included, after which it is about to be over. patience: measurements in a
    row without a rise of AP after which it decays. averaging: decay of the mean, 0 keeps the last weights. clip:
    largest gradient norm. checkpoint_every: steps between checkpoints. measure_every: steps between measurements of
    the weights, without an open end in the second half. measure_from: with an open end and no `measure_every`, steps
    before the first measurement, after which each comes when a quarter more steps are done. Without both nothing is
    measured. seed: of every random choice.
    """

    steps: int
    learning_rate: float
    warmup: int = 50
    drops: tuple[float, ...] | None = None
    minutes: float | None = None
    patience: int | None = None
    averaging: float = 0.98
    clip: float = 10.0
    checkpoint_every: int = 100
    measure_every: int | None = None
    measure_from: int | None = None
    seed: int = 0

    @property
    def is_open(self) -> bool:
        """Whether something else than the number of steps may end the run."""
        return self.minutes is not None or self.patience is not None

    def decay_from(self, decided: int | None = None) -> int:
        """The step from which the rate of a run with an open end decays, at the latest that which the steps allow.

        Args:
            decided: the step at which time or AP asked for it, where one of them has.
        """
        latest = max(self.steps - self.steps // _DECAY, 1)
        return latest if decided is None else min(decided, latest)

    def end(self, decided: int | None = None) -> int:
        """The number of steps of the whole run; `decided` as for `decay_from`.

        >>> open_end = Schedule(steps=1000, learning_rate=1.0, patience=2)
        >>> open_end.end(), open_end.end(decided=400), open_end.end(decided=900)
        (1000, 500, 1000)
        """
        if not self.is_open:
            return self.steps
        first = self.decay_from(decided)
        return min(first + math.ceil(first / (_DECAY - 1)), self.steps)

    def rate(self, step: int, decided: int | None = None) -> float:
        """Learning rate at a step; `decided` as for `decay_from`.

        >>> [round(Schedule(steps=10, learning_rate=1.0, warmup=2, drops=(0.5,)).rate(s), 3) for s in (0, 1, 4, 5)]
        [0.5, 1.0, 1.0, 0.1]
        >>> [round(Schedule(steps=10, learning_rate=1.0, warmup=2, patience=2).rate(s), 3) for s in (1, 7, 8, 9)]
        [1.0, 1.0, 1.0, 0.505]
        """
        if step < self.warmup:
            return self.learning_rate * (step + 1) / self.warmup
        if self.is_open:
            first = self.decay_from(decided)
            if step < first:
                return self.learning_rate
            return self._cosine(step - first, self.end(decided) - first)
        if self.drops is not None:
            return self.learning_rate * 0.1 ** sum(step >= share * self.steps for share in self.drops)
        return self._cosine(step - self.warmup, self.steps - self.warmup)

    def _cosine(self, done: int, steps: int) -> float:
        return self.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done / max(steps, 1))))

    def is_measured(self, done: int, decided: int | None = None) -> bool:
        """Whether the weights are measured after so many steps; at the end they always are where they ever are."""
        if self.measure_every is None and self.measure_from is None:
            return False
        if done == self.end(decided):
            return True
        if not self.is_open:
            return done >= self.steps / 2 and done % (self.measure_every or self.steps) == 0
        if done > self.decay_from(decided):
            return False
        if self.measure_every is not None:
            return done % self.measure_every == 0
        return _is_milestone(done, self.measure_from or 1)

    def is_stored(self, done: int, decided: int | None = None) -> bool:
        """Whether a checkpoint is stored after so many steps."""
        return done == self.end(decided) or self.is_measured(done, decided) or done % self.checkpoint_every == 0

    def why_decay(self, seconds: float, curve: Sequence[Point]) -> str | None:
        """What asks for the decay now, `minutes` or `patience`; None where nothing does.

        Args:
            seconds: of training so far.
            curve: what was measured so far.
        """
        if self.minutes is not None and seconds >= 60 * self.minutes * (1 - 1 / _DECAY):
            return "minutes"
        if self.patience is not None and has_stopped_rising(curve, self.patience):
            return "patience"
        return None

    def expected_end(self, done: int, seconds: float, decided: int | None = None) -> int:
        """About how many steps the run will have, as far as its speed says."""
        end = self.end(decided)
        if decided is not None or self.minutes is None or done < _LOG_EVERY or seconds <= 0:
            return end
        return max(min(end, round(done * 60 * self.minutes / seconds)), done + 1)


def _is_milestone(done: int, first: int) -> bool:
    """Whether `done` is `first`, or a quarter more than the milestone before."""
    while first < done:
        first += math.ceil(first / 4)
    return first == done


@dataclass
class Learner:
    """What a run trains, in each of its processes.

    network: trained in place. optimiser: of its parameters. batch: data of a step; called ahead, in `readers` threads
    that `enter` begins. losses: summed at each step. measure: `ap` of weights on held-out images, and whatever else is
    to be kept with it, asked of the first process alone. all_used: whether every parameter takes part in the losses
    of every step. clock: seconds since some moment.
    """

    network: nn.Module
    optimiser: torch.optim.Optimizer
    batch: Callable[[int], Any]
    losses: Losses
    measure: Callable[[Weights], dict[str, Any]] | None = None
    readers: int = 1
    enter: Callable[[], None] | None = None
    all_used: bool = True
    clock: Callable[[], float] = time.monotonic


def run(learner: Learner, schedule: Schedule, unfinished: Unfinished, progress: Progress | None = None) -> None:
    """Trains until the run is over and its state stored, see `outcome`.

    A run that was killed goes on from its last checkpoint and ends with the weights that it would have had; where time
    is what ends it, with those of as many steps as the time that was left allowed. The checkpoint stays until the
    caller has stored the result and removes it. Called in every process of the run, of which the first one measures,
    stores and reports.
    """
    state = _State(learner, schedule, unfinished)
    first = rank() == 0
    barrier()
    module: nn.Module = learner.network
    if world() > 1:
        unused = not learner.all_used
        module = DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=unused)
    learner.network.train()
    if state.is_over:
        return
    with closing(read_ahead(learner, state.step, schedule.steps)) as batches:
        for step, data in batches:
            losses = _learn(learner, schedule, module, data, (step, schedule.rate(step, state.decided)))
            state.advance(losses)
            if first and step % _LOG_EVERY == 0:
                log.info("step %d: %s", step + 1, ", ".join(f"{k} {float(v.detach()):.3f}" for k, v in losses.items()))
            stored = schedule.is_stored(state.step, state.decided)
            state.keep(first)
            if first and progress:
                progress("train", state.step, schedule.expected_end(state.step, state.seconds, state.decided))
            if stored:
                # Not at every step: the gradients are waited for anyway.
                barrier()
            if state.is_over:
                break


@dataclass(frozen=True)
class Outcome:
    """What a run ended with, on the CPU.

    weights: the best by held-out AP where it was measured, else the last. step: that they are of. ap: theirs, where it
    was measured. course: how the run went, as JSON, see `course`.
    """

    weights: Weights
    step: int
    ap: float | None
    course: dict[str, Any]


def outcome(unfinished: Unfinished) -> Outcome:
    """What a run ended with that stored its state in `unfinished`."""
    state = unfinished.load()
    if state is None:
        raise RuntimeError(f"{unfinished.path}: expected the state of the finished run, got none")
    best = state.get("best") or {}
    weights = best.get("network")
    step = state["step"] if weights is None else best["step"]
    return Outcome(state["mean"] if weights is None else weights, step, best.get("ap"), course(state))


def course(state: dict[str, Any]) -> dict[str, Any]:
    """How a run went, of its stored state, as JSON.

    `steps` and `minutes` that it took; what `ended_by`: steps, minutes or patience; its learning `curve`, see
    `ml_backend.learning.curve`; and `gained_last_quarter`, the AP that the last quarter of the steps before the decay
    of the learning rate brought, or None: a clear gain says that longer training would help.
    """
    curve = state.get("curve") or []
    decided = state.get("decided")
    return {
        "steps": state["step"],
        "minutes": round(state.get("seconds", 0.0) / 60, 2),
        "ended_by": decided[1] if decided else "steps",
        "gained_last_quarter": gained_last(curve),
        "curve": curve,
    }


def adamw(network: nn.Module, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW that lets weights decay, but neither biases nor the weights of normalisation."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate)


def read_ahead(learner: Learner, first: int, steps: int) -> Generator[tuple[int, Any], None, None]:
    """(step, its data) from step `first` on, in order, read ahead in the learner's threads."""
    with ThreadPoolExecutor(learner.readers, initializer=learner.enter) as reader:
        ahead = deque(reader.submit(learner.batch, step) for step in range(first, min(first + learner.readers, steps)))
        for step in range(first, steps):
            data = ahead.popleft().result()
            if step + learner.readers < steps:
                ahead.append(reader.submit(learner.batch, step + learner.readers))
            yield step, data


def _learn(
    learner: Learner, schedule: Schedule, module: nn.Module, data: Any, at: tuple[int, float]
) -> dict[str, Tensor]:
    """One step of the optimiser, `at` a step and its learning rate; a gradient that is not finite changes nothing."""
    step, learning_rate = at
    torch.manual_seed((schedule.seed * 1_000_003 + step) * world() + rank())
    for group in learner.optimiser.param_groups:
        group["lr"] = learning_rate
    losses = learner.losses(module, data, step)
    total = torch.stack([loss.float() for loss in losses.values()]).sum()
    learner.optimiser.zero_grad(set_to_none=True)
    total.backward()
    norm = nn.utils.clip_grad_norm_([p for p in learner.network.parameters() if p.requires_grad], schedule.clip)
    if torch.isfinite(norm):
        learner.optimiser.step()
    return losses


class _State:
    """Where a run stands: steps done, time taken, the running mean of the weights, the best ones and the curve so far.

    `decided` is the step at which time or AP asked for the decay of the learning rate, and which of them did.
    """

    def __init__(self, learner: Learner, schedule: Schedule, unfinished: Unfinished):
        self.learner, self.schedule, self.unfinished = learner, schedule, unfinished
        self.step = 0
        self.best: dict[str, Any] = {"step": 0}
        self.curve: list[Point] = []
        self.decay: tuple[int, str] | None = None
        self.losses: dict[str, float] = {}
        self._since = 0  # the step after which `losses` are summed
        taken = 0.0
        stored = unfinished.load()
        if stored is not None:
            log.info("training goes on at step %d", stored["step"])
            learner.network.load_state_dict(stored["network"])
            learner.optimiser.load_state_dict(stored["optimiser"])
            self.step, self.best = stored["step"], stored.get("best") or self.best
            self.curve, taken = stored.get("curve") or [], stored.get("seconds", 0.0)
            self.decay = tuple(stored["decided"]) if stored.get("decided") else None
            self.losses, self._since = stored.get("losses") or {}, stored.get("since", self.step)
        self._began = learner.clock() - taken
        self.mean = {k: v.detach().clone() for k, v in learner.network.state_dict().items()}
        if stored is not None:
            for key, value in stored["mean"].items():
                self.mean[key].copy_(value)

    @property
    def seconds(self) -> float:
        """Of training so far; of a run that was killed, those until its last checkpoint and those since."""
        return self.learner.clock() - self._began

    @property
    def decided(self) -> int | None:
        """The step at which time or AP asked for the decay."""
        return self.decay[0] if self.decay else None

    @property
    def is_over(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.schedule.end(self.decided)

    def advance(self, losses: dict[str, Tensor]) -> None:
        """Takes the weights and the losses of one more step into their means."""
        decay = min(self.schedule.averaging, (1 + self.step) / (10 + self.step))
        current = self.learner.network.state_dict()
        floating = [k for k, v in self.mean.items() if v.is_floating_point()]
        torch._foreach_lerp_([self.mean[k] for k in floating], [current[k] for k in floating], 1 - decay)
        for key in self.mean.keys() - set(floating):
            self.mean[key].copy_(current[key])
        for name, loss in losses.items():
            value = float(loss.detach())
            # The curve is stored as JSON, which has no infinity.
            self.losses[name] = self.losses.get(name, 0.0) + (value if math.isfinite(value) else 0.0)
        self.step += 1

    def keep(self, first: bool) -> None:
        """Measures and stores where the schedule says so, and decides whether the end is near.

        All processes come here; the `first` alone measures and stores, and says what is decided.
        """
        decided = self.decided
        measured = self.schedule.is_measured(self.step, decided)
        stored = self.schedule.is_stored(self.step, decided)
        if measured and first and self.learner.measure is not None:
            self._compare(self.learner.measure)
        if self.schedule.is_open and self.step < self.schedule.decay_from(decided):
            self._decide(measured)
        if stored and first:
            self.unfinished.save(
                {
                    "step": self.step,
                    "network": self.learner.network.state_dict(),
                    "optimiser": self.learner.optimiser.state_dict(),
                    "mean": self.mean,
                    "best": self.best,
                    "curve": self.curve,
                    "seconds": self.seconds,
                    "decided": list(self.decay) if self.decay else None,
                    "losses": self.losses,
                    "since": self._since,
                }
            )

    def _decide(self, measured: bool) -> None:
        """Asks for the decay where time is up or AP has stopped rising; then every process does."""
        several = world() > 1
        if several and not measured and self.step % _AGREE_EVERY:
            return
        reason = self.schedule.why_decay(self.seconds, self.curve)
        if several:
            reason = (None, "minutes", "patience")[agreed((None, "minutes", "patience").index(reason))]
        if reason is not None:
            log.info("step %d: the learning rate decays from here on: %s", self.step, reason)
            self.decay = (self.step, reason)

    def _compare(self, measure: Callable[[Weights], dict[str, Any]]) -> None:
        """Makes the mean the best weights unless earlier ones have a higher AP."""
        weights = {k: v.detach().cpu().clone() for k, v in self.mean.items()}
        latest: dict[str, Any] = {"step": self.step, "network": weights}
        end = self.schedule.end(self.decided)
        if self.step < end or "network" in self.best:
            measured = measure(weights)
            latest["ap"] = measured["ap"]
            log.info("step %d: held-out AP %.3f", self.step, latest["ap"])
            self._add(measured)
            if self.best.get("ap", -1.0) > latest["ap"]:
                return
        self.best = latest

    def _add(self, measured: dict[str, Any]) -> None:
        """Adds a point to the curve."""
        steps = max(self.step - self._since, 1)
        self.curve.append(
            {
                "step": self.step,
                "minutes": round(self.seconds / 60, 3),
                **measured,
                "loss": {name: round(total / steps, 4) for name, total in self.losses.items()},
                "decaying": not self.schedule.is_open or self.step > self.schedule.decay_from(self.decided),
            }
        )
        self.losses, self._since = {}, self.step
