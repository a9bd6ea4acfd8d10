"""The server's own description of its routes, in OpenAPI's words: made from the routes as they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flask import Flask

EXTENSION = "campaign_operations"
Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
ID: Schema = {"type": "integer", "minimum": 0, "maximum": (1 << 63) - 1}
OBJECT: Schema = {"type": "object"}
SECURITY: dict[str, Schema] = {
    "basic": {"type": "http", "scheme": "basic", "description": "user campaign, and the backend_password"},
    "webhook": {"type": "apiKey", "in": "header", "name": "X-Campaign-Secret"},
    "session": {"type": "apiKey", "in": "cookie", "name": "campaign", "description": "the lead's login"},
}
REFUSALS = {
    "none": (400,),
    "token": (400, 403, 404),
    "basic": (400, 401),
    "webhook": (400, 401),
    "session": (302, 400, 401, 404),
}


@dataclass(frozen=True)
class Operation:
    """What a route does, beside what its address says.

    security: "none", "token" (in the address), "basic", "webhook" or "session". answers: {status: media type} where
    all is well. others: statuses that may follow beside those of its security. query, form: schemas by name. body: the
    schema of a JSON body.
    """

    summary: str
    security: str = "none"
    answers: Mapping[int, str] = field(default_factory=lambda: {200: "application/json"})
    others: tuple[int, ...] = ()
    query: Mapping[str, Schema] = field(default_factory=dict)
    form: Mapping[str, Schema] | None = None
    body: Schema | None = None


_VIEW: dict[str, Schema] = {
    "view": {"enum": ["image", "edit"]},
    "size": {"type": "integer", "minimum": 32, "maximum": 2048},
}
_TASKS: Schema = {"type": "array", "items": {"type": "object", "properties": {"id": ID, "data": OBJECT}}}
# Of this package's own server. Who adds routes adds theirs with `add_operations`.
OPERATIONS: dict[str, Operation] = {
    "GET /": Operation("that it is up"),
    "GET /health": Operation("that it is up"),
    "GET /openapi.json": Operation("this description", "basic"),
    "GET /metrics": Operation("metrics", "basic", {200: "text/plain"}),
    "GET /is_training": Operation("whether a round is being trained", "basic", query={"project": TEXT}),
    "GET /crops/<token>.jpg": Operation(
        "a mask with context", "token", {200: "image/*"}, query={**_VIEW, "fill": {"enum": ["0", "1"]}}
    ),
    "GET /sheets/<token>.jpg": Operation(
        "all crops of a page in one picture", "token", {200: "image/*"}, query={"fill": {"enum": ["0", "1"]}}
    ),
    "GET /images/<token>": Operation(
        "an image", "token", {200: "*/*", 206: "*/*", 304: "*/*"}, (412, 416),
        {"bright": {"enum": ["1"]}, "window": TEXT},
    ),
    "GET /parts/<token>.jpg": Operation("a part of an image with the dataset's masks", "token", {200: "image/*"}),
    "POST /webhook": Operation(
        "an event of Label Studio", "webhook", {201: "application/json"}, (413, 503),
        body={"type": "object", "required": ["action"], "properties": {"action": TEXT, "project": OBJECT}},
    ),
    "POST /setup": Operation(
        "tells how a project is reached", "basic", others=(413,),
        body={
            "type": "object",
            "properties": {"project": TEXT, "schema": TEXT, "hostname": TEXT, "access_token": TEXT},
        },
    ),
    "POST /predict": Operation(
        "predictions for tasks", "basic", others=(413,),
        body={
            "type": "object",
            "required": ["tasks"],
            "properties": {"tasks": _TASKS, "project": TEXT, "label_config": TEXT, "params": OBJECT},
        },
    ),
}  # fmt: skip


def add_operations(app: Flask, operations: Mapping[str, Operation]) -> None:
    """Adds what routes of others do, each by its method and address, as in "GET /lead/"."""
    app.extensions.setdefault(EXTENSION, {}).update(operations)


def describe(app: Flask) -> dict[str, Any]:
    """The OpenAPI description of an application's routes. Raises KeyError for a route of which nothing is known."""
    known = OPERATIONS | app.extensions.get(EXTENSION, {})
    paths: dict[str, dict[str, Any]] = {}
    for rule in app.url_map.iter_rules():
        address = re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)
        plain = re.sub(r"<\w+:(\w+)>", r"<\1>", rule.rule)
        kinds = dict((name, kind) for kind, name in re.findall(r"<(?:(\w+):)?(\w+)>", rule.rule))
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            operation = known[f"{method} {plain}"]
            paths.setdefault(address, {})[method.lower()] = _described(operation, rule.endpoint, method, kinds)
    try:
        release = version("label-studio-cluster-verification")
    except PackageNotFoundError:
        release = "0"
    return {
        "openapi": "3.1.0",
        "info": {"title": "Cluster verification beside Label Studio", "version": release},
        "paths": dict(sorted(paths.items())),
        "components": {"securitySchemes": SECURITY},
    }


def _described(operation: Operation, endpoint: str, method: str, kinds: Mapping[str, str]) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": ID if kind == "id" else TEXT}
        for name, kind in kinds.items()
    ]
    parameters += [{"name": name, "in": "query", "schema": schema} for name, schema in operation.query.items()]
    described: dict[str, Any] = {
        "operationId": f"{endpoint}.{method.lower()}",
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {
            **{str(status): {"description": "", "content": {kind: {}}} for status, kind in operation.answers.items()},
            **{
                str(status): {"description": ""}
                for status in sorted({*REFUSALS[operation.security], *operation.others})
                if status not in operation.answers
            },
        },
    }
    if operation.security in SECURITY:
        schemes = [operation.security, "basic"] if operation.security == "webhook" else [operation.security]
        described["security"] = [{scheme: []} for scheme in schemes]
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": operation.body}}}
    if operation.form is not None:
        schema = {"type": "object", "properties": {"token": TEXT, **operation.form}}
        described["requestBody"] = {"content": {"application/x-www-form-urlencoded": {"schema": schema}}}
    return described
