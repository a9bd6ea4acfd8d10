"""Settings of a linkage run."""

from __future__ import annotations

from dataclasses import dataclass

from ml_backend.errors import InputError

ENGINES = ("auto", "exact", "approximate")
DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class LinkageOptions:
    """How to build a complete-linkage tree.

    engine: "exact", "approximate" (micro-clusters, then exact above and inside them), or "auto".
    device: "cpu", "cuda", or "auto" (CUDA where PyTorch finds it); "cuda:1" is the second GPU, "cpu:0" the engine for
        GPUs on PyTorch's CPU device.
    memory: bytes the run may take on top of its input; None takes four fifths of what is free.
    seed: of everything random (the approximate engine and the sampled scales of very large inputs).
    threads: CPU threads; None takes all cores.
    feature_scale, score_scale: σ_f and σ_s of the fused distance; None measures them.
    micro_size: mean number of masks in a micro-cluster of the approximate engine.
    exact_limit: the largest n that "auto" clusters exactly; None chooses by device.
    """

    engine: str = "auto"
    device: str = "auto"
    memory: int | None = None
    seed: int = 0
    threads: int | None = None
    feature_scale: float | None = None
    score_scale: float | None = None
    micro_size: int = 20
    exact_limit: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise InputError("engine", f"one of {', '.join(ENGINES)}", repr(self.engine))
        if self.device not in DEVICES and not self.device.startswith(("cuda:", "cpu:")):
            raise InputError("device", f"one of {', '.join(DEVICES)}, cuda:<number> or cpu:0", repr(self.device))
        for name in ("memory", "threads", "exact_limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(name, "a positive number", value)
        if self.micro_size < 2:
            raise InputError("micro_size", "at least 2 masks", self.micro_size)
        for name in ("feature_scale", "score_scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise InputError(name, "a positive number", value)
