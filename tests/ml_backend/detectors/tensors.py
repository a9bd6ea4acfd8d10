"""Masks made of formulas, and a watch over the memory that tensors take."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


def blobs(count: int, side: int, seed: int = 0) -> torch.Tensor:
    """Smooth random masks of `side` cells, without values near the threshold."""
    rng = np.random.default_rng(seed)
    at = (np.arange(side) + 0.5) / side * 2 - 1
    masks = []
    for _ in range(count):
        x, y, radius = rng.uniform(-0.3, 0.3), rng.uniform(-0.3, 0.3), rng.uniform(0.3, 1.2)
        masks.append(1 / (1 + np.exp(12 * (np.hypot(at[None] - x, at[:, None] - y) - radius))))
    return torch.tensor(np.stack(masks), dtype=torch.float32)


class Largest(TorchDispatchMode):
    """Watches the largest tensor that is made while it is entered, in bytes."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.numel() * tensor.element_size())
        return made
