"""A reverse proxy that serves another server under a path, as teams put Label Studio beside other sites."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import requests

# Of one connection, and none of what is passed on.
_HOPS = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "host"}


@contextmanager
def prefix_proxy(prefix: str, origin: str, port: int = 0) -> Iterator[str]:
    """The address under which `origin` is served with `prefix` before every path; elsewhere there is nothing."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _forward(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length) if length else None
            if not (self.path == prefix or self.path.startswith(f"{prefix}/")):
                self._answer(404, {}, b"nothing here")
                return
            headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOPS}
            session = requests.Session()
            session.trust_env = False
            url = origin + (self.path.removeprefix(prefix) or "/")
            answer = session.request(self.command, url, headers=headers, data=body, allow_redirects=False, timeout=60)
            self._answer(answer.status_code, dict(answer.headers), answer.content)

        def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                if name.lower() not in _HOPS:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _forward  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{prefix}"
        finally:
            server.shutdown()
