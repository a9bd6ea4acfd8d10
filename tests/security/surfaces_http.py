"""Seeded attacks over HTTP: every route as the server describes it, webhooks, and the ML backend's protocol.

`SURFACES` holds by name what plays one case: it raises where the answer is none that the server describes. All of it
runs inside this process; nothing is asked of another machine, nor by name.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote

from flask.testing import FlaskClient

from campaign.web.lead.login import lead_password
from campaign.web.serving import build_app
from ml_backend.server.app import Access, create_app
from ml_backend.server.backend import Backend
from ml_backend.server.image_files import ImageFiles
from ml_backend.server.openapi import describe
from ml_backend.server.signing import sign
from tests.campaign.builders import finish, gold_store
from tests.ml_backend.bright_objects import BrightModel

SECONDS = 2.0  # of one case at most
AUTH = ("campaign", "pw")
CONFIG = (
    '<View><Image name="img" value="$image"/><BrushLabels name="b" toName="img">'
    '<Label value="apple"/><Label value="pear"/></BrushLabels></View>'
)
ODD_TEXTS = (
    "",
    " ",
    "0",
    "-1",
    "1",
    "2",
    "1.5",
    "NaN",
    "1e999",
    "١٢",
    "²",
    "０",
    str(2**31),
    str(2**63),
    str(2**64),
    "9" * 5000,
    "a" * 3000,
    "\x00",
    "a\x00b",
    "\r\nX: y",
    "\n",
    "\t",
    "é",
    "\ud800",
    "\U0001f600",
    "\u202e",
    "../../etc/passwd",
    "..%2f..",
    "%00",
    "%ff",
    "/lead/",
    "//evil.example/",
    "http://[",
    "javascript:alert(1)",
    "{{7*7}}",
    "%s%n",
    "' OR 1=1 --",
    "<script>",
    "null",
    "true",
    "[]",
    "accept",
    "reject",
    "split",
    "policy",
    "image",
    "edit",
)
ODD_ADDRESSES = (
    "",
    "x",
    "/data/upload/1/a.png",
    "/data/../api/users/",
    "http://169.254.169.254/latest",
    "http://127.0.0.1:1/a.png",
    "http://[::1]:1/a",
    "http://0x7f000001/",
    "file:///etc/passwd",
    "s3://a/b",
    "gs:",
    "ftp://1.2.3.4/",
    "http://a..b/",
    "http://" + "a" * 300 + "/",
    "data:image/png;base64,AAAA",
    "\x00",
    "http://[",
    "/data/local-files/?d=../../etc/passwd",
    "upload",
    "http://168.63.129.16/",
    "//1.2.3.4/",
    "http://user:pw@10.0.0.1/",
    "/storage-data/uploaded/?filepath=\r\nx",
)
ODD_HEADERS = (
    ("Authorization", "Basic é"),
    ("Authorization", "Basic"),
    ("Authorization", "Basic ////"),
    ("Authorization", "Digest a=b"),
    ("Authorization", 'Digest username="'),
    ("Host", "["),
    ("Host", "evil.example"),
    ("Host", ""),
    ("X-Forwarded-For", "1.2.3.4, é"),
    ("Cookie", "campaign=\xff; =;"),
    ("Cookie", "session=" + "A" * 2000),
    ("Content-Type", "application/json; charset=utf-99"),
    ("Content-Type", "multipart/form-data"),
    ("Content-Type", "multipart/form-data; boundary=x"),
    ("Content-Type", "\xff"),
    ("Content-Type", "application/x-www-form-urlencoded; charset=utf-16"),
    ("Range", "bytes=5-1"),
    ("Range", "bytes=" + "9" * 40),
    ("Range", "bytes=0-0,1-1"),
    ("If-None-Match", '"'),
    ("If-Modified-Since", "Mon, 99 Foo 0000"),
    ("Accept", "\xff"),
    ("X-Request-ID", "a\tb" * 50),
    ("X-Campaign-Secret", "é"),
    ("Transfer-Encoding", "chunked"),
    ("Content-Length", "x"),
    ("Content-Length", "99999999999"),
    ("Content-Length", "-1"),
    ("X-HTTP-Method-Override", "DELETE"),
    ("Expect", "100-continue"),
)


class BrokenError(AssertionError):
    """An answer that no client should ever get."""


class Target:
    """The built campaign's server, logged in where a case wants it, with its own description."""

    def __init__(self, folder: Path):
        self.store = gold_store(folder / "a", {"gold_share": 0.1})
        finish(self.store, 7)
        self.app = build_app(self.store.folder)
        self.description = describe(self.app)
        self.operations = [
            (address, method, operation)
            for address, methods in self.description["paths"].items()
            for method, operation in methods.items()
        ]
        self.secrets = {name: self.store.secret(name) for name in ("backend_password", "webhook_secret", "crop_key")}
        self.lead = self.app.test_client()
        self.token = ""

    def log_in(self) -> None:
        """Opens the lead's session where it is not open."""
        if self.lead.get("/lead/drawn").status_code == 200 and self.token:
            return
        self.token = _form_token(self.lead.get("/lead/login").text)
        self.lead.post("/lead/login", data={"token": self.token, "user": "lead", "password": lead_password(self.store)})
        self.token = _form_token(self.lead.get("/lead/").text)


