"""The web server beside Label Studio: crops for its pages, the ML backend protocol, webhooks and metrics.

| route | who may | what |
| --- | --- | --- |
| GET /crops/<token>.jpg | holder of the token | a mask with context; `?fill=0`, `?view=image` or `edit`, `?size=` |
| GET /images/<token> | holder of the token | an image as it was stored; `?bright=1` where dark, `&window=` a part |
| GET /health, / | anyone | that it is up |
| POST /setup, /predict | Label Studio | the ML backend protocol |
| POST /webhook | Label Studio | annotation events, "Start training" |
| GET /is_training, /metrics | Label Studio, Prometheus | training status, metrics |

It knows nothing of campaigns: where masks lie, what an event leads to and which model predicts is given to it.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol

from flask import Flask, Response, abort, g, jsonify, request, send_file
from werkzeug.exceptions import HTTPException

from ml_backend.errors import InputError
from ml_backend.masks.editing import cut_image, edit_window, whole_image
from ml_backend.masks.images import media_type
from ml_backend.masks.rendering import CropStyle, ImageCache, render_crop, render_whole
from ml_backend.server.backend import Backend, project_number
from ml_backend.server.metrics import Metrics
from ml_backend.server.signing import Kind, TokenError, read

log = logging.getLogger(__name__)

SECRET_HEADER = "X-Campaign-Secret"
MAX_BODY = 64 << 20
# Label Studio sends each task's annotations and older predictions with it, and all tasks at once.
MAX_PREDICT_BODY = 512 << 20
MAX_SIDE = 2048
MAX_NAME = 64  # characters of "<id>.<time of creation>"
CROP_SECONDS = 24 * 3600  # for which a browser may keep a crop


@dataclass(frozen=True)
class MaskView:
    """What a crop is drawn from: the image's file, the box (x, y, width, height) and the RLE {"size", "counts"}."""

    path: str | Path
    box: tuple[float, float, float, float]
    rle: dict


class CropSource(Protocol):
    """Where the masks and images lie that this server shows."""

    def mask(self, mask_id: int) -> MaskView:
        """The mask with this id. Raises KeyError where there is none."""
        ...

    def image(self, image_id: int) -> str | Path:
        """The file of the image with this id. Raises KeyError where there is none."""
        ...


