"""The web server beside Label Studio: crops for its pages, the ML backend protocol, webhooks and metrics.

| route | who may | what |
| --- | --- | --- |
| GET /crops/<token>.jpg | holder of the token | a mask with context; `?fill=0`, `?view=image` or `edit`, `?size=` |
| GET /sheets/<token>.jpg | holder of the token | all crops of a page in one picture; `?fill=0` |
| GET /images/<token> | holder of the token | an image as it was stored; `?bright=1` where dark, `&window=` a part |
| GET /parts/<token>.jpg | holder of the token | a part of an image with its masks drawn in |
| GET /health, / | anyone | that it is up |
| POST /setup, /predict | Label Studio | the ML backend protocol |
| POST /webhook | Label Studio | annotation events, "Start training" |
| GET /is_training, /metrics | Label Studio, Prometheus | training status, metrics |
| GET /openapi.json | as /metrics | these routes, as they are |

It knows nothing of campaigns: where masks lie, what an event leads to and which model predicts is passed to it.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flask import Flask, Response, abort, g, jsonify, request
from werkzeug.exceptions import HTTPException

from ml_backend.errors import InputError
from ml_backend.logs import say_about
from ml_backend.masks.rendering import ImageCache
from ml_backend.server.access import Access
from ml_backend.server.backend import Backend, project_number
from ml_backend.server.metrics import Metrics
from ml_backend.server.openapi import describe
from ml_backend.server.pictures import CropSource, MaskView, PartView, add_pictures
from ml_backend.server.sheets import DRAWN_BYTES, Sheets

log = logging.getLogger(__name__)

__all__ = ["ACTIONS", "Access", "CropSource", "Limits", "MaskView", "PartView", "create_app"]

REQUEST_HEADER = "X-Request-ID"  # of a proxy, or made here: it stands in the log beside what happened
MAX_NAME = 64  # characters of "<id>.<time of creation>"
# The events of Label Studio; anything else is answered, so that it is not sent again, and ignored.
ACTIONS = frozenset(
    {
        "START_TRAINING",
        "ANNOTATION_CREATED",
        "ANNOTATIONS_CREATED",
        "ANNOTATION_UPDATED",
        "ANNOTATIONS_UPDATED",
        "ANNOTATIONS_DELETED",
        "TASKS_CREATED",
        "TASKS_DELETED",
        "PROJECT_UPDATED",
        "PROJECT_DELETED",
    }
)


@dataclass(frozen=True)
class Limits:
    """What the server takes and holds, in bytes but for the last.

    body: the largest request. predict_body: of /predict, for those who may ask. images: decoded images in memory.
    crops: pictures of pages in memory. ahead: pages whose crops are drawn before anybody opens them.
    """

    body: int = 64 << 20
    # Label Studio sends each task's annotations and older predictions with it, and all tasks at once.
    predict_body: int = 512 << 20
    images: int = 512 << 20
    crops: int = DRAWN_BYTES
    ahead: int = 0


def create_app(
    source: CropSource | None = None,
    *,
    secret: str = "",
    backend: Backend | None = None,
    on_event: Callable[[str, dict[str, Any]], None] | None = None,
    training: Callable[[int], dict[str, Any]] | None = None,
    queue_depth: Callable[[], int] | None = None,
    access: Access | None = None,
    limits: Limits | None = None,
) -> Flask:
    """The server as a WSGI application; run it with one process and several threads.

    Args:
        source: masks and images to show.
        secret: signs their addresses (`ml_backend.server.signing`).
        backend: answers /setup and /predict, which are 404 without one.
        on_event: takes a webhook's (action, payload) and must return at once.
        training: what /is_training answers for a project's id, {"is_training": bool, ...}.
        queue_depth: jobs that wait, for the metrics.
        access: who may ask; by default nobody.
        limits: of requests and of memory.

    Raises InputError where there is a source and nothing to sign addresses with.
    """
    access, limits = access or Access(), limits or Limits()
    if source is not None and not secret:
        raise InputError("secret", "at least one character", "none")
    _quieten()
    app = Flask("ml_backend", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = limits.body
    metrics = backend.metrics if backend else Metrics()
    if queue_depth is not None:
        metrics.measure_queue(queue_depth)
    app.extensions["campaign_metrics"] = metrics
    _measure(app, metrics)
    _answer_errors(app)
    _add_status(app, access, metrics, backend, training)
    _add_webhook(app, access, metrics, backend, on_event)
    if source is not None:
        cache = ImageCache(limits.images)
        sheets = Sheets(source, cache, limits.crops)
        shown = backend.interactive.shown if backend is not None and backend.interactive is not None else None
        add_pictures(app, source, secret, cache, sheets, shown)
        if limits.ahead:
            sheets.draw_ahead(limits.ahead)
    if backend is not None:
        _add_protocol(app, access, backend, limits.predict_body)
    return app


def _quieten() -> None:
    """Keeps clients from logging the addresses of images, with what is signed in them."""
    for name, level in (
        ("label_studio_sdk", logging.CRITICAL),  # where TLS fails it does so as an error
        ("httpx", logging.WARNING),
        ("urllib3", logging.WARNING),
    ):
        logging.getLogger(name).setLevel(level)


def _add_status(
    app: Flask,
    access: Access,
    metrics: Metrics,
    backend: Backend | None,
    training: Callable[[int], dict[str, Any]] | None,
) -> None:
    @app.get("/health")
    @app.get("/")
    def health() -> Response:
        return jsonify({"status": "UP"})

    @app.get("/metrics")
    def show_metrics() -> Response:
        access.require()
        if backend is not None:
            metrics.model.info({"version": backend.model.version})
        return Response(metrics.text(), mimetype="text/plain; version=0.0.4")

    @app.get("/openapi.json")
    def show_description() -> Response:
        access.require()
        return jsonify(describe(app))

    @app.get("/is_training")
    def is_training() -> Response:
        access.require()
        return jsonify(training(project_number(request.args.get("project"))) if training else {"is_training": False})


def _add_webhook(
    app: Flask,
    access: Access,
    metrics: Metrics,
    backend: Backend | None,
    on_event: Callable[[str, dict[str, Any]], None] | None,
) -> None:
    @app.post("/webhook")
    def webhook() -> tuple[Response, int]:
        # The webhooks that we register carry the secret, Label Studio's own "Start training" basic auth at most.
        if not access.has_secret():
            access.require()
        payload = _body()
        action = payload.get("action")
        if action != "START_TRAINING":
            access.require_of_events()
        if not isinstance(action, str) or not action:
            abort(400, "action: expected the name of an event, got none")
        known = action in ACTIONS
        metrics.events.labels(action if known else "other").inc()
        if action == "START_TRAINING" and backend is not None and backend.train is not None:
            return _start_training(backend.train, payload.get("project"))
        if known and on_event is not None:
            on_event(action, payload)
        return jsonify({"status": "queued" if known else "ignored"}), 201


def _start_training(train: Callable[[int], None], project: Any) -> tuple[Response, int]:
    try:
        train(project_number(project.get("id") if isinstance(project, dict) else project))
    except InputError as error:
        log.warning("training was not started: %s", error)
        return _error(503, "training cannot be started now, see the server's log"), 503
    return jsonify({"status": "queued"}), 201


def _add_protocol(app: Flask, access: Access, backend: Backend, max_predict_body: int) -> None:
    @app.post("/setup")
    def setup() -> Response:
        access.require()
        body = _body()
        hostname, token = str(body.get("hostname") or ""), str(body.get("access_token") or "")
        if hostname or token:
            backend.set_up(_project(body), hostname, token)
        return jsonify({"model_version": backend.model.version})

    @app.post("/predict")
    def predict() -> Response:
        access.require()
        request.max_content_length = max_predict_body
        body = _body(_slim)
        tasks = body.get("tasks")
        if not isinstance(tasks, list):
            abort(400, "tasks: expected a list, got none")
        params = body.get("params")
        context = params.get("context") if isinstance(params, dict) else None
        answers = backend.answer(_project(body), str(body.get("label_config") or ""), tasks, context)
        return jsonify({"results": answers, "model_version": backend.model.version})


def _project(body: dict[str, Any]) -> str:
    return str(body.get("project") or "")[:MAX_NAME]


def _body(each: Callable[[dict], dict] | None = None) -> dict[str, Any]:
    """The JSON object of the request; `each` takes every object in it as it is read, and returns what to keep."""
    body = None
    if request.is_json:
        try:
            body = json.loads(request.get_data(cache=False), object_hook=each)
        except RecursionError:
            abort(400, "body: expected a JSON object, got one nested too deep")
        except ValueError:
            body = None
    if not isinstance(body, dict):
        abort(400, "body: expected a JSON object, got something else")
    return body


def _slim(item: dict) -> dict:
    """A task without what was annotated and predicted before, which is nearly all of it and which nobody here needs."""
    if "data" in item:
        for key in ("annotations", "predictions", "drafts"):
            item.pop(key, None)
    return item


def _measure(app: Flask, metrics: Metrics) -> None:
    @app.before_request
    def begin() -> None:
        g.begin = time.perf_counter()
        given = request.headers.get(REQUEST_HEADER, "")
        g.request_id = given if re.fullmatch(r"[\w.-]{1,64}", given, re.ASCII) else secrets.token_hex(8)
        say_about(request=g.request_id)

    @app.teardown_request
    def forget(_error: BaseException | None) -> None:
        say_about(request=None)

    @app.after_request
    def end(response: Response) -> Response:
        response.headers[REQUEST_HEADER] = g.get("request_id", "")
        route = request.url_rule.rule if request.url_rule else "none"
        metrics.requests.labels(route, str(response.status_code)).inc()
        metrics.latency.labels(route).observe(time.perf_counter() - g.get("begin", time.perf_counter()))
        return response


def _answer_errors(app: Flask) -> None:
    """Short answers: no traceback, no path. What happened stands in the log."""

    @app.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        if isinstance(error.response, Response):
            return error.response
        return _error(error.code or 500, error.name if error.code == 404 else error.description or error.name)

    @app.errorhandler(InputError)
    def unusable(error: InputError) -> Response:
        log.warning("%s: %s", request.url_rule, error)
        return _error(404, "the image cannot be shown")

    @app.errorhandler(Exception)
    def broken(_: Exception) -> Response:
        log.exception("%s failed", request.url_rule)
        return _error(500, "internal error, see the server's log")


def _error(status: int, what: str) -> Response:
    answer = jsonify({"error": what})
    answer.status_code = status
    return answer
