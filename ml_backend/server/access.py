"""Who may ask the server: basic auth, the secret of webhooks, programs on this machine."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import re
from dataclasses import dataclass, field
from typing import NoReturn

from flask import Response, abort, request

logger = logging.getLogger(__name__)

SECRET_HEADER = "X-Campaign-Secret"
# What a proxy adds to a request, beside X-Forwarded-For and its kin.
_PROXIES = frozenset(
    {
        "forwarded", "via", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-proxyuser-ip", "true-client-ip",
        "fastly-client-ip", "fly-client-ip", "client-ip", "wl-proxy-client-ip", "proxy-client-ip",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Access:
    """Who may ask, decided at each request.

    basic_auth: (user, password) asked of Label Studio and Prometheus; without it nobody is let in but by the next.
    this_machine: whether programs on this machine need none. A proxy on this machine that says nothing of those it
    speaks for looks like such a program, so whoever sets it says that there is none. webhook_secret: what the header
    `X-Campaign-Secret` must hold in webhooks.
    """

    basic_auth: tuple[str, str] | None = field(default=None, repr=False)
    this_machine: bool = False
    webhook_secret: str | None = field(default=None, repr=False)

    def require(self) -> None:
        """Ends the request with 401 unless it may be made."""
        if not self._is_let_in(self.this_machine):
            _refuse()

    def has_secret(self) -> bool:
        """Whether the request carries the secret of webhooks."""
        given = request.headers.get(SECRET_HEADER, "")
        return bool(self.webhook_secret) and hmac.compare_digest(given.encode(), (self.webhook_secret or "").encode())

    def require_of_events(self) -> None:
        """Ends the request with 401 where there is a secret for webhooks that it lacks, and basic auth with it."""
        if self.webhook_secret and not self.has_secret() and not self._is_let_in(this_machine=False):
            _refuse()

    def _is_let_in(self, this_machine: bool) -> bool:
        if "Authorization" not in request.headers or self.basic_auth is None:
            return this_machine and _is_from_this_machine()
        try:
            given = request.authorization
        except ValueError:  # of characters that no such header holds
            return False
        if given is None or given.type != "basic":
            return False
        pairs = zip(self.basic_auth, (given.username or "", given.password or ""), strict=True)
        # Both are compared, whatever the first comparison says, so that the time betrays nothing.
        return all([hmac.compare_digest(want.encode(), got.encode()) for want, got in pairs])


def _refuse() -> NoReturn:
    logger.warning(
        "%s %s from %s was refused, it has not the password or secret of this server; where that is no program of "
        "yours somebody tries to get in, and nothing is to be done", request.method, request.path, request.remote_addr,
    )  # fmt: skip
    abort(Response("Unauthorized", 401, {"WWW-Authenticate": 'Basic realm="campaign"'}))


def _is_from_this_machine() -> bool:
    """Whether a program here asks by itself: not a proxy for others, nor a page under another host's name.

    The peer is who is connected: no header can say otherwise, one can only say that the peer is a proxy.
    """
    forwarded = any(_is_of_proxies(name.lower()) for name, _ in request.headers)
    host = re.sub(r":\d*$", "", request.host).strip("[]")
    return not forwarded and _is_loopback(request.remote_addr or "") and (host == "localhost" or _is_loopback(host))


def _is_of_proxies(name: str) -> bool:
    return name in _PROXIES or name.startswith(("x-forwarded", "x-original", "x-envoy", "cf-"))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
