"""The base of all enums of names: stored, printed and compared as the plain string that each one is."""

from __future__ import annotations

from enum import Enum


class Name(str, Enum):
    """A name with a fixed set of values; `str()` and f-strings show the value on every Python version."""

    __str__ = str.__str__
