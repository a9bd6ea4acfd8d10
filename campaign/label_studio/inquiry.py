"""What can be found out of a Label Studio before it is worked with: its version, its path, what kind a token is."""

from __future__ import annotations

import base64
import json
import re
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urljoin, urlparse

import requests

from campaign.label_studio.client import LabelStudioError, LabelStudioUnavailable, is_local
from campaign.records.names import Name

SECONDS = 10.0


class TokenKind(Name):
    """The kinds of tokens that Label Studio gives."""

    LEGACY = "legacy"
    PERSONAL = "personal"
    ACCESS = "short-lived access"
    OTHER = "unknown"


def release_of(url: str) -> str:
    """The version of the Label Studio at `url`, which it tells anyone.

    Raises LabelStudioUnavailable where nothing answers, LabelStudioError where another server does.
    """
    answer = _get(f"{url.rstrip('/')}/api/version/", redirects=True)
    try:
        release = answer.json()["release"]
    except (ValueError, KeyError, TypeError):
        raise LabelStudioError(url, "a Label Studio server", f"another answer, {answer.status_code}") from None
    return str(release)


def path_of(url: str) -> str:
    """The path that Label Studio believes to lie under, "" for none: where it sends whoever is not logged in.

    Raises LabelStudioUnavailable where nothing answers.
    """
    base = url.rstrip("/") + "/"
    target = urljoin(base, _get(base, redirects=False).headers.get("Location", ""))
    return urlparse(target).path.partition("/user/login")[0].rstrip("/")


def token_kind(token: str) -> tuple[TokenKind, datetime | None]:
    """(kind, when it ends) of a token, by its form alone; None where it says nothing of an end.

    >>> token_kind("0123456789abcdef0123456789abcdef01234567")[0].value
    'legacy'
    """
    if re.fullmatch(r"[0-9a-f]{40}", token):
        return TokenKind.LEGACY, None
    claims = _claims(token)
    kinds = {"refresh": TokenKind.PERSONAL, "access": TokenKind.ACCESS}
    kind, ends = kinds.get(str(claims.get("token_type")), TokenKind.OTHER), claims.get("exp")
    try:
        return kind, datetime.fromtimestamp(ends, timezone.utc) if isinstance(ends, int) else None
    except (OverflowError, ValueError, OSError):
        return kind, None


def _claims(token: str) -> dict[str, Any]:
    """What a JSON web token says, {} where it is none."""
    parts = token.split(".")
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _get(url: str, redirects: bool) -> requests.Response:
    session = requests.Session()
    session.trust_env = not is_local(url)
    try:
        return session.get(url, timeout=SECONDS, allow_redirects=redirects)
    except requests.RequestException as error:
        raise LabelStudioUnavailable(url, "a running Label Studio", type(error).__name__) from None
