"""numba's compiler where it is installed; without it the same functions as plain Python, or in a NumPy form.

A machine with a GPU and PyTorch may have no numba. What the engine on a device needs of compiled functions is then
fast enough without; the engine on the CPU and lists of neighbours are not, and are refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ml_backend.errors import InputError

try:
    import numba
except ImportError:
    numba = None  # type: ignore[assignment]

COMPILED = numba is not None


def njit(plain: Callable | None = None, **options: Any) -> Callable[[Callable], Callable]:
    """The decorator that has this name in numba; without numba the function becomes `plain`, or stays as it is."""
    if numba is not None:
        return numba.njit(**options)
    return lambda function: plain or function


def need_compiler(work: str) -> None:
    """Raises InputError where there is no numba, without which `work` would take days."""
    if not COMPILED:
        raise InputError("numba", f"installed, for {work}", "none")
