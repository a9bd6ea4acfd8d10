"""Encrypted, expiring addresses: who holds one may see that crop or image, until it expires, and nothing else.

The browser of an annotator loads crops without a login to this server, so the address itself is the permission. It
says nothing to its holder: tokens are encrypted (AES-SIV, RFC 5297), all of one length, and the same mask has another
token on every page. Tokens of before, which were signed only and could be read, are still taken.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
import time
from functools import lru_cache
from typing import Literal, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from itsdangerous import BadData, BadSignature, URLSafeSerializer

Kind = Literal["crop", "image", "part", "sheet"]

FORMAT = "2"  # the first character of a token; older ones never begin with a digit
_FIELDS = struct.Struct(">qqq")  # key, page, Unix time
_LENGTH = 24 + 16  # with the tag


class TokenError(PermissionError):
    """The token is not ours, was changed, is of another kind, or has expired."""


class Grant(NamedTuple):
    """What a token permits to see: `key` of its kind, and the number of the page that shows it, 0 for none."""

    key: int
    page: int


def sign(secret: str, kind: Kind, key: int, expires: float, page: int = 0) -> str:
    """A token for `key` of one `kind` on a `page`, good until the Unix time `expires` (seconds).

    The same arguments always make the same token, so that publishing a page again changes nothing.

    >>> read("secret", "crop", sign("secret", "crop", 7, expires=2e9), now=1e9)
    Grant(key=7, page=0)
    """
    if not secret:
        raise ValueError("secret: expected at least one character, got none")
    sealed = _cipher(secret, kind).encrypt(_FIELDS.pack(int(key), int(page), int(expires)), None)
    return FORMAT + base64.urlsafe_b64encode(sealed).decode("ascii").rstrip("=")


def read(secret: str, kind: Kind, token: str, now: float | None = None) -> Grant:
    """What `token` was made for. Raises TokenError where it is bad or expired."""
    key, page, expires = _opened(secret, kind, token) if token.startswith(FORMAT) else _signed(secret, kind, token)
    if (time.time() if now is None else now) >= expires:
        raise TokenError("token: expected one that is still good, got an expired one")
    return Grant(key, page)


def crop_url(base_url: str, secret: str, mask_id: int, expires: float, page: int = 0) -> str:
    """The address of the crop of one mask on the server at `base_url`, good until the Unix time `expires`.

    `page` is the number of the page that shows it; the same mask has other addresses on other pages.
    """
    return f"{base_url.rstrip('/')}/crops/{sign(secret, 'crop', mask_id, expires, page)}.jpg"


def sheet_url(base_url: str, secret: str, page: int, expires: float) -> str:
    """The address of all crops of the page with this number in one picture, good until the Unix time `expires`."""
    return f"{base_url.rstrip('/')}/sheets/{sign(secret, 'sheet', page, expires, page)}.jpg"


def image_url(base_url: str, secret: str, image_id: int, expires: float) -> str:
    """The address of one whole image as it was stored, good until the Unix time `expires`."""
    return f"{base_url.rstrip('/')}/images/{sign(secret, 'image', image_id, expires)}"


def part_url(base_url: str, secret: str, number: int, expires: float) -> str:
    """The address of a part of an image with the masks in it, good until the Unix time `expires`."""
    return f"{base_url.rstrip('/')}/parts/{sign(secret, 'part', number, expires)}.jpg"


@lru_cache(maxsize=16)
def _cipher(secret: str, kind: Kind) -> AESSIV:
    """AES-SIV with a key of its own for each kind."""
    return AESSIV(hmac.digest(secret.encode(), f"campaign-{kind}-{FORMAT}".encode(), hashlib.sha512))


def _opened(secret: str, kind: Kind, token: str) -> tuple[int, int, int]:
    try:
        sealed = base64.b64decode(token[1:] + "=" * (-len(token[1:]) % 4), altchars=b"-_", validate=True)
        if len(sealed) != _LENGTH:
            raise InvalidTag
        key, page, expires = _FIELDS.unpack(_cipher(secret, kind).decrypt(sealed, None))
    except (InvalidTag, binascii.Error, ValueError):
        raise TokenError("token: expected one made by this server, got another") from None
    return key, page, expires


def _signed(secret: str, kind: Kind, token: str) -> tuple[int, int, float]:
    """A token of the first format: signed, and readable by its holder."""
    try:
        key, expires = URLSafeSerializer(secret, salt=f"campaign-{kind}").loads(token)
        return int(key), 0, float(expires)
    except BadSignature:
        raise TokenError("token: expected one made by this server, got another") from None
    except (BadData, TypeError, ValueError):
        raise TokenError("token: expected a key and a time, got something else") from None
