"""Annotators' accounts in Label Studio: the invitation, the sign-up, and the one key that submits a page."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import requests

from campaign.label_studio.client import Client
from campaign.label_studio.server import log_in, sign_up
from ml_backend.errors import InputError

SUBMIT = "annotation:annotation:submit"


@dataclass(frozen=True)
class Account:
    """A user who was signed up; `password` is returned here once and stored nowhere."""

    email: str
    password: str


def invitation(client: Client) -> str:
    """The address at which anyone who has it may sign up."""
    return client.url + str(client.request("GET", "api/invite")["invite_url"])


def invite(client: Client, email: str, key: str = "space", password: str | None = None) -> Account:
    """Signs a user up as they would themselves, with a password made up here, and sets the key that submits a page.

    Raises InputError where Label Studio refuses the address, which may be in use already, or the key.
    """
    account = Account(email, password or secrets.token_urlsafe(9))
    sign_up(client.url, str(client.request("GET", "api/invite")["token"]), email, account.password)
    set_submit_key(client.url, account, key)
    return account


def set_submit_key(url: str, account: Account, key: str) -> None:
    """Makes `key` submit a page for this user, keeping the user's other keys. Raises InputError where it is refused."""
    session = log_in(url, account.email, account.password)
    address = f"{url}/api/current-user/hotkeys/"
    try:
        known = session.get(address, timeout=30).json().get("custom_hotkeys") or {}
        answer = session.patch(
            address,
            json={"custom_hotkeys": known | {SUBMIT: {"key": key}}},
            headers={"X-CSRFToken": session.cookies.get("csrftoken", ""), "Referer": url},
            timeout=30,
        )
    except (requests.RequestException, ValueError) as error:
        raise InputError(address, "a Label Studio that keeps hotkeys", type(error).__name__) from None
    if not answer.ok:
        raise InputError(f"submit key {key!r}", "a key that Label Studio takes", answer.status_code)
