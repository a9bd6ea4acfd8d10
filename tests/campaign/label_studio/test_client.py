from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator

import pytest

from campaign.label_studio import client as clients
from campaign.label_studio.client import (
    Client,
    LabelStudioError,
    LabelStudioUnauthorized,
    LabelStudioUnavailable,
    ProjectGone,
    is_local,
)
from campaign.label_studio.server import LabelStudioServer, log_in
from ml_backend.errors import InputError

TOKEN = "t" * 40


@pytest.mark.parametrize(
    ("url", "token", "message"),
    [
        ("label-studio:8080", TOKEN, "Label Studio URL: expected http://host or https://host, got 'label-studio:8080'"),
        ("http://", TOKEN, "Label Studio URL: expected http://host"),
        ("http://host", "", "Label Studio token: expected an access token of printable characters, got none"),
        ("http://host", "a b", "Label Studio token: expected an access token"),
        ("http://host", "tøken", "Label Studio token: expected an access token"),
    ],
)
def test_bad_arguments(url: str, token: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        Client(url, token)
    assert message in str(caught.value)


def test_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(Client("http://host", TOKEN))


@pytest.mark.parametrize(
    ("url", "expected"), [("http://127.0.0.1:1/x", True), ("http://[::1]:2", True), ("http://127.org", False)]
)
def test_is_local(url: str, expected: bool) -> None:
    assert is_local(url) is expected


class Answers(http.server.BaseHTTPRequestHandler):
    """A server that gives each of the status codes in `script` once and then the last for ever."""

    script: list[int]
    body: bytes
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.command)
        status = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.send_response(status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answers() -> Iterator[tuple[str, type[Answers]]]:
    handler = type("Handler", (Answers,), {"script": [200], "body": b'{"release": "1"}', "asked": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", handler
    server.shutdown()


def test_slow_answers_are_told_of_once(answers, monkeypatch, caplog) -> None:
    url, _ = answers
    client = Client(url, TOKEN)
    client.request("GET", "x")
    assert not caplog.records
    monkeypatch.setattr(clients, "SLOW", 0.0)
    for _ in range(2):
        client.request("GET", "x")
    assert [record.getMessage().split(" took ")[0] for record in caplog.records] == [f"Label Studio at {url}"]
    assert "goes on, slower" in caplog.text


@pytest.mark.parametrize(
    ("method", "script", "attempts", "error"),
    [
        ("GET", [200], 1, None),
        ("GET", [500, 502, 200], 3, None),
        ("GET", [429, 200], 2, None),
        ("GET", [503], 3, LabelStudioUnavailable),
        ("GET", [404], 1, LabelStudioError),
        ("GET", [401], 1, LabelStudioUnauthorized),
        ("GET", [403], 1, LabelStudioUnauthorized),
        ("GET", [400], 1, LabelStudioError),
        # What was sent may have been done although the answer is an error: it is not sent again.
        ("POST", [500, 200], 1, LabelStudioUnavailable),
        ("POST", [429, 200], 2, None),
    ],
)
def test_retries(answers, method: str, script: list[int], attempts: int, error: type[Exception] | None) -> None:
    url, handler = answers
    handler.script = list(script)
    client = Client(url, TOKEN, retry_delays=(0.01, 0.01))
    if error is None:
        assert client.request(method, "x", body={} if method == "POST" else None) == {"release": "1"}
    else:
        with pytest.raises(error) as caught:
            client.request(method, "x")
        assert type(caught.value) is error
        assert "\n" not in str(caught.value)
    assert handler.asked == [method] * attempts


def test_a_post_is_sent_again_where_it_cannot_have_arrived() -> None:
    client = Client("http://127.0.0.1:9", TOKEN, retry_delays=(0.01, 0.01))
    with pytest.raises(LabelStudioUnavailable, match=r"expected a running Label Studio, got .*refused"):
        client.request("POST", "x")


@pytest.mark.parametrize(
    ("body", "got"),
    [
        (b"<html>hello</html>", "got an answer that is no JSON"),
        (b'{"name": "other"}', "got another server"),
        (b"[]", "got another server"),
    ],
)
def test_another_server(answers, body: bytes, got: str) -> None:
    url, handler = answers
    handler.body = body
    with pytest.raises(LabelStudioError, match=f"expected a Label Studio server, {got}"):
        Client(url, TOKEN).check()


@pytest.mark.parametrize(
    ("body", "got"),
    [
        (b"<html>nginx</html>", "404 an HTML page"),
        (json.dumps({"detail": "Not found.", "status_code": 404}).encode(), "404 Not found."),
        (
            json.dumps({"detail": "x", "validation_errors": {"title": ["too long"]}}).encode(),
            '404 {"title": ["too long"]}',
        ),
        (b"a" * 1000, "404 " + "a" * 197 + "..."),
    ],
)
def test_errors_in_label_studios_words(answers, body: bytes, got: str) -> None:
    url, handler = answers
    handler.script, handler.body = [404], body
    with pytest.raises(LabelStudioError) as caught:
        Client(url, TOKEN).request("GET", "x")
    assert caught.value.got == got


@pytest.mark.label_studio
class TestRealServer:
    def test_both_kinds_of_token(self, label_studio: LabelStudioServer, label_studio_client: Client) -> None:
        version = label_studio_client.check()
        assert version[0].isdigit()
        session = log_in(label_studio.url, label_studio.user, label_studio.password)
        session.post(
            f"{label_studio.url}/api/jwt/settings", json={"api_tokens_enabled": True}, timeout=30
        ).raise_for_status()
        personal = session.post(f"{label_studio.url}/api/token/", timeout=30).json()["token"]
        client = Client(label_studio.url, personal)
        assert client.check() == version
        # The personal token only buys short-lived ones, and those are what is sent.
        assert client.access_token() != personal
        assert label_studio_client.access_token() == label_studio.token
        assert label_studio.user in client.users().values()

    def test_unauthorized_and_gone(self, label_studio: LabelStudioServer, label_studio_client: Client) -> None:
        with pytest.raises(LabelStudioUnauthorized, match="expected a token that Label Studio accepts, got 401"):
            Client(label_studio.url, TOKEN).check()
        with pytest.raises(ProjectGone, match="project 987654: expected a project that this token can see, got 404"):
            label_studio_client.project(987654)
        with pytest.raises(ProjectGone):
            list(label_studio_client.tasks(987654, "id"))


def test_pages_are_as_long_as_their_bytes_allow(monkeypatch) -> None:
    """Tasks grow heavy on the way: pages double while they are small, and are short once they are not."""
    client, asked = Client("http://127.0.0.1:9", TOKEN), []

    def request(_method: str, _path: str, *, params: dict, **_: object) -> dict:
        asked.append(params["page_size"])
        after = json.loads(params["query"])["filters"]["items"][0]["value"]
        tasks = [{"id": number} for number in range(after + 1, min(after + params["page_size"], 1250) + 1)]
        client.answer_bytes = sum(10 if task["id"] <= 800 else 400 for task in tasks)
        return {"tasks": tasks}

    monkeypatch.setattr(client, "request", request)
    pages = list(client.task_pages(1, "id", page_size=100, page_bytes=8000))
    assert asked == [100, 200, 400, 500, 24, 20, 20]
    assert [task["id"] for page in pages for task in page] == list(range(1, 1251))
    assert [len(page) for page in client.task_pages(1, "id", page_size=1000)] == [1000, 250]
