"""A small reader of the compose file: its services with variables, commands and secrets, as an engine sees them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).parents[2] / "docker" / "compose.yaml"


@dataclass(frozen=True)
class Service:
    """One service: what it runs, in which environment, and what it may reach."""

    name: str
    content: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        """Entrypoint and command, as far as the file names them."""
        return [*_words(self.content.get("entrypoint")), *_words(self.content.get("command"))]

    @property
    def health(self) -> list[str]:
        """The command that says whether it is well."""
        test = self.content["healthcheck"]["test"]
        return ["sh", "-c", test[1]] if test[0] == "CMD-SHELL" else test[1:]

    @property
    def networks(self) -> set[str]:
        """Networks that it is on."""
        return set(self.content.get("networks", []))

    @property
    def secrets(self) -> set[str]:
        """Names of the secrets that it can read."""
        return set(self.content.get("secrets", []))


def read(variables: Mapping[str, str]) -> tuple[dict[str, Service], dict[str, Any]]:
    """(services by name, the whole file) with `variables` put in. Raises KeyError for one that is missing."""
    whole = _filled(yaml.safe_load(FILE.read_text()), variables)
    services = {
        name: Service(name, content, {k: str(v) for k, v in content.get("environment", {}).items()})
        for name, content in whole["services"].items()
    }
    return services, whole


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {k: _filled(v, variables) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, variables) for v in value]
    return _put_in(value, variables) if isinstance(value, str) else value


def _put_in(text: str, variables: Mapping[str, str]) -> str:
    def one(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, rule, word = match[1], match[2] or "", match[3] or ""
        if rule == ":-":
            return variables.get(name) or word
        if rule == ":?" and not variables.get(name):
            raise KeyError(f"{name}: {word}")
        return variables[name]

    return re.sub(r"\$\$|\$\{(\w+)(?:(:[-?])([^}]*))?\}", one, text)


def _words(value: Any) -> list[str]:
    return [] if value is None else shlex.split(value) if isinstance(value, str) else [str(v) for v in value]
