"""Crops of masks and whole images over HTTP, for whoever holds the address that was made for one.

What a page shows is drawn together, whichever of its crops is asked for first, and a part of an image is returned at
the end of a span of time: how long a picture takes tells nothing of where its image lies, or what was cached.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from flask import Flask, Response, abort, request, send_file
from werkzeug.exceptions import HTTPException

from label_config.configs import PALETTE
from ml_backend.errors import InputError
from ml_backend.masks.editing import cut_image, edit_window, whole_image
from ml_backend.masks.images import media_type
from ml_backend.masks.rendering import CropStyle, ImageCache, render_crop, render_part, render_whole
from ml_backend.server.signing import Grant, Kind, TokenError, read

MAX_SIDE = 2048
SIZES = (256, 512, 768, 1280, MAX_SIDE)  # in which the crops of a page are drawn
DRAWN_BYTES = 64 << 20  # of crops that are kept for the rest of their page
PART_SECONDS = 0.25  # parts of images are returned after a whole number of these
CROP_SECONDS = 24 * 3600  # for which a browser may keep a crop


@dataclass(frozen=True)
class MaskView:
    """What a crop is drawn from: the image's file, the box (x, y, width, height) and the RLE {"size", "counts"}."""

    path: str | Path
    box: tuple[float, float, float, float]
    rle: dict


@dataclass(frozen=True)
class PartView:
    """What a part of an image is drawn from: the file, the window x0, y0, x1, y1, and masks.

    `masks` are (RLE {"size", "counts"}, number of its class from 0).
    """

    path: str | Path
    window: tuple[int, int, int, int]
    masks: Sequence[tuple[dict, int]]


class CropSource(Protocol):
    """Where the masks and images lie that this server shows."""

    def mask(self, mask_id: int) -> MaskView:
        """The mask with this id. Raises KeyError where there is none."""
        ...

    def page(self, number: int) -> Sequence[int]:
        """The masks on the page of this number, in any order that is always the same; none for an unknown one."""
        ...

    def image(self, image_id: int) -> str | Path:
        """The file of the image with this id. Raises KeyError where there is none."""
        ...

    def part(self, number: int) -> PartView:
        """The part of an image with this number. Raises KeyError where there is none."""
        ...


def add_pictures(app: Flask, source: CropSource, secret: str, cache: ImageCache) -> None:
    """Adds the routes of pictures, whose addresses `secret` signs."""
    sheets = _Sheets(source, cache)

    @app.get("/crops/<token>.jpg")
    def crop(token: str) -> Response:
        grant = _grant(secret, "crop", token)
        if request.args.get("view") == "edit":
            if grant.page:
                sheets.get(grant, False, CropStyle())  # of a page with several masks none is drawn alone
            view = _found(source.mask, grant.key)
            image = cache.get(view.path)
            part = cut_image(image, edit_window(view.box, image.shape[1], image.shape[0]))
            return Response(part, mimetype="image/png", headers=_public(CROP_SECONDS))
        picture = sheets.get(grant, request.args.get("view") == "image", _style())
        return Response(picture, mimetype="image/jpeg", headers=_public(CROP_SECONDS))

    @app.get("/images/<token>")
    def image(token: str) -> Response:
        path = Path(_found(source.image, _grant(secret, "image", token).key))
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


@dataclass
class _Sheets:
    """Crops, those of one page drawn together. Safe between threads; several that ask for a page draw it once."""

    source: CropSource
    cache: ImageCache
    _drawn: OrderedDict[tuple[int, bool, CropStyle], dict[int, bytes | Exception]] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _drawing: dict[tuple[int, bool, CropStyle], threading.Lock] = field(default_factory=dict)

    def get(self, grant: Grant, whole: bool, style: CropStyle) -> bytes:
        """The crop of a mask on its page. Aborts with 404 where there is no such mask; raises InputError."""
        if not grant.page:
            return self._draw(grant.key, whole, style)
        # A size of one's own would have a crop drawn alone, and its time measured.
        style = CropStyle(size=next(side for side in SIZES if side >= style.size), fill=style.fill)
        key = grant.page, whole, style
        with self._lock:
            sheet = self._drawn.get(key)
            if sheet is None:
                drawing = self._drawing.setdefault(key, threading.Lock())
        if sheet is None:
            with drawing:
                with self._lock:
                    sheet = self._drawn.get(key)
                if sheet is None:
                    sheet = {mask: self._attempt(mask, whole, style) for mask in self.source.page(grant.page)}
                    self._keep(key, sheet)
        picture = sheet[grant.key] if grant.key in sheet else abort(404)
        if isinstance(picture, Exception):
            raise picture
        return picture

    def _keep(self, key: tuple[int, bool, CropStyle], sheet: dict[int, bytes | Exception]) -> None:
        with self._lock:
            self._drawing.pop(key, None)
            self._drawn[key] = sheet
            self._bytes += _size(sheet)
            while self._bytes > DRAWN_BYTES and len(self._drawn) > 1:
                self._bytes -= _size(self._drawn.popitem(last=False)[1])

    def _attempt(self, mask_id: int, whole: bool, style: CropStyle) -> bytes | Exception:
        """A crop, or what keeps it from being shown: that is for whoever asks for this one."""
        try:
            return self._draw(mask_id, whole, style)
        except (InputError, HTTPException) as error:
            return error

    def _draw(self, mask_id: int, whole: bool, style: CropStyle) -> bytes:
        view = _found(self.source.mask, mask_id)
        image = self.cache.get(view.path)
        height, width = image.shape[:2]
        if [height, width] != [int(v) for v in view.rle["size"]]:
            raise InputError("image", f"{view.rle['size'][1]}x{view.rle['size'][0]} as its mask", f"{width}x{height}")
        return (render_whole if whole else render_crop)(image, view.box, view.rle, style)


def _size(sheet: dict[int, bytes | Exception]) -> int:
    return sum(len(picture) for picture in sheet.values() if isinstance(picture, bytes))


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
