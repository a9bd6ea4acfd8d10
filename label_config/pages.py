"""Task data of each kind of page: what the labeling config of that name expects to be given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

# In the order of the crops on the page, row by row, as the keys lie on the keyboard.
HOTKEYS = "qwertasdfgzxcvb"
PAGE_SIZE = len(HOTKEYS)
NO_RULES = "<p>There are no rules for this class yet. Ask the lead where a mask leaves you in doubt.</p>"


@dataclass(frozen=True)
class Crop:
    """One question on a page: what the mask is called there, and the address of its crop on the ML backend's server."""

    name: str
    url: str


def page_data(
    key: str, class_name: str, crops: Sequence[Crop], *, title: str | None = None, rules: str = ""
) -> dict[str, Any]:
    """Data of one `verification` task of up to 15 crops; `rules` is HTML.

    Its answers: `wrong` holds the names of masks voted no, `doubt` those left unsure, `status` is "reviewed", or
    "unsure" for every mask not voted no. Raises ValueError for no crops, too many, or one mask twice.
    """
    if not 0 < len(crops) <= PAGE_SIZE or len({c.name for c in crops}) != len(crops):
        raise ValueError(f"page {key}: expected 1 to {PAGE_SIZE} different masks, got {[c.name for c in crops]}")
    keyed = list(zip(crops, HOTKEYS, strict=False))
    return {
        "key": key,
        "class_name": class_name,
        "title": title or f"Mark every mask that is not one whole {class_name}",
        "rules": rules or NO_RULES,
        "crops": [{"value": c.name, "hotkey": k, "html": _crop_html(c.url, k.upper())} for c, k in keyed],
        "doubts": [
            {
                "value": c.name,
                "hotkey": f"shift+{k}",
                "html": f"<span class='cv-mark' title='Unsure (Shift+{k.upper()})'>?</span>",
            }
            for c, k in keyed
        ],
    }


def single_data(key: str, class_name: str, url: str, *, title: str | None = None, rules: str = "") -> dict[str, Any]:
    """Data of one `single` task: one mask, close and in its whole image, to be answered yes, no or unsure."""
    return {
        "key": key,
        "class_name": class_name,
        "title": title or f"Is this mask one whole {class_name}?",
        "rules": rules or NO_RULES,
        "views": f"<div class='cs-views'>{_view(url, '?size=768')}{_view(url, '?view=image')}</div>",
    }


def edit_data(key: str, class_name: str, url: str, *, title: str | None = None, rules: str = "") -> dict[str, Any]:
    """Data of one `edit` task: the part of an image around a mask, which comes as a brush prediction to be corrected.

    `url` is the address of the mask's crop. `ml_backend.masks.editing` makes the prediction and reads the answer.
    """
    return {
        "key": key,
        "class_name": class_name,
        "image": f"{url}?view=edit",
        "title": title or f"Correct this {class_name}: click it, B paints, E erases",
        "rules": _folded(rules),
    }


def paint_data(
    key: str,
    image_url: str,
    *,
    window: tuple[int, int, int, int] | None = None,
    title: str | None = None,
    rules: str = "",
) -> dict[str, Any]:
    """Data of one `paint` task: an image, or its part x0, y0, x1, y1, on which every object is painted from scratch."""
    part = "" if window is None else "&window=" + ",".join(str(int(v)) for v in window)
    return {
        "key": key,
        "image": f"{image_url}?bright=1{part}",
        "title": title or "Paint every object, one region each",
        "rules": _folded(rules),
    }


def complete_data(key: str, url: str, *, title: str | None = None, rules: str = "") -> dict[str, Any]:
    """Data of one `complete` task: a part of an image with its masks drawn in, on which what has no mask is clicked.

    `url` is the address of that picture.
    """
    return {
        "key": key,
        "image": url,
        "title": title or "Is anything missing? Click each object without an outline",
        "rules": _folded(rules),
    }


def _crop_html(url: str, key: str) -> str:
    # The second and third picture are loaded only when their view is switched on.
    url = escape(url, quote=True)
    return (
        f"<span class='cv-crop'><img class='cv-fill' src='{url}' alt=''/>"
        f"<img class='cv-line' loading='lazy' src='{url}?fill=0' alt=''/>"
        f"<img class='cv-whole' loading='lazy' src='{url}?view=image&amp;size=512' alt=''/>"
        f"<kbd>{key}</kbd><a href='{url}?view=image' target='_blank' title='Whole image'>⤢</a></span>"
    )


def _folded(rules: str) -> str:
    return f"<details><summary>Rules</summary>{rules or NO_RULES}</details>"


def _view(url: str, query: str) -> str:
    url = escape(url, quote=True)
    return f"<a href='{url}{query}&amp;size=2048' target='_blank'><img src='{url}{query}' alt=''/></a>"
