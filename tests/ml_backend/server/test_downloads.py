"""Downloads from servers that mean no good: endless, slow, packed, and leading elsewhere."""

import gzip
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from ml_backend.errors import FetchError, InputError
from ml_backend.server.addresses import ImageHosts
from ml_backend.server.downloads import LimitedSession

BODY = b"an image" * 100


class Handler(BaseHTTPRequestHandler):
    """Answers by path; `server.asked` holds the paths."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        with suppress(OSError):
            getattr(self, self.path.strip("/").partition("?")[0])()

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def plain(self) -> None:
        self.answer(BODY)

    def packed(self) -> None:
        self.answer(gzip.compress(BODY), Content_Encoding="gzip")

    def broken(self) -> None:
        self.answer(b"not packed at all", Content_Encoding="gzip")

    def twice(self) -> None:
        self.answer(gzip.compress(gzip.compress(BODY)), Content_Encoding="gzip, gzip")

    def bomb(self) -> None:
        self.answer(gzip.compress(bytes(64 << 20)), Content_Encoding="gzip")

    def lie(self) -> None:
        self.answer(BODY, Content_Length="9" * 30)

    def drip(self) -> None:
        self.answer(b"")
        for _ in range(100):
            self.wfile.write(b"x")
            time.sleep(0.05)
        self.server.ended("drip")

    def drip_headers(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n")
        for n in range(100):
            self.wfile.write(f"X-{n}: y\r\n".encode())
            time.sleep(0.05)
        self.server.ended("headers")

    def silence(self) -> None:
        time.sleep(5)
        self.server.ended("silence")

    def away(self) -> None:
        self.answer(b"", 302, Location=f"http://127.0.0.2:{self.server.server_port}/plain")

    def on(self) -> None:
        self.answer(b"", 302, Location="/plain")

    def on_endlessly(self) -> None:
        self.answer(b"", 302, Location="/plain")
        for _ in range(2000):
            self.wfile.write(bytes(1 << 16))

    def round(self) -> None:
        self.answer(b"", 302, Location="/round")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("CAMPAIGN_IMAGE_HOSTS", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@contextmanager
def session(seconds: float = 20, max_bytes: int = 1 << 20):
    with LimitedSession(max_bytes, seconds, ImageHosts()) as limited:
        yield limited


def url(server, path: str) -> str:
    return f"http://127.0.0.1:{server.server_port}/{path}"


@pytest.mark.parametrize("path", ["plain", "packed", "on", "on_endlessly"])
def test_an_honest_answer_is_returned_whole(server, path):
    with session() as limited:
        assert limited.get(url(server, path)).content == BODY


@pytest.mark.parametrize(
    ("path", "max_bytes", "error"),
    [
        ("plain", 700, "at most 700 bytes"),
        ("packed", 700, "at most 700 bytes"),
        ("bomb", 1 << 20, "at most 1048576 bytes"),
        ("broken", 1 << 20, "a damaged one"),
        ("twice", 1 << 20, "packed with gzip or not at all"),
    ],
)
def test_too_much_is_refused_as_it_comes(server, path, max_bytes, error):
    with session(max_bytes=max_bytes) as limited, pytest.raises(InputError, match=error) as caught:
        limited.get(url(server, path))
    if path == "bomb":
        assert int(caught.value.got.split()[0]) < max_bytes + (2 << 16)


@pytest.mark.parametrize("path", ["drip", "drip_headers", "silence"])
def test_a_slow_answer_is_cut(server, path):
    """All of it would take five seconds and more, each part of it no time."""
    ended = []
    server.ended = ended.append
    with session(seconds=0.5) as limited, pytest.raises(requests.Timeout):
        limited.get(url(server, path))
    assert ended == []


def test_a_redirect_is_checked_like_the_first_address(server):
    with session() as limited, pytest.raises(FetchError, match=r"image host 127\.0\.0\.2"):
        limited.get(url(server, "away"))
    assert server.asked == ["/away"]


def test_redirects_end(server):
    with session() as limited, pytest.raises(requests.TooManyRedirects):
        limited.get(url(server, "round"))
    assert len(server.asked) < 15


def test_the_address_that_was_checked_is_connected_to(server, monkeypatch):
    """A name that answers with another address the second time leads nowhere else."""
    real, asked = socket.getaddrinfo, []

    def look_up(host, port, *rest, **options):
        if host != "images.test":
            return real(host, port, *rest, **options)
        asked.append(host)
        return real("127.0.0.1" if len(asked) == 1 else "127.0.0.2", port, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setenv("CAMPAIGN_IMAGE_HOSTS", "images.test")
    with session() as limited:
        assert limited.get(f"http://images.test:{server.server_port}/plain").content == BODY
    assert asked == ["images.test"]


def test_behind_a_proxy_what_is_known_to_be_inside_is_refused(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "")
    with session() as limited, pytest.raises(FetchError, match=r"image host 10\.0\.0\.7"):
        limited.get("http://10.0.0.7/plain")
    assert server.asked == []
