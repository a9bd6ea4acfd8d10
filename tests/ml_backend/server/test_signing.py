"""Signed addresses: only what was signed, by us, for that kind, until it expires."""

import pytest

from ml_backend.server.signing import TokenError, crop_url, image_url, read, sign

NOW = 1_800_000_000


def test_a_token_returns_its_key_until_it_expires():
    token = sign("secret", "crop", 2**52 + 1, NOW + 10)
    assert read("secret", "crop", token, NOW + 9) == 2**52 + 1
    with pytest.raises(TokenError, match="expired"):
        read("secret", "crop", token, NOW + 10)


@pytest.mark.parametrize(
    ("secret", "kind", "change"),
    [
        ("other", "crop", lambda t: t),
        ("secret", "image", lambda t: t),
        ("secret", "crop", lambda t: t[:-1]),
        ("secret", "crop", lambda t: "A" + t),
        ("secret", "crop", lambda t: t.split(".")[0]),
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
