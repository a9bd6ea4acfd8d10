"""What commands take: the campaign, settings as NAME=VALUE, the token of Label Studio."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer

from ml_backend.errors import InputError

Folder = Annotated[str, typer.Argument(help="The campaign folder, or its URL.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
TOKEN = "LABEL_STUDIO_API_KEY"


def settings_from(pairs: list[str], flag: str = "--set") -> dict[str, Any]:
    """{"search": {"k_a": 0.9}} from ["search.k_a=0.9"]; values are JSON where they can be, else text.

    Errors name `flag`, the option that took the pairs.
    """
    from campaign.store.addresses import ADDRESSES, has_password

    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{flag}: expected NAME=VALUE, got {pair}")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        *path, last = name.split(".")
        section = values
        for part in path:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise typer.BadParameter(f"{flag}: expected a setting's name, got {name}")
        if isinstance(value, str) and name.startswith("jobs.") and has_password(value):
            hint = f"an address without its password, and the whole of it in ${ADDRESSES.get(last, 'CAMPAIGN_...')}"
            raise InputError(f"{flag} {name}", hint, "one with a password, which every user of this machine can see")
        section[last] = value
    return values


def add_addresses(values: dict[str, Any]) -> None:
    """Takes the addresses of database and queues from the environment or $CAMPAIGN_SECRETS where they are there."""
    from campaign.store.addresses import ADDRESSES, given_address

    for name in ADDRESSES:
        if url := given_address(name):
            values.setdefault("jobs", {})[name] = url


def given_token() -> str | None:
    """The token of Label Studio from the environment or $CAMPAIGN_SECRETS, None where neither has one."""
    from campaign.store.addresses import from_folder

    return os.environ.get(TOKEN) or from_folder("label_studio_token")


def ask_token() -> str:
    """The token of Label Studio from the environment, or from a prompt that does not show it."""
    if token := given_token():
        return token
    if not sys.stdin.isatty():
        raise InputError("Label Studio token", f"${TOKEN} to be set", "nothing")
    return typer.prompt("Label Studio token", hide_input=True)
