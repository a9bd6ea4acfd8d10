"""Where a network computes and in what."""

from __future__ import annotations

from typing import Any

import torch

from ml_backend.errors import InputError


def chosen_device(options: Any) -> torch.device:
    """The device of the options, or the best there is. Raises InputError where this machine has no such device."""
    name = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        # Named by its number, for other threads may have another current one.
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError, NotImplementedError):
        here = ", ".join(["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))])
        raise InputError(f"{options.KIND} option device", f"a torch device of this machine ({here})", name) from None


def bfloat16_where_fast(options: Any, device: torch.device) -> bool:
    """Whether to compute in bfloat16: as the options say, else where the device itself does and nothing emulates it."""
    if options.bfloat16 is not None:
        return options.bfloat16
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(supported and supported())


def training_processes(options: Any) -> int:
    """How many processes a run takes: as the options say, else one per GPU unless they name a device.

    Raises InputError where there are fewer GPUs than that, but some.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if options.processes:
        if 0 < gpus < options.processes:
            raise InputError(f"{options.KIND} option processes", f"at most {gpus}, one per GPU", options.processes)
        return options.processes
    return 1 if options.device is not None else max(gpus, 1)
