"""Crops of masks and whole images over HTTP, for whoever holds the address that was made for one.

What a page shows is drawn together (`ml_backend.server.sheets`), and a part of an image is returned at the end of a
span of time: how long a picture takes tells nothing of where its image lies, or what was cached.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flask import Flask, Response, abort, request, send_file

from label_config.configs import PALETTE
from ml_backend.errors import InputError
from ml_backend.masks.editing import cut_image, edit_window, whole_image
from ml_backend.masks.fetched import present
from ml_backend.masks.images import media_type
from ml_backend.masks.rendering import CropStyle, ImageCache, render_part
from ml_backend.server.sheets import SIDES, MaskView, PageSource, Sheets
from ml_backend.server.signing import Grant, Kind, TokenError, read

__all__ = ["CropSource", "MaskView", "PartView", "add_pictures"]

MAX_SIDE = SIDES[-1]
PART_SECONDS = 0.25  # parts of images are returned after a whole number of these
CROP_SECONDS = 24 * 3600  # for which a browser may keep a crop


@dataclass(frozen=True)
class PartView:
    """What a part of an image is drawn from: the file, the window x0, y0, x1, y1, and masks.

    `masks` are (RLE {"size", "counts"}, number of its class from 0).
    """

    path: str | Path
    window: tuple[int, int, int, int]
    masks: Sequence[tuple[dict, int]]


class CropSource(PageSource, Protocol):
    """Where the masks and images lie that this server shows."""

    def image(self, image_id: int) -> str | Path:
        """The file of the image with this id. Raises KeyError where there is none."""
        ...

    def part(self, number: int) -> PartView:
        """The part of an image with this number. Raises KeyError where there is none."""
        ...


def add_pictures(
    app: Flask,
    source: CropSource,
    secret: str,
    cache: ImageCache,
    sheets: Sheets,
    shown: Callable[[int], None] | None = None,
) -> None:
    """Adds the routes of pictures, whose addresses `secret` signs; `shown` is told of pages that are drawn on."""

    @app.get("/crops/<token>.jpg")
    def crop(token: str) -> Response:
        grant = _grant(secret, "crop", token)
        if request.args.get("view") == "edit":
            if grant.page:
                sheets.crop(grant, False, CropStyle())  # of a page with several masks none is drawn alone
            view = _found(source.mask, grant.key)
            if shown is not None and grant.page:
                shown(grant.page)
            image = cache.get(view.path)
            part = cut_image(image, edit_window(view.box, image.shape[1], image.shape[0]))
            return Response(part, mimetype="image/png", headers=_public(CROP_SECONDS))
        picture = sheets.crop(grant, request.args.get("view") == "image", _style())
        return Response(picture, mimetype="image/jpeg", headers=_public(CROP_SECONDS))

    @app.get("/sheets/<token>.jpg")
    def sheet(token: str) -> Response:
        style = CropStyle(fill=0) if request.args.get("fill") == "0" else CropStyle()
        picture = sheets.sheet(_grant(secret, "sheet", token).key, style)
        return Response(picture, mimetype="image/jpeg", headers=_public(CROP_SECONDS))

    @app.get("/images/<token>")
    def image(token: str) -> Response:
        path = present(_found(source.image, _grant(secret, "image", token).key))
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

    _add_parts(app, source, secret, cache)


def _add_parts(app: Flask, source: CropSource, secret: str, cache: ImageCache) -> None:
    @app.get("/parts/<token>.jpg")
    def part(token: str) -> Response:
        begin = time.monotonic()
        view = _found(source.part, _grant(secret, "part", token).key)
        picture = cache.get(view.path)
        height, width = picture.shape[:2]
        x0, y0, x1, y1 = view.window
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise InputError("image", f"one that holds {view.window}", f"{width}x{height}")
        drawn = render_part(picture, view.window, [(rle, class_colour(number)) for rle, number in view.masks])
        took = time.monotonic() - begin
        time.sleep(PART_SECONDS * math.ceil(took / PART_SECONDS) - took)
        return Response(drawn, mimetype="image/jpeg", headers=_public(CROP_SECONDS))


def _style() -> CropStyle:
    """How the request wants its crop drawn."""
    size = request.args.get("size", type=int)
    style = CropStyle(size=1280 if request.args.get("view") == "image" else 256)
    if size is not None:
        style = CropStyle(size=min(max(size, 32), MAX_SIDE))
    return CropStyle(size=style.size, fill=0) if request.args.get("fill") == "0" else style


def class_colour(number: int) -> tuple[int, int, int]:
    """Blue, green and red of the class with this number, from 0: the colour that its label has on the screen."""
    red, green, blue = bytes.fromhex(PALETTE[number % len(PALETTE)][1:])
    return blue, green, red


def _grant(secret: str, kind: Kind, token: str) -> Grant:
    try:
        grant = read(secret, kind, token)
    except (TokenError, ValueError):
        abort(403)
    if not 0 <= grant.key < 1 << 63:  # as no database numbers anything
        abort(404)
    return grant


def _window(text: str, width: int, height: int) -> tuple[int, int, int, int]:
    """A part "x0,y0,x1,y1" of an image, in pixels."""
    parts = text.split(",")
    if len(parts) != 4 or not all(re.fullmatch("[0-9]{1,9}", part) for part in parts):
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
