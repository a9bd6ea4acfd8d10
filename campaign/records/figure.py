"""A figure with its interval."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """An estimate and its 90 % interval."""

    value: float
    low: float
    high: float