@cache
def target() -> Target:
    """The one campaign of this process, in a folder that goes with it."""
    folder = tempfile.TemporaryDirectory(prefix="fuzz-http-")
    made = Target(Path(folder.name))
    made.folder = folder  # type: ignore[attr-defined]
    return made


@cache
def backend() -> FlaskClient:
    """An ML backend with a model that works, and an image that it may fetch from its own disk cache."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-backend-"))
    files = ImageFiles(folder)
    return create_app(
        backend=Backend(BrightModel(), files, inline_seconds=1.0), access=Access(AUTH, webhook_secret="hook")
    ).test_client()


def play_route(rng: Random) -> None:
    """Any operation of the description, its parameters right or odd, with and without a right to it."""
    made = target()
    address, method, operation = rng.choice(made.operations)
    path = re.sub(r"{(\w+)}", lambda m: _in_path(made, address, m[1], operation, rng), address)
    query = {p["name"]: _value(p["schema"], rng) for p in operation["parameters"] if p["in"] == "query"}
    options: dict[str, Any] = {
        "headers": _headers(rng),
        "query_string": {k: _sent(v) for k, v in query.items() if rng.random() < 0.7},
    }
    client = made.app.test_client()
    content = operation.get("requestBody", {}).get("content", {})
    if "application/json" in content:
        _add_body(options, _value(content["application/json"]["schema"], rng), rng)
    elif content:
        fields = content["application/x-www-form-urlencoded"]["schema"]["properties"]
        options["data"] = {name: _sent(_value(schema, rng)) for name, schema in fields.items()}
    if rng.random() < 0.8:
        client = _with_rights(made, operation, options, rng)
    statuses = {int(status) for status in operation["responses"]} | {400, 404, 405, 413, 415}
    _ask(client, method, path, options, statuses)


def play_webhook(rng: Random) -> None:
    """Webhooks: forged, doubled, huge, nested without end, of every shape."""
    made = target()
    actions = ["ANNOTATION_CREATED", "ANNOTATIONS_DELETED", "TASKS_CREATED", "PROJECT_UPDATED", "START_TRAINING"]
    body: dict[str, Any] = {
        "action": rng.choice([*actions, *ODD_TEXTS, None, 1, [], {}]),
        "project": rng.choice([{"id": 7}, {"id": str(2**63)}, 7, None, [1], {"id": {"id": 1}}]),
        "annotation": _any(rng, 4),
        "task": _any(rng, 3),
    }
    if rng.random() < 0.05:
        body["annotation"] = {"result": [{"id": "x" * 50, "value": {"choices": ["a" * 100]}}] * 2000}
    given = rng.choice([made.secrets["webhook_secret"]] * 3 + ["", "é", made.secrets["webhook_secret"][:-1]])
    options: dict[str, Any] = {"headers": [*_headers(rng), ("X-Campaign-Secret", given)]}
    _add_body(options, body, rng)
    client = made.app.test_client()
    for _ in range(rng.choice([1, 1, 2, 5])):
        _ask(client, "post", "/webhook", dict(options), {201, 400, 401, 404, 413, 415, 503})


def play_predict(rng: Random) -> None:
    """/predict with tasks of every shape; each has its answer, however bad the others are."""
    tasks = [_task(rng) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
    body = {
        "tasks": tasks if rng.random() < 0.9 else _any(rng, 3),
        "project": rng.choice(["7.1790000000", "7", "", 7, "²", str(2**63), None, "7" * 100]),
        "label_config": rng.choice([CONFIG, CONFIG, CONFIG, CONFIG[:-9], "<View/>", "", "<", _odd(rng), None]),
        "params": rng.choice(
            [None, {"context": None}, {"context": {"result": []}}, {"context": _any(rng, 3)}, [], "x"]
        ),
    }
    options: dict[str, Any] = {"auth": AUTH}
    _add_body(options, body, rng)
    answer = _ask(backend(), "post", "/predict", options, {200, 400, 413})
    asked = len(json.loads(options["data"])["tasks"]) if answer.status_code == 200 else 0
    if answer.status_code == 200 and len(answer.json["results"]) != asked:
        raise BrokenError(f"{asked} tasks, {len(answer.json['results'])} answers")


def play_setup(rng: Random) -> None:
    """/setup, whatever its members hold."""
    body = {
        "project": rng.choice(["7.1", *ODD_TEXTS, None, 5, []]),
        "schema": rng.choice([CONFIG, _odd(rng), None]),
        "hostname": rng.choice(["http://127.0.0.1:1", *ODD_ADDRESSES, None, 3]),
        "access_token": rng.choice(["t", _odd(rng), None, {}]),
        "extra_params": _any(rng, 3),
    }
    options: dict[str, Any] = {"auth": AUTH}
    _add_body(options, body, rng)
    _ask(backend(), "post", "/setup", options, {200, 400, 413})


SURFACES: dict[str, Callable[[Random], None]] = {
    "http routes": play_route,
    "http webhooks": play_webhook,
    "http predict": play_predict,
    "http setup": play_setup,
}


def _ask(client: FlaskClient, method: str, path: str, options: dict[str, Any], statuses: set[int]) -> Any:
    """The answer, where it is one that is described. Raises BrokenError otherwise."""
    begin = time.perf_counter()
    answer = client.open(path, method=method.upper(), **options)
    text = answer.get_data()
    seconds = time.perf_counter() - begin
    what = f"{method} {path[:200]} {str(options)[:400]}"
    if answer.status_code not in statuses:
        raise BrokenError(f"{answer.status_code} to {what}: {text[:200]!r}")
    if b"Traceback" in text or b'File "' in text:
        raise BrokenError(f"a traceback to {what}")
    if seconds > SECONDS:
        raise BrokenError(f"{seconds:.1f} s for {what}")
    if any("\n" in value or "\r" in value for _, value in answer.headers):
        raise BrokenError(f"a header of two lines to {what}")
    if answer.status_code in (302, 303) and not answer.headers["Location"].startswith("/lead/"):
        raise BrokenError(f"a way out, to {answer.headers['Location']!r}, by {what}")
    return answer


def _with_rights(made: Target, operation: dict[str, Any], options: dict[str, Any], rng: Random) -> FlaskClient:
    schemes = {scheme for entry in operation.get("security", []) for scheme in entry}
    if "basic" in schemes:
        options["auth"] = ("campaign", made.secrets["backend_password"])
        options["headers"] = [(k, v) for k, v in options["headers"] if k != "Authorization"]
    if "webhook" in schemes:
        options["headers"] = [*options["headers"], ("X-Campaign-Secret", made.secrets["webhook_secret"])]
    if "session" not in schemes:
        return made.app.test_client()
    made.log_in()
    options["headers"] = [(k, v) for k, v in options["headers"] if k != "Cookie"]
    if isinstance(options.get("data"), dict) and rng.random() < 0.9:
        options["data"]["token"] = made.token
    return made.lead


def _in_path(made: Target, address: str, name: str, operation: dict[str, Any], rng: Random) -> str:
    if name == "token" and rng.random() < 0.7:
        kind = {"/c": "crop", "/s": "sheet", "/i": "image", "/p": "part"}[address[:2]]
        key = rng.choice([1, 2, 5, 0, -1, 2**40 + 3, 2**63 - 1, -(2**63), rng.randrange(200)])
        signed = sign(made.secrets["crop_key"], kind, key, rng.choice([2e9, 2e9, 0]))  # type: ignore[arg-type]
        return signed if rng.random() < 0.9 else signed[:-1]
    schema = next(p["schema"] for p in operation["parameters"] if p["name"] == name)
    if schema.get("type") == "integer" and rng.random() < 0.6:
        value: Any = rng.choice([0, 1, 1, 1, 2, rng.randrange(200), 2**40 + rng.randrange(200), 2**63 - 1])
    else:
        value = _value(schema, rng)
    if rng.random() < 0.05:
        return rng.choice(["%ff", "%00", "%0d%0aX", "%2e%2e", "%", "%zz"])
    return quote(str(value).encode("utf-8", "surrogatepass")[:4000], safe="") or "x"


def _value(schema: dict[str, Any], rng: Random) -> Any:
    """A value of the schema, or in two of five cases an odd one."""
    if rng.random() < 0.4:
        return _odd(rng)
    if "enum" in schema:
        return rng.choice(schema["enum"])
    kind = schema.get("type")
    if kind == "integer":
        return rng.choice([schema.get("minimum", 0), schema.get("maximum", 9), rng.randrange(1000)])
    if kind == "array":
        return [_value(schema.get("items", {}), rng) for _ in range(rng.randrange(4))]
    if kind == "object":
        return {k: _value(s, rng) for k, s in schema.get("properties", {}).items() if rng.random() < 0.9}
    return rng.choice(["a", "7", "cell", _odd(rng)])


def _sent(value: Any) -> str:
    """A value as a client can send it outside of JSON."""
    return str(value).encode("utf-8", "replace").decode()


def _odd(rng: Random) -> str:
    return (
        rng.choice(ODD_TEXTS)
        if rng.random() < 0.7
        else "".join(map(chr, rng.choices(range(1, 0x500), k=rng.randrange(40))))
    )


def _any(rng: Random, depth: int) -> Any:
    """Any JSON value."""
    kind = rng.randrange(8 if depth else 5)
    if kind == 5:
        return [_any(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind >= 6:
        return {_odd(rng)[:50]: _any(rng, depth - 1) for _ in range(rng.randrange(4))}
    return (
        None,
        rng.random() < 0.5,
        rng.choice([0, -1, 2**63, -(2**80), 10**300]),
        rng.choice([1e308, 0.5, -0.0]),
        _odd(rng),
    )[kind]


def _task(rng: Random) -> Any:
    if rng.random() < 0.2:
        return _any(rng, 3)
    data = rng.choice(
        [{"image": rng.choice(ODD_ADDRESSES)}, {"image": _any(rng, 2)}, {}, None, [], {"data": {"image": 1}}]
    )
    number = rng.choice([rng.randrange(100), 2**63, -1, "7", None, True, 1.5])
    return {"id": number, "data": data, "annotations": _any(rng, 3), "predictions": _any(rng, 2)}


def _headers(rng: Random) -> list[tuple[str, str]]:
    return [rng.choice(ODD_HEADERS) for _ in range(rng.choice([0, 0, 0, 1, 2]))]


def _add_body(options: dict[str, Any], body: Any, rng: Random) -> None:
    """The body as JSON, or in a tenth of the cases as something that only looks like it."""
    options["content_type"] = "application/json"
    options["headers"] = [(k, v) for k, v in options.get("headers", []) if k != "Content-Type"]
    text = json.dumps(body)
    twist = rng.random()
    if twist < 0.03:
        text = text[: rng.randrange(len(text) + 1)]
    elif twist < 0.05:
        text = "[" * 100_000
    elif twist < 0.06:
        text = '{"action":' * 50_000
    elif twist < 0.07:
        text = '{"tasks": [1e400, NaN, -Infinity], "action": Infinity}'
    elif twist < 0.08:
        text = '{"a": ' + "9" * 5000 + "}"
    elif twist < 0.10:
        options["content_type"] = rng.choice(["text/plain", "", "application/json; charset=utf-16", "application/xml"])
    raw = text.encode("utf-8", "surrogatepass")
    options["data"] = raw if rng.random() < 0.98 else b"\xff\xfe" + raw


def _form_token(page: str) -> str:
    found = re.search(r'name="token" value="([^"]+)"', page)
    return found[1] if found else ""
