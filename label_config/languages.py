"""The languages of all that annotators read: titles, screens, instructions, rules.

A text is looked up by its English words, as gettext does it: English stands in the sources, every other language in
one catalogue, `catalogue/<language>.po`. `label_config.extraction` lists the texts and keeps the catalogues up to date.
What is read back of an answer never depends on the language.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

CATALOGUES = Path(__file__).parent / "catalogue"
ENGLISH = "en"
_BLOCKS = re.compile(r"(\n{2,})")


class Language:
    """One language. `code` is that of ISO 639, `de` say; without a translation of a text its English is returned."""

    def __init__(self, code: str):
        self.code = code
        self._texts: dict[tuple[str | None, str], str] = {}
        if code == ENGLISH:
            return
        from babel.messages.pofile import read_po

        with (CATALOGUES / f"{code}.po").open("rb") as file:
            for message in read_po(file, locale=code):
                if message.id and message.string and not message.fuzzy:
                    self._texts[message.context, str(message.id)] = str(message.string)

    def gettext(self, message: str, **values: object) -> str:
        """`message` in this language, with `values` for its names in braces."""
        text = self._texts.get((None, message), message)
        return text.format(**values) if values else text

    def pgettext(self, context: str, message: str) -> str:
        """`message` in this language where it means what `context` says."""
        return self._texts.get((context, message), message)

    def markdown(self, text: str) -> str:
        """A Markdown text in this language, block by block: what blank lines separate is one message each."""
        return "".join(part if part.isspace() else self.gettext(part) for part in _BLOCKS.split(text.strip("\n")))


def blocks(text: str) -> list[str]:
    """The messages of a Markdown text."""
    return [part for part in _BLOCKS.split(text.strip("\n")) if part.strip()]


def languages() -> list[str]:
    """The codes of the languages there are, sorted."""
    return sorted([ENGLISH, *(path.stem for path in CATALOGUES.glob("*.po"))])


@cache
def language(code: str) -> Language:
    """The language with this code. Raises ValueError for an unknown one."""
    if code not in languages():
        raise ValueError(f"language: expected one of {', '.join(languages())}, got {code!r}")
    return Language(code)
