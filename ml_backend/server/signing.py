"""Signed, expiring addresses: who holds one may see that crop or image, until it expires, and nothing else.

The browser of an annotator loads crops without a login to this server, so the address itself is the permission.
"""

from __future__ import annotations

import time
from typing import Literal

from itsdangerous import BadData, BadSignature, URLSafeSerializer

Kind = Literal["crop", "image", "part", "rules"]


class TokenError(PermissionError):
    """The token is not ours, was changed, is of another kind, or has expired."""


def sign(secret: str, kind: Kind, key: int | str, expires: float) -> str:
    """A token for `key` of one `kind`, good until the Unix time `expires` (seconds).

    The same arguments always make the same token, so that publishing a page again changes nothing.

    >>> read("secret", "crop", sign("secret", "crop", 7, expires=2e9), now=1e9)
    7
    """
    if not secret:
        raise ValueError("secret: expected at least one character, got none")
    return str(_serializer(secret, kind).dumps([key, int(expires)]))


def read(secret: str, kind: Kind, token: str, now: float | None = None) -> int | str:
    """The key that `token` was signed for. Raises TokenError where it is bad or expired."""
    try:
        key, expires = _serializer(secret, kind).loads(token)
    except BadSignature:
        raise TokenError("token: expected one signed by this server, got another") from None
    except (BadData, TypeError, ValueError):
        raise TokenError("token: expected a key and a time, got something else") from None
    if (time.time() if now is None else now) >= expires:
        raise TokenError("token: expected one that is still good, got an expired one")
    return key


def crop_url(base_url: str, secret: str, mask_id: int, expires: float) -> str:
    """The address of the crop of one mask on the server at `base_url`, good until the Unix time `expires`."""
    return f"{base_url.rstrip('/')}/crops/{sign(secret, 'crop', int(mask_id), expires)}.jpg"


def image_url(base_url: str, secret: str, image_id: int, expires: float) -> str:
    """The address of one whole image as it was stored, good until the Unix time `expires`."""
    return f"{base_url.rstrip('/')}/images/{sign(secret, 'image', int(image_id), expires)}"


def part_url(base_url: str, secret: str, number: int, expires: float) -> str:
    """The address of a part of an image with the masks in it, good until the Unix time `expires`."""
    return f"{base_url.rstrip('/')}/parts/{sign(secret, 'part', int(number), expires)}.jpg"


def _serializer(secret: str, kind: Kind) -> URLSafeSerializer:
    return URLSafeSerializer(secret, salt=f"campaign-{kind}")
