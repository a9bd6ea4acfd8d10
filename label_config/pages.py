"""Task data of each kind of page: what the labeling config of that name expects to be given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from label_config.languages import ENGLISH, Language, language

# In the order of the crops on the page, row by row, as the keys lie on the keyboard.
HOTKEYS = "qwertasdfgzxcvb"
PAGE_SIZE = len(HOTKEYS)


@dataclass(frozen=True)
class Crop:
    """One question on a page: what the mask is called there, and the address of its crop on the ML backend's server."""

    name: str
    url: str


@dataclass(frozen=True)
class Lesson:
    """What a practice page says of a mask once its answers are shown: whether it is correct, else why not."""

    correct: bool
    why: str = ""


def hotkeys(code: str = ENGLISH) -> str:
    """The keys of the crops of a page, in their order, as they lie on the keyboards of a language."""
    # Spelt out, as texts are found by reading this file.
    return language(code).pgettext("keys of the crops, row by row as they lie on the keyboard", "qwertasdfgzxcvb")


def page_data(
    key: str, class_name: str, crops: Sequence[Crop], *, title: str | None = None, rules: str = "",
    code: str = ENGLISH, sheet: str | None = None, ahead: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Data of one `verification` task of up to 15 crops in the language `code`; `rules` is HTML.

    `sheet` is the address of a picture of all crops, five in a row, which is loaded in place of each by itself; `ahead`
    are those of pages that may come next, which the browser loads once it has this one.

    Its answers: `wrong` holds the names of masks voted no, `doubt` those left unsure, `status` is "reviewed", or
    "unsure" for every mask not voted no. Raises ValueError for no crops, too many, or one mask twice.
    """
    if not 0 < len(crops) <= PAGE_SIZE or len({c.name for c in crops}) != len(crops):
        raise ValueError(f"page {key}: expected 1 to {PAGE_SIZE} different masks, got {[c.name for c in crops]}")
    words, keyed = language(code), list(zip(crops, hotkeys(code), strict=False))
    default = words.gettext("Mark every mask that is not one whole {class_name}", class_name=class_name)
    return {
        "key": key,
        "class_name": class_name,
        "title": title or default,
        "rules": (rules or _no_rules(words)) + _ahead_html(ahead),
        "crops": [{"value": c.name, "hotkey": k, "html": _crop_html(c.url, k.upper(), words, sheet)} for c, k in keyed],
        "doubts": [{"value": c.name, "hotkey": f"shift+{k}", "html": _doubt_html(k.upper(), words)} for c, k in keyed],
    }


def practice_data(
    key: str, class_name: str, crops: Sequence[Crop], lessons: Sequence[Lesson], *, title: str | None = None,
    rules: str = "", code: str = ENGLISH,
) -> dict[str, Any]:  # fmt: skip
    """Data of one `practice` task: a page as `page_data` makes it, with a lesson for each crop that `J` shows."""
    data, words = page_data(key, class_name, crops, title=title, rules=rules, code=code), language(code)
    for crop, lesson in zip(data["crops"], lessons, strict=True):
        crop["html"] = crop["html"].removesuffix("</span>") + _lesson_html(lesson, words) + "</span>"
    return data


def _lesson_html(lesson: Lesson, words: Language) -> str:
    """All that may be said; the screen shows what fits the mark on the crop."""
    text = words.gettext("The mask is correct.") if lesson.correct else lesson.why
    hit, missed, unsure = words.gettext("✓ Right"), words.gettext("✗ Not right"), words.gettext("? Unsure")
    return (
        f"<span class='cv-lesson {'cv-is-yes' if lesson.correct else 'cv-is-no'}'><b class='cv-hit'>{hit}</b>"
        f"<b class='cv-miss'>{missed}</b><b class='cv-open'>{unsure}</b> {escape(text)}</span>"
    )


def single_data(
    key: str, class_name: str, url: str, *, title: str | None = None, rules: str = "", code: str = ENGLISH
) -> dict[str, Any]:
    """Data of one `single` task: one mask, close and in its whole image, to be answered yes, no or unsure."""
    words = language(code)
    near = _view(url, "?size=768", words.gettext("The mask, close"))
    far = _view(url, "?view=image", words.gettext("The mask in its whole image"))
    return {
        "key": key,
        "class_name": class_name,
        "title": title or words.gettext("Is this mask one whole {class_name}?", class_name=class_name),
        "rules": rules or _no_rules(words),
        "views": f"<div class='cs-views'>{near}{far}</div>",
    }


def edit_data(
    key: str, class_name: str, url: str, *, title: str | None = None, rules: str = "", code: str = ENGLISH
) -> dict[str, Any]:
    """Data of one `edit` task: the part of an image around a mask, which comes as a brush prediction to be corrected.

    `url` is the address of the mask's crop. `ml_backend.masks.editing` makes the prediction and reads the answer.
    """
    words = language(code)
    default = words.gettext("Correct this {class_name}: click it, B paints, E erases", class_name=class_name)
    return {
        "key": key,
        "class_name": class_name,
        "image": f"{url}?view=edit",
        "title": title or default,
        "rules": _folded(rules, words),
    }


def correct_data(
    key: str, class_name: str, url: str, *, title: str | None = None, rules: str = "", code: str = ENGLISH
) -> dict[str, Any]:
    """Data of one `correct` task: the part of an image around a mask, which clicks and boxes correct.

    `url` is the address of the mask's crop. The mask comes as a prediction; `ml_backend.server.interactive` answers the
    clicks, and `ml_backend.masks.editing` reads what is submitted.
    """
    words = language(code)
    return {
        "key": key,
        "class_name": class_name,
        "image": f"{url}?view=edit",
        "title": title or words.gettext("Correct this {class_name} by clicks", class_name=class_name),
        "hint": words.gettext(
            "K, then click what is missing; Alt and click what is too much; R, then drag a box to begin anew."
        ),
        "switch": words.gettext(
            "Once for this browser: switch on Auto-Annotation and then Auto-Accept Suggestions, below the picture."
        ),
        "rules": _folded(rules, words),
    }


def paint_data(
    key: str,
    image_url: str,
    *,
    window: tuple[int, int, int, int] | None = None,
    title: str | None = None,
    rules: str = "",
    code: str = ENGLISH,
) -> dict[str, Any]:
    """Data of one `paint` task: an image, or its part x0, y0, x1, y1, on which every object is painted from scratch."""
    part = "" if window is None else "&window=" + ",".join(str(int(v)) for v in window)
    return {
        "key": key,
        "image": f"{image_url}?bright=1{part}",
        "title": title or language(code).gettext("Paint every object, one region each"),
        "rules": _folded(rules, language(code)),
    }


def complete_data(
    key: str, url: str, *, class_name: str | None = None, rules: str = "", code: str = ENGLISH
) -> dict[str, Any]:
    """Data of one `complete` task: a part of an image with its masks drawn in, on which what has no mask is clicked.

    `url` is the address of that picture, `class_name` the class where there is only one.
    """
    words = language(code)
    title = (
        words.gettext("Is anything missing? Click each object without an outline")
        if class_name is None
        else words.gettext("Is anything missing? Click each {class_name} without an outline", class_name=class_name)
    )
    return {"key": key, "image": url, "title": title, "rules": _folded(rules, words)}


def _ahead_html(ahead: Sequence[str]) -> str:
    return "".join(f"<link rel='prefetch' as='image' href='{escape(url, quote=True)}'/>" for url in ahead)


def _crop_html(url: str, key: str, words: Language, sheet: str | None) -> str:
    # The second and third picture are loaded only when their view is switched on.
    url = escape(url, quote=True)
    joined, near = " cv-sheet" if sheet else "", escape(sheet or url, quote=True)
    wrong = escape(words.gettext("Mask {key} is wrong", key=key), quote=True)
    whole = escape(words.gettext("Mask {key} in its whole image", key=key), quote=True)
    return (
        f"<span class='cv-crop'><span class='cv-name'>{wrong}</span><img class='cv-fill{joined}' src='{near}' alt=''/>"
        f"<img class='cv-line{joined}' loading='lazy' src='{near}?fill=0' alt=''/>"
        f"<img class='cv-whole' loading='lazy' src='{url}?view=image&amp;size=512' alt=''/>"
        f"<kbd aria-hidden='true'>{key}</kbd>"
        f"<a href='{url}?view=image' target='_blank' title='{whole}' aria-label='{whole}'>⤢</a></span>"
    )


def _doubt_html(key: str, words: Language) -> str:
    unsure = escape(words.gettext("Unsure about mask {key}", key=key), quote=True)
    return (
        f"<span class='cv-mark' title='{unsure} (Shift+{key})'>"
        f"<span class='cv-name'>{unsure}</span><span aria-hidden='true'>?</span></span>"
    )


def _no_rules(words: Language) -> str:
    text = words.gettext("There are no rules for this class yet. Ask the lead where a mask leaves you in doubt.")
    return f"<p>{escape(text)}</p>"


def _folded(rules: str, words: Language) -> str:
    summary = escape(words.gettext("Rules"))
    return f"<details><summary>{summary}</summary>{rules or _no_rules(words)}</details>"


def _view(url: str, query: str, what: str) -> str:
    url, what = escape(url, quote=True), escape(what, quote=True)
    return f"<a href='{url}{query}&amp;size=2048' target='_blank'><img src='{url}{query}' alt='{what}'/></a>"
