"""Signed addresses: only what was signed, by us, for that kind, until it expires."""

import base64

import pytest
from itsdangerous import URLSafeSerializer

from ml_backend.server.signing import TokenError, crop_url, image_url, read, sign

NOW = 1_800_000_000


def test_a_token_returns_its_key_until_it_expires():
    token = sign("secret", "crop", 2**52 + 1, NOW + 10)
    assert read("secret", "crop", token, NOW + 9) == (2**52 + 1, 0)
    with pytest.raises(TokenError, match="expired"):
        read("secret", "crop", token, NOW + 10)


@pytest.mark.parametrize(
    ("secret", "kind", "change"),
    [
        ("other", "crop", lambda t: t),
        ("secret", "image", lambda t: t),
        ("secret", "crop", lambda t: t[:-1]),
        ("secret", "crop", lambda t: "A" + t),
        ("secret", "crop", lambda t: t[1:]),
        ("secret", "crop", lambda t: "2" + t),
        ("secret", "crop", lambda t: t[:30] + "!" + t[31:]),
        ("secret", "crop", lambda t: ""),
        ("secret", "crop", lambda t: "ü" + t),
    ],
)
def test_any_other_token_is_refused(secret, kind, change):
    with pytest.raises(TokenError):
        read(secret, kind, change(sign("secret", "crop", 7, NOW + 10)), NOW)


def test_an_address_is_the_same_each_time():
    assert crop_url("http://h:1/", "s", 5, NOW + 0.4) == crop_url("http://h:1", "s", 5, NOW)
    assert crop_url("http://h:1", "s", 5, NOW).startswith("http://h:1/crops/")
    assert image_url("http://h:1", "s", 5, NOW).startswith("http://h:1/images/")


def test_a_secret_must_be_given():
    with pytest.raises(ValueError, match="secret"):
        sign("", "crop", 1, NOW)


def test_a_token_says_nothing_to_its_holder():
    masks = [0, 7, 2**39, 2**52 + 1]
    tokens = [sign("secret", "crop", mask, NOW, page) for mask in masks for page in (0, 1, 2)]
    assert len({len(t) for t in tokens}) == 1 and len(set(tokens)) == len(tokens)
    raw = [base64.urlsafe_b64decode(t[1:] + "==") for t in tokens]
    assert all(len({r[i] for r in raw}) > 3 for i in range(len(raw[0])))
    assert read("secret", "crop", tokens[-1], 0) == (2**52 + 1, 2)


def test_a_token_that_was_only_signed_is_still_taken():
    old = URLSafeSerializer("secret", salt="campaign-crop").dumps([2**39 + 7, NOW + 10])
    assert read("secret", "crop", old, NOW) == (2**39 + 7, 0)
    with pytest.raises(TokenError):
        read("secret", "part", old, NOW)
    for content in (["x", NOW + 10], [None, NOW + 10], [1], 5):
        with pytest.raises(TokenError):
            read("secret", "crop", URLSafeSerializer("secret", salt="campaign-crop").dumps(content), NOW)
