"""What the pages of a demo show, written down for annotators without eyes.

A task says nothing of what its pictures show, so simulated annotators, who cannot look at pictures, are given a file
with a line of JSON for each page: {"key": its name, "masks": [{"name", "image", "rle"}]}, and for a page that asks what
is missing {"key", "image", "window", "masks": [{"class_name", "rle"}]}. Only a demo may write it: with it, held-out
images are as plain as day.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from campaign.derived.showing import task_name
from campaign.pages.completeness import shown_masks
from campaign.records.page import PageKind
from campaign.store import Store
from campaign.store import models as m

PAUSE = 0.2  # seconds between two looks for new pages
PATIENCE_SECONDS = 60.0  # for which a page is waited for


class Sight:
    """What the published pages of a campaign show."""

    def __init__(self, store: Store, patience: float = PATIENCE_SECONDS):
        self.store, self.patience = store, patience
        self._seen: dict[str, dict[str, Any]] = {}

    def __call__(self, key: str) -> dict[str, Any] | None:
        """What the page of this name shows; it is waited for a while. None where none of that name was published.

        Label Studio hands a page out as soon as it has it, which is before the campaign has noted it as published.
        """
        until = time.monotonic() + self.patience
        while key not in self._seen:
            self.look()
            if key in self._seen or time.monotonic() > until:
                break
            time.sleep(PAUSE)
        return self._seen.get(key)

    def look(self) -> list[dict[str, Any]]:
        """What pages show that were published since the last look."""
        new = [page for page in self.store.pages.rows(published=True) if task_name(page) not in self._seen]
        shown = [self.of(page) for page in new]
        self._seen |= {line["key"]: line for line in shown}
        return shown

    def of(self, page: m.Page) -> dict[str, Any]:
        """What a page shows, published or not."""
        return self._part(page) if page.kind == PageKind.COMPLETE else self._masks(page)

    def _masks(self, page: m.Page) -> dict[str, Any]:
        asked = self.store.questions.on_pages([page.key])
        masks = self.store.masks.read([a.mask_id for a in asked])
        images = self.store.images.some(masks.image_id.tolist())
        rows = zip(asked, masks.image_id.tolist(), masks.rles(), strict=True)
        lines = [
            {"name": a.name or str(a.mask_id), "image": images[i].file_name, "rle": _rle(rle)} for a, i, rle in rows
        ]
        return {"key": task_name(page), "masks": lines}

    def _part(self, page: m.Page) -> dict[str, Any]:
        place, classes = page.place or {}, self.store.classes()
        image = self.store.images.get(place["image_id"]).file_name
        masks = [{"class_name": classes[c], "rle": _rle(rle)} for c, rle in shown_masks(self.store, place)]
        return {"key": task_name(page), "image": image, "window": place["window"], "masks": masks}


def _rle(rle: dict[str, Any]) -> dict[str, Any]:
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}


@contextmanager
def written(store: Store, path: Path) -> Iterator[None]:
    """Writes what pages show into a file, of those that are published meanwhile too."""
    sight, over = Sight(Store.open(store.folder)), threading.Event()

    def write() -> None:
        with path.open("a", encoding="utf-8") as file:
            for line in sight.look():
                file.write(json.dumps(line) + "\n")

    def go_on() -> None:
        while not over.wait(PAUSE):
            write()

    path.write_text("", encoding="utf-8")
    write()
    thread = threading.Thread(target=go_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
