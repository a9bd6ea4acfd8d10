"""Options of what is trained: named, typed, and refused in one line where they do not fit."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from ml_backend.errors import InputError, expected_words

Options = TypeVar("Options", bound="LearningOptions")


class LearningOptions(BaseModel):
    """Options of one kind of learner, by which errors call them."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    KIND: ClassVar[str]
    # Options that change what is predicted, or how fast, but not the weights: they may be given anew when a checkpoint
    # is loaded.
    PREDICTION: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def preset_values(cls, values: dict[str, Any]) -> dict[str, Any]:
        """What the preset that `values` name says in place of the defaults; nothing where there are no presets."""
        return {}

    @classmethod
    def create(cls: type[Options], values: dict[str, Any] | None = None) -> Options:
        """Options of a preset with `values` on top. Raises InputError for an unknown option or a bad value."""
        values = dict(values or {})
        try:
            return cls(**{**cls.preset_values(values), **values})
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"]) or "options"
            if first["type"] == "extra_forbidden":
                near = get_close_matches(name, list(cls.model_fields), n=1)
                known = f"one of {', '.join(cls.model_fields)}" + (f"; the nearest is {near[0]}" if near else "")
                raise InputError(f"{cls.KIND} option {name}", known, name) from None
            raise InputError(f"{cls.KIND} option {name}", expected_words(first), first.get("input")) from None

    @classmethod
    def of_checkpoint(cls: type[Options], stored: dict[str, Any], given: dict[str, Any]) -> Options:
        """The options that a checkpoint was stored with, and those of `PREDICTION` that are given anew; None is not.

        Raises InputError for another one.
        """
        for name in given:
            if name not in cls.PREDICTION:
                raise InputError(f"{cls.KIND} option {name}", f"one of {', '.join(sorted(cls.PREDICTION))}", name)
        return cls.create({**stored, **{name: value for name, value in given.items() if value is not None}})
