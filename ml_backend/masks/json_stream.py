"""JSON that is larger than memory: the items of its lists one after the other.

Python's own decoder is used on a window of the text, so that what an item is, and what is an error, is what `json`
says. The window grows to hold one item, and no further than `MOST_ITEM` characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

WINDOW = 1 << 20  # characters that are read together
NEAR = 64  # characters that a number, a word or an escape may have
MOST_ITEM = 1 << 28  # of one item, or of a value that is no list

_SPACE = " \t\n\r"


class JsonStream:
    """The JSON text of a file that was opened for reading text. Its methods raise ValueError where it is malformed."""

    def __init__(self, file: IO[str]):
        self._file = file
        self._decode = json.JSONDecoder().raw_decode
        self._text, self._at, self._is_all = "", 0, False

    def kind(self) -> str:
        """The first character of the text, "" where there is none: "[" of a list, "{" of an object."""
        return self._peek()

    def items(self) -> Iterator[Any]:
        """The items of a list, which is to be all that follows in the text."""
        yield from self._items()
        self._end()

    def values(self) -> Iterator[Any]:
        """The values that follow each other in the text, as in JSON lines."""
        while self._peek():
            yield self._value()

    def members(self) -> Iterator[tuple[str, Any, bool]]:
        """Of an object (key, value, False) for each member, and (key, item, True) for each item of one that is a list.

        A list without items is not seen. The object is to be all that follows in the text.
        """
        self._take("{")
        while self._peek() != "}":
            key = self._value()
            if not isinstance(key, str):
                raise ValueError(f"a key expected, got {type(key).__name__}")
            self._take(":")
            if self._peek() == "[":
                for item in self._items():
                    yield key, item, True
            else:
                yield key, self._value(), False
            if self._peek() != "}":
                self._take(",")
        self._take("}")
        self._end()

    def _items(self) -> Iterator[Any]:
        self._take("[")
        while self._peek() != "]":
            yield self._value()
            if self._peek() != "]":
                self._take(",")
                if self._peek() == "]":
                    raise ValueError("an item expected, got the end of a list")
        self._take("]")

    def _end(self) -> None:
        if rest := self._peek():
            raise ValueError(f"the end expected, got {rest!r}")

    def _more(self) -> bool:
        """Reads on; whether there was more."""
        part = self._file.read(max(WINDOW, len(self._text) - self._at))
        self._text, self._at, self._is_all = self._text[self._at :] + part, 0, not part
        return bool(part)

    def _peek(self) -> str:
        """The next character that is no space, "" at the end."""
        while True:
            while self._at < len(self._text):
                character = self._text[self._at]
                if character not in _SPACE:
                    return character
                self._at += 1
            if not self._more():
                return ""

    def _take(self, wanted: str) -> None:
        if (got := self._peek()) != wanted:
            raise ValueError(f"{wanted!r} expected, got {got!r}" if got else f"{wanted!r} expected, got the end")
        self._at += 1

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
                # A number that ends with the window may go on beyond it.
                is_open = isinstance(value, (int, float)) and end > len(self._text) - NEAR
                if self._is_all or not is_open:
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                # Only at its end can the window be what is wrong; of a text it is the beginning that is named.
                is_cut = error.pos > len(self._text) - NEAR or error.msg.startswith("Unterminated string")
                if self._is_all or not is_cut:
                    raise ValueError(error.msg) from None
            if len(self._text) - self._at > MOST_ITEM:
                raise ValueError(f"an item of at most {MOST_ITEM} characters expected, got a longer one")
            self._more()