def create_app(
    source: CropSource | None = None,
    *,
    secret: str = "",
    backend: Backend | None = None,
    on_event: Callable[[str, dict[str, Any]], None] | None = None,
    training: Callable[[int], dict[str, Any]] | None = None,
    queue_depth: Callable[[], int] | None = None,
    basic_auth: tuple[str, str] | None = None,
    this_machine: bool | None = None,
    webhook_secret: str | None = None,
    image_cache_bytes: int = 512 << 20,
    max_body: int = MAX_BODY,
    max_predict_body: int = MAX_PREDICT_BODY,
) -> Flask:
    """The server as a WSGI application; run it with one process and several threads.

    source: masks and images to show. secret: signs their addresses (`ml_backend.server.signing`). backend: answers
    /setup and /predict, which are 404 without one. on_event(action, payload): takes a webhook's event and must return
    at once. training(project id): what /is_training tells, {"is_training": bool, ...}. queue_depth: jobs that wait, for
    the metrics. basic_auth: (user, password) asked of Label Studio. this_machine: whether programs on this machine
    need none; by default where there is none to ask for, and then nobody else is let in. webhook_secret: what
    `X-Campaign-Secret` must hold in webhooks. max_body: the largest request in bytes,
    max_predict_body: of /predict, for those who may ask.
    """
    if source is not None and not secret:
        raise InputError("secret", "at least one character", "none")
    # They log the addresses of images, with what is signed in them; where TLS fails the first does so as an error.
    for name, level in (
        ("label_studio_sdk", logging.CRITICAL),
        ("httpx", logging.WARNING),
        ("urllib3", logging.WARNING),
    ):
        logging.getLogger(name).setLevel(level)
    app = Flask("ml_backend", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = max_body
    metrics = backend.metrics if backend else Metrics()
    if queue_depth is not None:
        metrics.measure_queue(queue_depth)
    app.extensions["campaign_metrics"] = metrics
    _measure(app, metrics)
    _answer_errors(app)
    if source is not None:
        _add_pictures(app, source, secret, ImageCache(image_cache_bytes))

    trusted = basic_auth is None if this_machine is None else this_machine

    def let_in() -> None:
        if not _is_let_in(basic_auth, trusted):
            _refuse()

    @app.get("/health")
    @app.get("/")
    def health() -> Response:
        return jsonify({"status": "UP"})

    @app.get("/metrics")
    def show_metrics() -> Response:
        let_in()
        if backend is not None:
            metrics.model.info({"version": backend.model.version})
        return Response(metrics.text(), mimetype="text/plain; version=0.0.4")

    @app.get("/is_training")
    def is_training() -> Response:
        let_in()
        return jsonify(training(project_number(request.args.get("project"))) if training else {"is_training": False})

    @app.post("/webhook")
    def webhook() -> tuple[Response, int]:
        given = request.headers.get(SECRET_HEADER, "")
        # The webhooks that we register carry the secret, Label Studio's own "Start training" basic auth at most.
        is_ours = bool(webhook_secret) and hmac.compare_digest(given.encode(), (webhook_secret or "").encode())
        if not is_ours:
            let_in()
        payload = _body()
        action = payload.get("action")
        if not is_ours and webhook_secret and action != "START_TRAINING" and not _is_let_in(basic_auth, False):
            _refuse()
        if not isinstance(action, str) or not action:
            abort(400, "action: expected the name of an event, got none")
        known = action in ACTIONS
        metrics.events.labels(action if known else "other").inc()
        if action == "START_TRAINING" and backend is not None and backend.train is not None:
            project = payload.get("project")
            try:
                backend.train(project_number(project.get("id") if isinstance(project, dict) else project))
            except InputError as error:
                log.warning("training was not started: %s", error)
                return _error(503, "training cannot be started now, see the server's log"), 503
        elif known and on_event is not None:
            on_event(action, payload)
        return jsonify({"status": "queued" if known else "ignored"}), 201

    if backend is not None:
        _add_protocol(app, backend, let_in, max_predict_body)
    return app


# What Label Studio may tell; anything else is answered, so that it is not sent again, and ignored.
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


def _add_protocol(app: Flask, backend: Backend, let_in: Callable[[], None], max_predict_body: int) -> None:
    @app.post("/setup")
    def setup() -> Response:
        let_in()
        body = _body()
        hostname, token = str(body.get("hostname") or ""), str(body.get("access_token") or "")
        if hostname or token:
            backend.set_up(_project(body), hostname, token)
        return jsonify({"model_version": backend.model.version})

    @app.post("/predict")
    def predict() -> Response:
        let_in()
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


def _add_pictures(app: Flask, source: CropSource, secret: str, cache: ImageCache) -> None:
    @app.get("/crops/<token>.jpg")
    def crop(token: str) -> Response:
        view = _found(source.mask, _key(secret, "crop", token))
        whole = request.args.get("view") == "image"
        style = CropStyle(size=1280 if whole else 256)
        size = request.args.get("size", type=int)
        if size is not None:
            style = CropStyle(size=min(max(size, 32), MAX_SIDE))
        if request.args.get("fill") == "0":
            style = CropStyle(size=style.size, fill=0)
        image = cache.get(view.path)
        height, width = image.shape[:2]
        if request.args.get("view") == "edit":
            part = cut_image(image, edit_window(view.box, width, height))
            return Response(part, mimetype="image/png", headers=_public(CROP_SECONDS))
        if [height, width] != [int(v) for v in view.rle["size"]]:
            raise InputError("image", f"{view.rle['size'][1]}x{view.rle['size'][0]} as its mask", f"{width}x{height}")
        picture = (
            render_whole(image, view.box, view.rle, style) if whole else render_crop(image, view.box, view.rle, style)
        )
        return Response(picture, mimetype="image/jpeg", headers=_public(CROP_SECONDS))

    @app.get("/images/<token>")
    def image(token: str) -> Response:
        path = Path(_found(source.image, _key(secret, "image", token)))
        if not path.is_file():
            abort(404)
        if request.args.get("bright") == "1":
            picture = cache.get(path)
            if window := request.args.get("window"):
                part = cut_image(picture, _window(window, picture.shape[1], picture.shape[0]))
                return Response(part, mimetype="image/png", headers=_public(CROP_SECONDS))
            return Response(whole_image(picture), mimetype="image/jpeg", headers=_public(CROP_SECONDS))
        answer = send_file(path, mimetype=media_type(path), conditional=True)
        answer.headers.update(_public(CROP_SECONDS))
        return answer


def _key(secret: str, kind: Kind, token: str) -> int:
    try:
        return int(read(secret, kind, token))
    except (TokenError, ValueError):
        abort(403)


def _window(text: str, width: int, height: int) -> tuple[int, int, int, int]:
    """A part "x0,y0,x1,y1" of an image, in pixels."""
    parts = text.split(",")
    if len(parts) != 4 or not all(part.isdigit() for part in parts):
        abort(400, "window: expected x0,y0,x1,y1, got something else")
    x0, y0, x1, y1 = (int(part) for part in parts)
    if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        abort(400, f"window: expected one inside {width}x{height}, got {text[:40]}")
    return x0, y0, x1, y1


def _found(find: Callable[[int], Any], key: int) -> Any:
    try:
        return find(key)
    except KeyError:
        abort(404)


def _public(seconds: int) -> dict[str, str]:
    return {
        "Cache-Control": f"private, max-age={seconds}",
        # Label Studio paints on a canvas, which needs this; the token in the address is the permission.
        "Access-Control-Allow-Origin": "*",
        # Images come from others, and the lead's page has the same origin.
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
    }


def _refuse() -> NoReturn:
    abort(Response("Unauthorized", 401, {"WWW-Authenticate": 'Basic realm="campaign"'}))


def _is_let_in(basic_auth: tuple[str, str] | None, this_machine: bool) -> bool:
    given = request.authorization
    if basic_auth is None or (given is None and "Authorization" not in request.headers):
        return this_machine and _is_from_this_machine()
    if given is None or given.type != "basic":
        return False
    pairs = zip(basic_auth, (given.username or "", given.password or ""), strict=True)
    # Both are compared, whatever the first gives, so that the time tells nothing.
    return all([hmac.compare_digest(want.encode(), got.encode()) for want, got in pairs])


def _is_from_this_machine() -> bool:
    """Whether a program here asks by itself: not a proxy for others, nor a page under another host's name."""
    forwarded = any(name in request.headers for name in ("Forwarded", "X-Forwarded-For", "X-Real-IP"))
    host = re.sub(r":\d*$", "", request.host).strip("[]")
    return not forwarded and _is_loopback(request.remote_addr or "") and (host == "localhost" or _is_loopback(host))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _body(each: Callable[[dict], dict] | None = None) -> dict[str, Any]:
    """The JSON object of the request; `each` takes every object in it as it is read, and gives what to keep."""
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


def _slim(found: dict) -> dict:
    """A task without what was annotated and predicted before, which is nearly all of it and which nobody here needs."""
    if "data" in found:
        for key in ("annotations", "predictions", "drafts"):
            found.pop(key, None)
    return found


def _measure(app: Flask, metrics: Metrics) -> None:
    @app.before_request
    def begin() -> None:
        g.begin = time.perf_counter()

    @app.after_request
    def end(response: Response) -> Response:
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
