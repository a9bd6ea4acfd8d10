"""A web server on 127.0.0.1 that serves a folder, as a place on the web or as a Label Studio that asks for a token."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(SimpleHTTPRequestHandler):
    """Serves files; `asked` holds the paths, `token` what must be in the header where it is set."""

    def __init__(self, *args, asked: list[str], token: str | None, **options):
        self.asked, self.token = asked, token
        super().__init__(*args, **options)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        if self.token and self.headers.get("Authorization") != f"Token {self.token}":
            self.send_error(401)
            return
        super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serve_folder(folder: Path, token: str | None = None) -> Iterator[tuple[str, list[str]]]:
    """(address, list of the paths asked for) while the server runs."""
    asked: list[str] = []
    with _serve(partial(Handler, directory=str(folder), asked=asked, token=token)) as url:
        yield url, asked


class Statuses(BaseHTTPRequestHandler):
    """Answers /<status> with that status, /drip a byte at a time."""

    def do_GET(self) -> None:
        if self.path != "/drip":
            self.send_error(int(self.path[1:4]))
            return
        self.send_response(200)
        self.end_headers()
        with suppress(OSError):
            for _ in range(200):
                self.wfile.write(b"x")
                time.sleep(0.05)

    def log_message(self, *_: object) -> None:
        pass


def serve_status() -> AbstractContextManager[str]:
    """The address of a server of `Statuses` while it runs."""
    return _serve(Statuses)


@contextmanager
def _serve(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    # Its end is looked for often: it is waited for at the end of many tests.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
