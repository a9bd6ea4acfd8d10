"""A stand-in for Label Studio: the part of its API that a turn uses, kept in memory, and every way in which it fails.

It answers as version 1.23.2 was recorded to answer: the same fields, filters, order and status codes. A process of its
own, so that a campaign that is killed leaves it as it is; the driver of a run steers it under `/control/`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

FIRST_TOKEN = "0123456789abcdef0123456789abcdef01234567"
HTML = b"<html><body><h1>Back in a minute</h1></body></html>"


def control(port: int, what: str, **body: Any) -> Any:
    """Asks the stand-in on this port of this machine to do something that is no part of its API."""
    connection = HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", f"/control/{what}", json.dumps(body))
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


@dataclass
class Weather:
    """How it answers now: `ok`, `down`, `lost` (does what is asked and says nothing), `slow`, a status, `html`."""

    mode: str = "ok"
    seconds: float = 0.0
    token: str = FIRST_TOKEN
    clock: float = 0.0  # seconds that its clock is off
    felt: int = 0  # requests that it has answered so since it was last changed


@dataclass
class Books:
    """What it keeps: projects, tasks with their annotations, webhooks."""

    projects: dict[int, dict[str, Any]] = field(default_factory=dict)
    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    hooks: list[dict[str, Any]] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, kind: str) -> int:
        """The next id of a kind."""
        self.numbers[kind] = self.numbers.get(kind, 0) + 1
        return self.numbers[kind]


class LabelStudio:
    """The server; `serve` blocks."""

    def __init__(self, port: int):
        self.port = port
        self.weather, self.books, self.lock = Weather(), Books(), threading.Lock()

    def serve(self) -> None:
        """Answers until the process ends."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1

            def answer(self) -> None:
                owner.answer(self)

            do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

            def date_time_string(self, timestamp: float | None = None) -> str:
                return format_datetime(owner.now().replace(microsecond=0), usegmt=True)

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

        Server(("127.0.0.1", self.port), Handler).serve_forever(0.05)

    def now(self) -> datetime:
        """The time by its clock."""
        return datetime.now(timezone.utc) + timedelta(seconds=self.weather.clock)

    def stamp(self) -> str:
        """The time as its API states it."""
        return self.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    # requests

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        """One request, as the weather is."""
        length = int(handler.headers.get("Content-Length") or 0)
        raw = handler.rfile.read(length) if length else b""
        url = urlparse(handler.path)
        query = {k: v[0] for k, v in parse_qs(url.query).items()}
        body = json.loads(raw) if raw else None
        if url.path.startswith("/control/"):
            with self.lock:
                _send(handler, 200, self.control(url.path[len("/control/") :], body or {}))
            return
        weather = self.weather
        is_bad = weather.mode != "ok" and (weather.mode != "lost" or handler.command != "GET")
        weather.felt += is_bad or handler.headers.get("Authorization") != f"Token {weather.token}"
        if weather.mode == "slow":
            time.sleep(weather.seconds)
        if weather.mode == "down":
            _drop(handler)
        elif weather.mode == "html":
            _send(handler, 200, HTML)
        elif weather.mode.isdigit():
            _send(handler, int(weather.mode), HTML if weather.mode == "502" else {"detail": "as you see"})
        elif handler.headers.get("Authorization") != f"Token {weather.token}":
            _send(handler, 401, {"detail": "Invalid token."})
        else:
            with self.lock:
                status, said = self.route(handler.command, url.path.rstrip("/"), query, body)
            if weather.mode == "lost" and handler.command != "GET":
                _drop(handler)
            else:
                _send(handler, status, said)

    def route(self, method: str, path: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        """(status, answer) of a request of the API."""
        routes: list[tuple[str, str, Callable[..., tuple[int, Any]]]] = [
            ("GET", r"/api/version", lambda: (200, {"release": "1.23.2"})),
            ("GET", r"/api/(?:current-user/)?whoami", lambda: (200, {"id": 1, "email": "lead@example.com"})),
            ("GET", r"/api/users", lambda: (200, [{"id": n, "email": f"u{n}@example.com"} for n in range(1, 6)])),
            ("GET", r"/api/projects", lambda: self.find_projects(query)),
            ("POST", r"/api/projects", lambda: self.make_project(body)),
            ("GET", r"/api/projects/(\d+)", self.project),
            ("PATCH", r"/api/projects/(\d+)", lambda n: self.change(self.books.projects, n, body)),
            ("POST", r"/api/projects/(\d+)/import", lambda n: self.take(int(n), body)),
            ("GET", r"/api/webhooks", lambda: (200, self.books.hooks)),
            ("POST", r"/api/webhooks", lambda: self.hook(body)),
            ("PATCH", r"/api/webhooks/(\d+)", lambda n: self.change({h["id"]: h for h in self.books.hooks}, n, body)),
            ("GET", r"/api/tasks", lambda: self.list_tasks(query)),
            ("PATCH", r"/api/tasks/(\d+)", lambda n: self.change(self.books.tasks, n, body)),
            ("DELETE", r"/api/tasks/(\d+)", lambda n: (204, self.books.tasks.pop(int(n), None) and None)),
        ]
        for verb, pattern, act in routes:
            if method == verb and (match := re.fullmatch(pattern, path)):
                return act(*match.groups())
        return 404, {"detail": f"{method} {path}"}

    def find_projects(self, query: dict[str, str]) -> tuple[int, Any]:
        wanted = query.get("title", "")
        return 200, {"results": [p for p in self.books.projects.values() if wanted in p["title"]]}

    def make_project(self, body: dict) -> tuple[int, Any]:
        number = self.books.number("project")
        self.books.projects[number] = {"id": number, **body}
        return 201, self.books.projects[number]

    def project(self, number: str) -> tuple[int, Any]:
        known = self.books.projects.get(int(number))
        return (200, known) if known else (404, {"detail": "Not found."})

    def change(self, rows: dict[int, dict], number: str, body: dict) -> tuple[int, Any]:
        if int(number) not in rows:
            return 404, {"detail": "Not found."}
        rows[int(number)] |= body
        return 200, {"id": int(number)}

    def hook(self, body: dict) -> tuple[int, Any]:
        self.books.hooks.append({"id": self.books.number("hook"), **body})
        return 201, self.books.hooks[-1]

    def take(self, project: int, bodies: list[dict]) -> tuple[int, Any]:
        if project not in self.books.projects:
            return 404, {"detail": "Not found."}
        ids = []
        for body in bodies:
            number = self.books.number("task")
            self.books.tasks[number] = {
                "id": number, "project": project, "updated_at": self.stamp(), "annotations": [], **body,
            }  # fmt: skip
            ids.append(number)
        return 201, {"task_count": len(ids), "task_ids": ids}

    def list_tasks(self, query: dict[str, str]) -> tuple[int, Any]:
        asked = json.loads(query.get("query", "{}"))
        rows = [t for t in self.books.tasks.values() if t["project"] == int(query["project"])]
        for item in asked.get("filters", {}).get("items", []):
            if item["filter"] == "filter:tasks:id":
                rows = [t for t in rows if t["id"] > item["value"]]
            elif item["filter"] == "filter:tasks:updated_at":
                rows = [t for t in rows if t["updated_at"] >= item["value"]]
        order = asked.get("ordering", ["tasks:id"])[0]
        rows.sort(key=lambda t: t[order.rpartition(":")[2]], reverse=order.startswith("-"))
        names = [*query.get("include", "id").split(","), "total_annotations"]
        shown = [
            {n: t[n] for n in names if n in t} | {"total_annotations": len(t["annotations"])}
            for t in rows[: int(query.get("page_size", 100))]
        ]
        return 200, {"tasks": json.loads(json.dumps(shown)), "total": len(rows)}

    # what the driver of a run does

    def control(self, what: str, body: dict) -> Any:
        """Weather, and what people do in the browser."""
        if what == "weather":
            self.weather.felt = 0
            for name, value in body.items():
                setattr(self.weather, name, value)
        elif what == "felt":
            return {"requests": self.weather.felt}
        elif what == "open":
            return [
                {"id": t["id"], "key": (t.get("meta") or {}).get("key"), "data": t["data"]}
                for t in self.books.tasks.values()
                if not t["annotations"]
            ]
        elif what == "annotate":
            return self.annotate(body)
        elif what == "books":
            return {"tasks": list(self.books.tasks.values()), "hooks": self.books.hooks}
        return {}

    def annotate(self, body: dict) -> Any:
        """One annotation made, or changed where its `id` is named; {} while nobody can answer."""
        task = self.books.tasks.get(body["task"])
        if self.weather.mode != "ok" or task is None:
            return {}
        task["updated_at"] = self.stamp()
        values = {
            "result": body["result"], "completed_by": body["user"], "updated_by": body["user"],
            "updated_at": self.stamp(), "lead_time": 9.0, "was_cancelled": False,
        }  # fmt: skip
        old = next((a for a in task["annotations"] if a["id"] == body.get("id")), None)
        if old is None:
            old = {"id": self.books.number("annotation"), "created_at": self.stamp()}
            task["annotations"].append(old)
        old |= values
        return {"id": old["id"], "hooks": self.books.hooks}


def _drop(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


def _send(handler: BaseHTTPRequestHandler, status: int, said: Any) -> None:
    content = said if isinstance(said, bytes) else b"" if status == 204 else json.dumps(said).encode()
    handler.send_response(status)
    handler.send_header("Content-Type", "text/html" if isinstance(said, bytes) else "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)
