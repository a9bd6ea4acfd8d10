"""Whether Label Studio and annotators' browsers reach us at `page.public_url`: crops, and webhooks as they arrive."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

import requests

from campaign.check.lines import Line, ok, unknown, wrong
from campaign.label_studio.client import Client, LabelStudioError, LabelStudioUnauthorized, is_local
from campaign.label_studio.verification import (
    SECRET_HEADER,
    create_project,
    delete_project,
    ensure_webhook,
    has_webhook,
    publish_tasks,
)  # fmt: skip
from campaign.pages.projects import QUESTIONS, webhook_of
from campaign.pages.publishing import build_pages
from campaign.records.page import PageKind
from campaign.store import Store
from ml_backend.errors import InputError

PATIENCE = 8.0  # seconds; Label Studio waits one for a receiver, and may leave the call to a queue
EVENT = "TASKS_CREATED"  # which no webhook of a campaign asks for: what arrives is ours
_CONFIG = '<View><Text name="t" value="$text"/></View>'
_SERVE = "start campaign run or campaign serve and check again"


@dataclass(frozen=True)
class Receiver:
    """Who answers at `page.public_url`: the campaign's own server, or one for the time of the check.

    what: its name. arrived: how many webhooks of `EVENT` arrived so far. secret: what they must carry.
    """

    what: str
    arrived: Callable[[], int]
    secret: str
    of_campaign: bool = False


def reach(
    public_url: str, url: str | None, client: Client | None, store: Store | None, hooks: bool, missing: str
) -> Iterator[Line]:
    """What there is to say of the ways to us.

    `hooks` says whether a webhook is tried, which takes a client; where there is none, `missing` says what to do.
    """
    yield _for_browsers(public_url, url)
    with _receiver(public_url, store) as receiver:
        if receiver is None:
            said = f"the campaign's server does not answer at {public_url}, and no other can stand there for it"
            yield unknown("crops", said, _SERVE)
        else:
            yield _crops(public_url, store, receiver)
        yield _webhook(public_url, client, missing, receiver, hooks)
    if client is not None and store is not None:
        yield from _registered(public_url, client, store)


def _registered(public_url: str, client: Client, store: Store) -> Iterator[Line]:
    """Whether the campaign's projects have their webhook, where it is served now."""
    wanted, (_, secret) = f"{public_url.rstrip('/')}/webhook", webhook_of(store)
    for screen in QUESTIONS:
        project = store.values.project(screen)
        if project is None:
            continue
        thing = f"webhook of project {project}"
        try:
            known = has_webhook(client, project, wanted, secret)
        except LabelStudioError as error:
            yield wrong(thing, error, f"campaign verify {store.place}")
            continue
        if known:
            yield ok(thing, wanted)
        else:
            yield wrong(thing, f"expected one for {wanted}, got none or another", "campaign publish --again")


def _for_browsers(public_url: str, url: str | None) -> Line:
    thing, ours = "page.public_url", urlparse(public_url)
    if url is None:
        return unknown(thing, f"{public_url}; no Label Studio to hold it against", "give --label-studio")
    if is_local(public_url) and not is_local(url):
        said = f"{public_url} is another machine for each annotator"
        return wrong(thing, said, "set page.public_url to an address that annotators' browsers reach")
    if urlparse(url).scheme == "https" and ours.scheme == "http" and not is_local(public_url):
        said = f"{public_url} is http and Label Studio https: browsers block what a page of https loads by http"
        return wrong(thing, said, "put a reverse proxy with TLS before it and set page.public_url to its https address")
    return ok(thing, public_url + (", for browsers on this machine alone" if is_local(public_url) else ""))


@contextmanager
def _receiver(public_url: str, store: Store | None) -> Iterator[Receiver | None]:
    """The server at `public_url`; where there is none one of our own, as long as the block runs."""
    if _answer(f"{public_url.rstrip('/')}/health") == {"status": "UP"}:
        if store is None:
            yield None  # another campaign's, whose secrets are its own
        else:
            counted, secret = partial(_counted, public_url, store), store.secret("webhook_secret")
            yield Receiver("the campaign's server", counted, secret, of_campaign=True)
        return
    try:
        server = _Own(("127.0.0.1", urlparse(public_url).port or 80), _Handler)
    except OSError:
        yield None
        return
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield Receiver("a server for the time of this check", lambda: server.events, _Own.secret)
        finally:
            server.shutdown()


