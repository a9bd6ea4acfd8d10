"""What was wrong with a command's arguments, in one line of the shape of every error: the thing, expected, got."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import typer

from ml_backend.errors import InputError, brief, expected_words

# Typer carries a click of its own and exports this much of its errors.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # type: ignore[assignment]


def in_words(error: Any) -> str:
    """What Typer's error says, as an `InputError` would say it; a command's help stays as it is."""
    name = type(error).__name__
    if name == "NoSuchOption":
        return _unknown_option(error)
    if name == "MissingParameter" and error.param is not None:
        meaning = str(error.param.help or "a value").rstrip(".")
        return f"Missing {error.param.param_type_name} {_shown(error.param)}: {meaning[0].lower()}{meaning[1:]}"
    if isinstance(error, typer.BadParameter):
        return _bad_value(error)
    return str(error.format_message())


def _bad_value(error: Any) -> str:
    from pydantic import ValidationError

    cause = error.__cause__
    if isinstance(cause, ValidationError) and error.param is not None:
        first = cause.errors()[0]
        return str(InputError(_shown(error.param), expected_words(first), brief(first["input"]).strip("'\"")))
    return str(error.message if error.param is None else f"{_shown(error.param)}: {error.message}")


def _unknown_option(error: Any) -> str:
    command, known = error.ctx.command_path, [o for p in error.ctx.command.params for o in (*p.opts, *p.secondary_opts)]
    near = get_close_matches(error.option_name, [o for o in known if o.startswith("--")], n=1)
    nearest = f" (the nearest is {near[0]})" if near else f" (see {command} --help)"
    return str(InputError(error.option_name, f"an option of `{command}`{nearest}", "another"))


def _shown(parameter: Any) -> str:
    """A parameter as people write it: --option, or FOLDER."""
    if parameter.param_type_name != "option":
        return str(parameter.name).upper()
    return str(max(parameter.opts, key=len))
