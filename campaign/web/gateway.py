"""Gunicorn for the campaign's server: one process, several threads, none of them held by a slow client."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from flask import Flask
from gunicorn.app.base import BaseApplication
from gunicorn.workers.gthread import ThreadWorker

HEAD_SECONDS = 10.0  # for all of a request's head, and a small body
PART_SECONDS = 30.0  # for any part of a larger body, and of an answer
MOST_HEAD = 64 << 10
SMALL_BODY = 16 << 10
_PAUSES = 0.001, 0.02  # seconds between two looks at what is coming: at once the shorter, later the longer
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,18})[ \t]*\r\n", re.IGNORECASE)


def is_whole(data: bytes) -> bool:
    """Whether a thread can take this request on without waiting for its client.

    So it is with a whole head, with a small body behind it; and with what is no request at all, to be refused.
    """
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        return len(data) >= MOST_HEAD
    length = _LENGTH.search(head + b"\r\n")
    expected = int(length[1]) if length else 0
    return expected > SMALL_BODY or len(body) >= expected


class PatientWorker(ThreadWorker):
    """Gunicorn's worker with threads, which are given requests that have arrived, not those that are still coming.

    A thread that reads from its client waits as long as that likes: a few slow ones would hold them all, and nobody
    would answer for the server's health.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._coming: list[tuple[Any, float]] = []  # (a connection, when it began)
        self._news = threading.Condition()
        self._watch: threading.Thread | None = None

    def enqueue_req(self, conn: Any) -> None:
        """Hands a connection to a thread, now or when its request has arrived."""
        if self._has_arrived(conn):
            super().enqueue_req(conn)
            return
        with self._news:
            self._coming.append((conn, time.monotonic()))
            if self._watch is None:  # here, in the process that serves, and not in the one that was forked
                self._watch = threading.Thread(target=self._wait, name="coming-requests", daemon=True)
                self._watch.start()
            self._news.notify()

    def handle_request(self, req: Any, conn: Any) -> Any:
        """As the base class does; no part of a body or an answer may take for ever."""
        conn.sock.settimeout(PART_SECONDS)
        return super().handle_request(req, conn)

    def _has_arrived(self, conn: Any) -> bool:
        unread = getattr(getattr(getattr(conn, "parser", None), "unreader", None), "buf", None)
        if unread is not None and unread.getvalue():
            return True  # the end of what was read with the request before
        try:
            if not select.select([conn.sock], [], [], 0)[0]:
                return False
            data = conn.sock.recv(MOST_HEAD + SMALL_BODY, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except (OSError, ValueError):
            return True  # closed, or of a number that select cannot take: let the thread find out
        return not data or is_whole(data)

    def _wait(self) -> None:
        while True:
            with self._news:
                while not self._coming:
                    self._news.wait()
                coming, self._coming = self._coming, []
            later, age = [], HEAD_SECONDS
            for conn, since in coming:
                age = min(age, time.monotonic() - since)
                if self._has_arrived(conn):
                    super().enqueue_req(conn)
                elif time.monotonic() >= since + HEAD_SECONDS:
                    self._give_up(conn)
                else:
                    later.append((conn, since))
            with self._news:
                self._coming += later
            # The body of a webhook follows its head within a millisecond; a client that is slow takes its time.
            time.sleep(min(max(age, _PAUSES[0]), _PAUSES[1]))

    def _give_up(self, conn: Any) -> None:
        """Ends a connection whose request did not come; a thread then finds it ended, and counts it off."""
        with contextlib.suppress(OSError):
            conn.sock.shutdown(socket.SHUT_RDWR)
        super().enqueue_req(conn)


class Server(BaseApplication):
    """Gunicorn with one process and several threads, which share the decoded images.

    `build` returns the application, in the process that serves it.
    """

    def __init__(self, build: Callable[[], Flask], host: str, port: int, threads: int):
        self.build, self.host, self.port, self.threads = build, host, port, threads
        super().__init__()

    def load_config(self) -> None:
        """Passes the options on to Gunicorn, as far as its version knows them."""
        for name, value in {
            "bind": f"{self.host}:{self.port}",
            "workers": 1,
            "threads": self.threads,
            "worker_class": PatientWorker,
            "worker_connections": 1000,
            "timeout": 120,
            "graceful_timeout": 20,
            "keepalive": 5,
            "limit_request_line": 8190,
            "accesslog": None,
            "loglevel": "warning",
            "control_socket_disable": True,
        }.items():
            if name in self.cfg.settings:
                self.cfg.set(name, value)

    def load(self) -> Flask:
        """Returns the application that the process serves."""
        return self.build()