class _Own(ThreadingHTTPServer):
    """It answers as the campaign's server would, and counts the events that carry its secret."""

    secret = secrets.token_urlsafe(16)
    events = 0


class _Handler(BaseHTTPRequestHandler):
    server: _Own

    def do_GET(self) -> None:
        self._say(200 if self.path.endswith("/health") else 404, b'{"status": "UP"}')

    def do_POST(self) -> None:
        length = min(int(self.headers.get("Content-Length") or 0), 1 << 16)
        known = self.headers.get(SECRET_HEADER) == _Own.secret and EVENT.encode() in self.rfile.read(length)
        self.server.events += known
        self._say(201 if known else 401, b"{}")

    def _say(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing: what arrives is said once, at the end."""


def _crops(public_url: str, store: Store | None, receiver: Receiver) -> Line:
    """Whether what pages show can be had from here."""
    if store is not None and receiver.of_campaign:
        pages = [p for p in store.pages.rows(published=True) if p.kind == PageKind.VERIFY]
        if pages:
            address = build_pages(store, pages[:1])[0].crops[0].url
            with _session(address) as session, suppress(requests.RequestException):
                answer = session.get(address, timeout=20)
                kind = answer.headers.get("Content-Type", "")
                if answer.ok and kind.startswith("image/"):
                    return ok("crops", f"one of a published page, from {public_url}")
                said = f"one of a published page: expected an image, got {answer.status_code} {kind}"
                return wrong("crops", said, "see the server's log; campaign verify looks for what is missing")
            return wrong("crops", f"one of a published page: no answer from {public_url}", _SERVE)
    if _answer(f"{public_url.rstrip('/')}/health") == {"status": "UP"}:
        return ok("crops", f"{public_url} leads from here to {receiver.what}")
    hint = "mend page.public_url, or the proxy between it and campaign serve"
    return wrong("crops", f"{public_url} does not lead to {receiver.what}", hint)


def _webhook(public_url: str, client: Client | None, missing: str, receiver: Receiver | None, hooks: bool) -> Line:
    """Whether a webhook of Label Studio arrives: a project is made for it, and deleted again."""
    thing = "webhooks"
    if client is None or not hooks:
        return unknown(thing, "not tried", None if client else missing)
    if receiver is None:
        return unknown(thing, f"nobody to take one at {public_url}", _SERVE)
    hook = f"{public_url.rstrip('/')}/webhook"
    project = None
    try:
        project = create_project(client, f"campaign check {secrets.token_hex(4)}", label_config=_CONFIG)
        ensure_webhook(client, project, hook, receiver.secret, (EVENT,))
        before, begun = receiver.arrived(), time.monotonic()
        publish_tasks(client, project, {"check": {"data": {"text": "check"}, "meta": {"key": "check"}}})
        while receiver.arrived() <= before:
            if time.monotonic() > begun + PATIENCE:
                said = f"Label Studio has one for {hook}, and in {PATIENCE:.0f} s nothing arrived"
                hint = f"open the way from Label Studio's machine to {public_url}; until then answers wait for the poll"
                return wrong(thing, said, hint)
            time.sleep(0.1)
        return ok(thing, f"arrive at {hook} in {time.monotonic() - begun:.1f} s")
    except LabelStudioUnauthorized as error:
        return wrong(thing, error, "a token whose user may make projects and webhooks")
    except InputError as error:
        return wrong(thing, error, "see Troubleshooting in docker/README.md")
    finally:
        if project is not None:
            with suppress(LabelStudioError):
                delete_project(client, project)


def _counted(public_url: str, store: Store) -> int:
    """How many events the campaign's server has had, by its metrics."""
    with _session(public_url) as session, suppress(requests.RequestException):
        login = ("campaign", store.secret("backend_password"))
        text = session.get(f"{public_url.rstrip('/')}/metrics", auth=login, timeout=20).text
        match = re.search(rf'^campaign_events_total{{action="{EVENT}"}} ([\d.e+]+)$', text, re.MULTILINE)
        return int(float(match[1])) if match else 0
    return 0


def _answer(url: str) -> object:
    with _session(url) as session:
        try:
            return session.get(url, timeout=5).json()
        except (requests.RequestException, ValueError):
            return None


def _session(url: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = not is_local(url)
    return session
