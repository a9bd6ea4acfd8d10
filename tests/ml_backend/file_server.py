"""A web server on 127.0.0.1 that serves a folder, as a place on the web or as a Label Studio that asks for a token."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
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
    handler = partial(Handler, directory=str(folder), asked=asked, token=token)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
