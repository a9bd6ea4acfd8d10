"""Label Studio: whether it answers, its version, what it takes its address for, and whether it takes the token."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from urllib.parse import urlparse

from campaign.check.lines import Line, ok, unknown, wrong
from campaign.check.versions import judged
from campaign.label_studio.client import Client, LabelStudioError
from campaign.label_studio.inquiry import TokenKind, path_of, release_of, token_kind
from ml_backend.errors import InputError

OTHER_TOKEN = "make another in Label Studio, Account & Settings, and give it by $LABEL_STUDIO_API_KEY or campaign token"
_LEGACY = "or switch legacy tokens on, Organization, API Tokens Settings"


def label_studio(url: str, token: str | None) -> Iterator[Line]:
    """What there is to say of the Label Studio at `url` and of a token for it."""
    try:
        release = release_of(url)
    except LabelStudioError as error:
        hint = "start it, mend the address (with its path, as in https://host/label-studio), or open the firewall"
        yield wrong("Label Studio", error, hint)
        return
    yield judged("Label Studio", release, where=f" at {url}")
    yield _path(url)
    yield _token(url, token)


def _path(url: str) -> Line:
    own = urlparse(url).path.rstrip("/")
    try:
        believed = path_of(url)
    except LabelStudioError as error:
        return unknown("address", error)
    if believed == own:
        return ok("address", f"Label Studio knows that it lies under {own}" if own else "under no path")
    said = f"Label Studio sends browsers to {believed or '/'}, and is asked under {own or '/'}"
    return wrong("address", said, f"set LABEL_STUDIO_HOST={url} where Label Studio runs, or give the address it has")


def _token(url: str, token: str | None) -> Line:
    if not token:
        return unknown("token", "none given", "set LABEL_STUDIO_API_KEY")
    kind, ends = token_kind(token)
    if kind == TokenKind.ACCESS:
        return wrong("token", "a short-lived access token, made of a personal one", OTHER_TOKEN)
    if ends is not None and ends < datetime.now(timezone.utc):
        return wrong("token", f"a {kind} token that ended on {ends:%Y-%m-%d}", OTHER_TOKEN)
    try:
        client = Client(url, token, retry_delays=())
        client.check()
        email = client.call(lambda sdk: sdk.users.whoami()).email
    except InputError as error:
        return wrong("token", f"{kind}: {error}", OTHER_TOKEN + (f"; {_LEGACY}" if kind == TokenKind.LEGACY else ""))
    return ok("token", f"{kind}, of {email}" + (f", until {ends:%Y-%m-%d}" if ends and ends.year < 2100 else ""))
