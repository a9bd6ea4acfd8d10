"""Crops of masks and whole images over HTTP, for whoever holds the address that was signed for one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flask import Flask, Response, abort, request, send_file

from label_config.configs import PALETTE
from ml_backend.errors import InputError
from ml_backend.masks.editing import cut_image, edit_window, whole_image
from ml_backend.masks.images import media_type
from ml_backend.masks.rendering import CropStyle, ImageCache, render_crop, render_part, render_whole
from ml_backend.server.signing import Kind, TokenError, read

MAX_SIDE = 2048
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

    def image(self, image_id: int) -> str | Path:
        """The file of the image with this id. Raises KeyError where there is none."""
        ...

    def part(self, number: int) -> PartView:
        """The part of an image with this number. Raises KeyError where there is none."""
        ...


def add_pictures(app: Flask, source: CropSource, secret: str, cache: ImageCache) -> None:
    """Adds the routes of pictures, whose addresses `secret` signs."""

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

    _add_parts(app, source, secret, cache)


def _add_parts(app: Flask, source: CropSource, secret: str, cache: ImageCache) -> None:
    @app.get("/parts/<token>.jpg")
    def part(token: str) -> Response:
        view = _found(source.part, _key(secret, "part", token))
        picture = cache.get(view.path)
        height, width = picture.shape[:2]
        x0, y0, x1, y1 = view.window
        if not (0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
            raise InputError("image", f"one that holds {view.window}", f"{width}x{height}")
        drawn = render_part(picture, view.window, [(rle, class_colour(number)) for rle, number in view.masks])
        return Response(drawn, mimetype="image/jpeg", headers=_public(CROP_SECONDS))


def class_colour(number: int) -> tuple[int, int, int]:
    """Blue, green and red of the class with this number, from 0: the colour that its label has on the screen."""
    red, green, blue = bytes.fromhex(PALETTE[number % len(PALETTE)][1:])
    return blue, green, red


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
