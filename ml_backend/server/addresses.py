"""Which machines images may be fetched from: a task's data is written by any member of its project."""

from __future__ import annotations

import ipaddress
import os
import socket
from urllib.parse import urlparse

from ml_backend.errors import FetchError

HOSTS = "CAMPAIGN_IMAGE_HOSTS"
_PRIVATE = tuple(
    ipaddress.ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
# Where clouds keep the credentials of their machines, beside the link-local addresses: Azure's wire server, Oracle's
# older one, Alibaba's, and those of AWS and Google in IPv6.
_METADATA = tuple(
    ipaddress.ip_network(net)
    for net in ("168.63.129.16", "192.0.0.192", "100.100.100.200", "fd00:ec2::/32", "fd20:ce::254")
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ImageHosts:
    """The hosts that images of the projects of one Label Studio may lie on.

    Public addresses, the Label Studio's own host, and the hosts that CAMPAIGN_IMAGE_HOSTS names. Loopback addresses
    only where Label Studio's host is on one itself, and those of private networks only where it is in one: there its
    images usually are its neighbours. Link-local and other addresses where clouds keep their machines' credentials,
    and reserved ones, never: not even under the name of a host that may be asked, unless the address itself is named.

    label_studio: its address, "" where none is known.
    """

    def __init__(self, label_studio: str = ""):
        self.label_studio, self.own = label_studio, _host(label_studio)
        self.named = {name.strip().lower() for name in os.environ.get(HOSTS, "").split(",")} - {""}

    def resolve(self, host: str, port: int) -> list[str]:
        """The addresses of `host` that may be connected to. Raises FetchError where there are none, else OSError."""
        host = host.strip("[]").lower()
        addresses = _resolve(host, port)
        if host in addresses and host in self.named:
            return addresses
        if host == self.own or host in self.named:
            # Whoever answers for a name's addresses is not whoever named it.
            addresses = [address for address in addresses if kind_of(address) != "metadata"]
            if not addresses:
                raise FetchError(f"image host {host}", "no address of a cloud's metadata", "one")
            return addresses
        allowed = {"public"} | ({kind_of(a) for a in self._own_addresses()} & {"private", "loopback"})
        good = [address for address in addresses if kind_of(address) in allowed]
        if not good:
            got = f"one at a {kind_of(addresses[0])} address" if addresses else "one without an address"
            raise FetchError(f"image host {host}", f"a public one, or one named in {HOSTS}", got)
        return good

    def _own_addresses(self) -> list[str]:
        try:
            return _resolve(self.own, None) if self.own else []
        except OSError:
            return []


def kind_of(address: str) -> str:
    """What an IP address is: "public", "private", "loopback", "reserved", or "metadata": where clouds keep credentials.

    >>> [kind_of(address) for address in ("8.8.8.8", "192.168.1.2", "::1", "169.254.169.254", "168.63.129.16")]
    ['public', 'private', 'loopback', 'metadata', 'metadata']
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = (
            ip.ipv4_mapped or ip.sixtofour or (ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        )
        ip = inner or ip
    if ip.is_link_local or any(ip.version == net.version and ip in net for net in _METADATA):
        return "metadata"
    if ip.is_loopback:
        return "loopback"
    if any(ip.version == net.version and ip in net for net in _PRIVATE):
        return "private"
    return "public" if ip.is_global and not ip.is_multicast and not ip.is_reserved else "reserved"


def _resolve(host: str, port: int | None) -> list[str]:
    try:
        entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:  # an empty label, or one too long
        raise OSError("no name of a host") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def _host(url: str) -> str:
    try:
        return (urlparse(url).hostname or "").lower()
    except ValueError:
        return ""
