"""The crops of pages: those of one page drawn together, kept for the rest of the page, and drawn before it is opened.

What a page shows is drawn whole, whichever of its crops is asked for first, and pages are drawn ahead and dropped as
wholes: how long a crop takes tells nothing of where its image lies, or what was cached.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from flask import abort
from werkzeug.exceptions import HTTPException

from ml_backend.errors import InputError
from ml_backend.masks.rendering import CropStyle, ImageCache, Tile, render_crop, render_sheet, render_whole
from ml_backend.server.signing import Grant

log = logging.getLogger(__name__)

SIDES = (256, 512, 768, 1280, 2048)  # in which the crops of a page are drawn
DRAWN_BYTES = 64 << 20  # of pictures that are kept, by default
LOOK_SECONDS = 5.0  # pause between two looks for pages that came since
_JOINED = 0  # under this number the picture of all crops of a page is kept, which masks have from 1 on


@dataclass(frozen=True)
class MaskView:
    """What a crop is drawn from: the image's file, the box (x, y, width, height) and the RLE {"size", "counts"}."""

    path: str | Path
    box: tuple[float, float, float, float]
    rle: dict


class PageSource(Protocol):
    """Where the masks of pages lie, and which pages come next."""

    def mask(self, mask_id: int) -> MaskView:
        """The mask with this id. Raises KeyError where there is none."""
        ...

    def page(self, number: int) -> Sequence[int]:
        """The masks on the page of this number, in the order in which it shows them; none for an unknown one."""
        ...

    def following(self, number: int | None, count: int) -> Sequence[int]:
        """Pages with a sheet that are likely opened after this one, or first of all; `count` of them at most."""
        ...


@dataclass(frozen=True)
class _Key:
    """What is drawn together: the crops of a page, each by itself or, `joined`, as one picture; each in a style."""

    page: int
    whole: bool
    joined: bool
    style: CropStyle


Drawn = dict[int, "bytes | Exception"]


class Sheets:
    """Crops, those of one page drawn together. Safe between threads; several that ask for a page draw it once.

    limit: bytes of pictures that are kept, the least recently used pages dropped beyond it.
    """

    def __init__(self, source: PageSource, cache: ImageCache, limit: int = DRAWN_BYTES):
        self.source, self.cache, self.limit = source, cache, limit
        self._drawn: OrderedDict[_Key, Drawn] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._drawing: dict[_Key, threading.Lock] = {}
        self._opened: int | None = None
        self._news = threading.Event()

    def crop(self, grant: Grant, whole: bool, style: CropStyle) -> bytes:
        """The crop of a mask on its page. Aborts with 404 where there is no such mask; raises InputError."""
        if not grant.page:
            return self._draw(grant.key, whole, style)
        # A size of one's own would have a crop drawn alone, and its time measured.
        style = CropStyle(size=next(side for side in SIDES if side >= style.size), fill=style.fill)
        drawn = self._get(_Key(grant.page, whole, False, style))
        picture = drawn[grant.key] if grant.key in drawn else abort(404)
        if isinstance(picture, Exception):
            raise picture
        return picture

    def sheet(self, page: int, style: CropStyle) -> bytes:
        """All crops of a page in one picture. Aborts with 404 where there is no such page."""
        self._opened = max(page, self._opened or 0)
        self._news.set()
        picture = self._get(_Key(page, False, True, style)).get(_JOINED)
        return picture if isinstance(picture, bytes) else abort(404)

    def draw_ahead(self, pages: int) -> None:
        """Has the sheets of so many pages after the newest opened one drawn from now on, before they are asked for."""
        # It holds the pictures no longer than their server does.
        target, known = _draw_ahead, weakref.ref(self)
        threading.Thread(target=target, args=(known, self._news, pages), name="pages-ahead", daemon=True).start()

    def draw_following(self, pages: int) -> None:
        """Draws the sheets of so many pages after the newest opened one, as far as they are not kept."""
        for number in self.source.following(self._opened, pages):
            self._get(_Key(number, False, True, CropStyle()))

    def _get(self, key: _Key) -> Drawn:
        with self._lock:
            if (drawn := self._drawn.get(key)) is not None:
                self._drawn.move_to_end(key)
                return drawn
            drawing = self._drawing.setdefault(key, threading.Lock())
        with drawing:
            with self._lock:
                drawn = self._drawn.get(key)
            if drawn is None:
                drawn = self._draw_page(key)
                self._keep(key, drawn)
            return drawn

    def _keep(self, key: _Key, drawn: Drawn) -> None:
        with self._lock:
            self._drawing.pop(key, None)
            self._drawn[key] = drawn
            self._bytes += _size(drawn)
            while self._bytes > self.limit and len(self._drawn) > 1:
                self._bytes -= _size(self._drawn.popitem(last=False)[1])

    def _draw_page(self, key: _Key) -> Drawn:
        masks = self.source.page(key.page)
        if not key.joined:
            return {mask: self._attempt(lambda m=mask: self._draw(m, key.whole, key.style)) for mask in masks}  # type: ignore[misc]
        if not masks:
            return {}
        tiles = [self._attempt(lambda m=mask: self._tile(m)) for mask in masks]  # type: ignore[misc]
        return {_JOINED: render_sheet([tile if isinstance(tile, Tile) else None for tile in tiles], key.style)}

    def _attempt(self, draw: Callable[[], Any]) -> Any:
        """A crop, or what keeps it from being shown: that is for whoever asks for this one."""
        try:
            return draw()
        except (InputError, HTTPException) as error:
            return error

    def _tile(self, mask_id: int) -> Tile:
        try:
            view = self.source.mask(mask_id)
        except KeyError:
            abort(404)
        image = self.cache.get(view.path)
        height, width = image.shape[:2]
        if [height, width] != [int(v) for v in view.rle["size"]]:
            raise InputError("image", f"{view.rle['size'][1]}x{view.rle['size'][0]} as its mask", f"{width}x{height}")
        return Tile(image, view.box, view.rle)

    def _draw(self, mask_id: int, whole: bool, style: CropStyle) -> bytes:
        tile = self._tile(mask_id)
        return (render_whole if whole else render_crop)(tile.image, tile.box, tile.rle, style)


def _draw_ahead(known: Callable[[], Sheets | None], news: threading.Event, pages: int) -> None:
    """Draws what follows when a page is opened, and looks from time to time whether pages came."""
    while (sheets := known()) is not None:
        news.clear()
        try:
            sheets.draw_following(pages)
        except Exception as error:
            # A page that cannot be drawn now is drawn, or refused, when it is asked for.
            log.warning("pages are not drawn ahead: %s: %s", type(error).__name__, error)
            time.sleep(LOOK_SECONDS)
        del sheets
        news.wait(LOOK_SECONDS)


def _size(drawn: Drawn) -> int:
    return sum(len(picture) for picture in drawn.values() if isinstance(picture, bytes))
