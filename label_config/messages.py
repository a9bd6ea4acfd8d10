"""What the server tells annotators who correct a mask by clicks, in a line above the picture."""

from __future__ import annotations

from label_config.languages import ENGLISH, language

LONGEST = 200


def message(name: str, code: str = ENGLISH, *, count: int = 0, most: int = 0, what: object = "") -> str:
    """The text of that name in the language `code`, in one line of at most `LONGEST` characters.

    >>> message("clicks", count=3)
    'Clicks: 3.'
    """
    words = language(code)
    texts = {
        "clicks": words.gettext("Clicks: {count}.", count=count),
        "outside the picture": words.gettext("A click outside the picture was left out."),
        "no box": words.gettext("A box needs a width and a height: drag it open."),
        "too many": words.gettext("At most {most} clicks count: submit, or draw a box to begin anew.", most=most),
        "nothing": words.gettext("The mask is empty."),
        "busy": words.gettext("Too many clicks at once: the last one was not taken, please click again."),
        "failed": words.gettext(
            "This did not work, and the lead finds out why in the server's log. Correct with the brush, or skip."
        ),
        "impossible": words.gettext("No mask: {what}. Correct with the brush, or skip.", what=what),
    }
    return " ".join(texts[name].split())[:LONGEST]
