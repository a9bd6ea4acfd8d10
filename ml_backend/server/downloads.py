"""Downloads from addresses that others chose: so many bytes, so many seconds, and only from where they may come."""

from __future__ import annotations

import contextlib
import io
import re
import socket
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote, urlparse, urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from ml_backend.errors import InputError
from ml_backend.server.addresses import ImageHosts

CONNECT_SECONDS = 5.0
_PART = 1 << 16
# Below Label Studio's address: uploads, local files, the proxy of cloud storage, addresses signed for it.
_FILE_ROUTE = re.compile(
    r"/(data/upload/[0-9]+/[^/]+|data/local-files/?|storage-data/uploaded/?"
    r"|(tasks|projects)/[0-9]+/(presign|resolve)/?)"
)


class LimitedSession(requests.Session):
    """A session for one download: to be closed after it.

    max_bytes: of an answer's body, counted as it comes and as it is unpacked. seconds: for all of it, with redirects;
    then its connections are cut, however slowly something still comes. hosts: asked before every connection, so at
    every redirect too, and the address that was asked about is the one that is connected to. Behind a proxy, which
    looks up names itself, it is asked about the names that can be looked up here too.
    """

    def __init__(self, max_bytes: int, seconds: float, hosts: ImageHosts):
        super().__init__()
        self.max_bytes, self.hosts = max_bytes, hosts
        self.max_redirects = 10
        self._until = time.monotonic() + seconds
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()
        for scheme in ("http://", "https://"):
            self.mount(scheme, _Adapter(self))

    @property
    def left(self) -> float:
        """Seconds that are left; at least a moment, for a timeout must not be 0."""
        return max(self._until - time.monotonic(), 0.01)

    def get(self, url: str | bytes, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        """The answer, with its whole body. Raises InputError where that is too large, a Timeout where it is late."""
        kwargs["timeout"] = (min(CONNECT_SECONDS, self.left), self.left)
        kwargs["stream"] = True
        # What comes packed can grow a thousandfold.
        kwargs["headers"] = {**(kwargs.get("headers") or {}), "Accept-Encoding": "identity"}
        # A proxy meant for the outside world must not be asked for the machine's own servers.
        self.trust_env = urlparse(str(url)).hostname not in ("localhost", "127.0.0.1", "::1")
        try:
            response = super().get(url, **kwargs)
            length = response.headers.get("Content-Length", "")
            body, size = io.BytesIO(), int(length) if re.fullmatch("[0-9]{1,18}", length) else 0
            if size <= self.max_bytes:
                size = 0
                for part in _parts(response):
                    body.write(part)
                    size += len(part)
                    if size > self.max_bytes:
                        break
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            if self.is_over():
                raise requests.Timeout("the download took too long") from None
            if isinstance(error, requests.RequestException):
                raise
            raise requests.ConnectionError(type(error).__name__) from None
        if self.is_over():  # a body without a length ends where its connection is cut
            raise requests.Timeout("the download took too long")
        if size > self.max_bytes:
            response.close()
            raise InputError("image", f"at most {self.max_bytes} bytes", f"{size} bytes or more")
        _set_body(response, body.getvalue())
        return response

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        """As the base class does, at every redirect too; the token goes to Label Studio's own files only."""
        if not is_file_route(request.url or "", self.hosts.label_studio):
            request.headers.pop("Authorization", None)
        return super().send(request, **kwargs)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where `resp` leads to. Its body is left unread: nobody looks at it, and it may be endless."""
        target = super().get_redirect_target(resp)
        if target is not None:
            resp.close()
            _set_body(resp, b"")
        return target

    def watch(self, connected: socket.socket) -> None:
        """Takes a new connection, to cut it when the time is over."""
        with self._lock:
            self._sockets.append(connected.dup())
        if self.is_over():
            self._cut()

    def close(self) -> None:
        """Ends it; what is still open is closed."""
        self._timer.cancel()
        super().close()
        with self._lock:
            for each in self._sockets:
                each.close()
            self._sockets.clear()

    def is_over(self) -> bool:
        """Whether its seconds are spent."""
        return time.monotonic() >= self._until

    def _cut(self) -> None:
        with self._lock:
            for each in self._sockets:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)


def is_file_route(url: str, label_studio: str) -> bool:
    """Whether `url` is one at which the Label Studio at this address hands out files, and no other of its routes.

    A path that a server in between may read as another one is none.

    >>> is_file_route("http://ls:8080/data/upload/1/a.png", "http://ls:8080")
    True
    >>> is_file_route("http://ls:8080/data/upload/%2e%2e/api/projects", "http://ls:8080")
    False
    """
    try:
        parts, own = urlsplit(url), urlsplit(label_studio)
        same = (parts.scheme, parts.hostname, parts.port) == (own.scheme, own.hostname, own.port)
    except ValueError:
        return False
    if not own.hostname or not same or parts.username is not None or not is_plain_path(parts.path):
        return False
    base = own.path.rstrip("/")
    return parts.path.startswith(base) and _FILE_ROUTE.fullmatch(unquote(parts.path[len(base) :])) is not None


def is_plain_path(path: str) -> bool:
    """Whether a path is the same to whoever reads it: no dots that lead upwards, nothing encoded twice or unprintable.

    >>> [is_plain_path(path) for path in ("/data/upload/1/a%20b.png", "/data/../api", "/data/%252e%252e/api", "/a//b")]
    [True, False, False, False]
    """
    once = unquote(path)
    steps = once.split("/")
    return (
        unquote(once) == once
        and once.isprintable()
        and "\\" not in once
        and "%2f" not in path.lower()
        and not any(step in (".", "..") for step in steps)
        and "" not in steps[1:-1]
    )


def _parts(response: requests.Response) -> Iterator[bytes]:
    """The body, unpacked, in small parts. Raises InputError where it is packed in another way than once by zlib."""
    packed = response.headers.get("Content-Encoding", "").strip().lower()
    if packed in ("", "identity"):
        yield from response.iter_content(_PART)
        return
    if packed not in ("gzip", "x-gzip", "deflate"):
        raise InputError("image", "an answer packed with gzip or not at all", packed[:40])
    reader = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        for raw in response.raw.stream(_PART, decode_content=False):
            rest = raw
            while rest:
                yield reader.decompress(rest, _PART)
                rest = reader.unconsumed_tail
        while part := reader.decompress(b"", _PART):
            yield part
    except zlib.error:
        raise InputError("image", "an answer packed with gzip", "a damaged one") from None


def _set_body(response: requests.Response, body: bytes) -> None:
    response._content = body
    response._content_consumed = True  # type: ignore[attr-defined]


class _Adapter(HTTPAdapter):
    """Connects to checked addresses only."""

    def __init__(self, session: LimitedSession):
        self._session = session
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Pools whose connections ask the session's hosts first."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _pools(_Checked, self._session)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """As the base class does; connections to an http proxy are cut in time as well."""
        manager = super().proxy_manager_for(proxy, **kwargs)
        if not proxy.lower().startswith("socks"):
            manager.pool_classes_by_scheme = _pools(_Watched, self._session)
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        """As the base class does; behind a proxy the host's name is asked about here."""
        url = request.url or ""
        if select_proxy(url, kwargs.get("proxies")):
            with contextlib.suppress(OSError):
                self._session.hosts.resolve(urlparse(url).hostname or "", 0)
        return super().send(request, *args, **kwargs)


class _Watched:
    """Beside urllib3's connection classes: a connection that the session may cut."""

    limits: LimitedSession
    host: str
    port: int
    _dns_host: str

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()  # type: ignore[misc]
        self.limits.watch(connected)
        return connected


class _Checked(_Watched):
    """Looks the host up, has it checked, and connects to just that address."""

    def _new_conn(self) -> socket.socket:
        name = self._dns_host
        failure: Exception | None = None
        for address in self.limits.hosts.resolve(name, self.port):
            self._dns_host = address
            try:
                return super()._new_conn()
            except urllib3.exceptions.HTTPError as error:
                failure = error
                if self.limits.is_over():
                    break
            finally:
                self._dns_host = name  # which TLS asks the certificate for
        raise failure or OSError("no address")


def _pools(kind: type[_Watched], session: LimitedSession) -> dict[str, type]:
    """The classes of urllib3's pools by scheme, with connections of `kind`."""
    plain = type("Plain", (kind, HTTPConnection), {"limits": session})
    secure = type("Secure", (kind, HTTPSConnection), {"limits": session})
    return {
        "http": type("PlainPool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
        "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }
