"""Where images may be fetched from: not from where only this machine can reach."""

import socket

import pytest

from ml_backend.errors import FetchError
from ml_backend.server.addresses import ImageHosts, kind_of

NAMES = {
    "images.example": ["93.184.216.34"],
    "both.example": ["10.0.0.7", "93.184.216.34"],
    "inside.example": ["10.0.0.7"],
    "metadata.example": ["169.254.169.254"],
    "here.example": ["127.0.0.1"],
    "public-ls.example": ["93.184.216.35"],
    "private-ls.example": ["192.168.1.5"],
}


@pytest.fixture(autouse=True)
def names(monkeypatch):
    def look_up(host, port, *_, **__):
        try:
            socket.inet_aton(host)
        except OSError:
            if ":" not in host and host not in NAMES:
                raise socket.gaierror from None
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in NAMES.get(host, [host])]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.delenv("CAMPAIGN_IMAGE_HOSTS", raising=False)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("8.8.8.8", "public"),
        ("2001:4860:4860::8888", "public"),
        ("10.1.2.3", "private"),
        ("172.31.0.1", "private"),
        ("172.32.0.1", "public"),
        ("192.168.0.1", "private"),
        ("100.64.0.1", "private"),
        ("fd00::1", "private"),
        ("127.0.0.2", "loopback"),
        ("::1", "loopback"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b::808:808", "public"),
        ("2002:a00:1::", "private"),
        ("169.254.169.254", "metadata"),
        ("fe80::1%eth0", "metadata"),
        ("0.0.0.0", "reserved"),
        ("::", "reserved"),
        ("224.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("192.0.2.1", "reserved"),
    ],
)
def test_kinds_of_addresses(address, kind):
    assert kind_of(address) == kind


@pytest.mark.parametrize(
    ("host", "label_studio", "named", "addresses"),
    [
        ("images.example", "", "", ["93.184.216.34"]),
        ("both.example", "", "", ["93.184.216.34"]),
        ("both.example", "http://private-ls.example", "", ["10.0.0.7", "93.184.216.34"]),
        ("inside.example", "", "", None),
        ("inside.example", "https://public-ls.example", "", None),
        ("inside.example", "http://127.0.0.1:8080", "", None),
        ("inside.example", "http://private-ls.example:8080", "", ["10.0.0.7"]),
        ("inside.example", "", "a.example, Inside.example", ["10.0.0.7"]),
        ("INSIDE.example", "http://inside.example", "", ["10.0.0.7"]),
        ("127.0.0.1", "", "", None),
        ("127.0.0.1", "http://private-ls.example", "", None),
        ("127.0.0.1", "http://here.example:8080/ls", "", ["127.0.0.1"]),
        ("[::1]", "http://127.0.0.1", "", ["::1"]),
        ("metadata.example", "http://private-ls.example", "", None),
        ("169.254.169.254", "http://169.254.1.1", "", None),
        ("169.254.169.254", "", "169.254.169.254", ["169.254.169.254"]),
        ("inside.example", "http://[", "", None),
        ("inside.example", "http://unknown.example", "", None),
    ],
)
def test_images_lie_where_label_studio_lies_or_in_public(host, label_studio, named, addresses, monkeypatch):
    monkeypatch.setenv("CAMPAIGN_IMAGE_HOSTS", named)
    hosts = ImageHosts(label_studio)
    if addresses is None:
        with pytest.raises(
            FetchError, match=r"CAMPAIGN_IMAGE_HOSTS, got one at a (private|loopback|reserved|metadata) address"
        ):
            hosts.resolve(host, 80)
    else:
        assert hosts.resolve(host, 80) == addresses


@pytest.mark.parametrize("host", ["unknown.example", "a" * 100, "a..b", ""])
def test_a_name_that_is_none_is_an_oserror(host):
    with pytest.raises(OSError):
        ImageHosts().resolve(host, 80)
