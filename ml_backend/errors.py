"""The error that bad input raises, in one shape, and the one of what could not be had just now."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Any

# Characters of each part of an error's line: what others wrote must not fill the log.
LONGEST = 500
# Of a database or a queue the password may hold what an address should have quoted.
_PASSWORDS = (
    re.compile(r"((?:rediss?|postgres\w*|mysql|mariadb)(?:\+\w+)?://[^\s:@/]*:)\S+(?=@)", re.IGNORECASE),
    re.compile(r"(\w://[^\s:@/]*:)[^\s@/]+(?=@)"),
    re.compile(r"([?&](?:ssl)?password=)[^\s&'\"]+", re.IGNORECASE),
)


def without_passwords(text: str) -> str:
    """A text to be shown, with the passwords left out of the addresses in it.

    >>> without_passwords("redis://:s3cret@queue:6379/0 does not answer")
    'redis://:***@queue:6379/0 does not answer'
    """
    for pattern in _PASSWORDS:
        text = pattern.sub(r"\1***", text)
    return text


def _fit(text: object) -> str:
    """What an error says of one thing: without passwords, and no longer than a person reads."""
    shown = str(text)
    if len(shown) > LONGEST:
        shown = f"{shown[:LONGEST]} … ({len(shown)} characters)"
    return without_passwords(shown)


class InputError(ValueError):
    """Bad input, said in one line: the thing, what was expected, what was got.

    >>> str(InputError("pool.json", "a COCO object", "a list"))
    'pool.json: expected a COCO object, got a list'
    """

    def __init__(self, thing: object, expected: str, got: object):
        self.thing, self.expected, self.got = _fit(thing), _fit(expected), _fit(got)
        super().__init__(" ".join(f"{self.thing}: expected {expected}, got {self.got}".split()))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        return type(self), (self.thing, self.expected, self.got)


class Unavailable(InputError):  # noqa: N818
    """What a program needs is not there just now: a server that is down, a disk that is full.

    Nothing is wrong with the input, and the same may well succeed later: who runs for weeks waits and tries again.
    """


class FetchError(InputError):
    """What is asked for could not be had from where it lies: no answer, no permission, a failing server.

    It may be had another time, so it says nothing of the thing itself.
    """


def brief(value: Any) -> str:
    """A value from outside in at most 60 characters, however large or deep it is.

    >>> brief([1, "a"])
    "[1, 'a']"
    """
    text = _BRIEF.repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


_BRIEF = reprlib.Repr()
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = 20
_BRIEF.maxstring = _BRIEF.maxother = 60

# What pydantic finds wrong, in words that say what is right.
_EXPECTED = {
    "missing": "a value",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a text",
    "string_too_short": "a text, at least {min_length} characters long",
    "string_too_long": "a text, at most {max_length} characters long",
    "list_type": "a list",
    "dict_type": "names with values",
    "model_type": "a group of settings",
    "model_attributes_type": "a group of settings",
}


def expected_words(error: Mapping[str, Any]) -> str:
    """What one of pydantic's errors expects, in plain words, to be put into an `InputError`.

    >>> expected_words({"type": "greater_than_equal", "msg": "Input should be ...", "ctx": {"ge": 1}})
    'a number of at least 1'
    """
    context = error.get("ctx", {})
    if error["type"] == "literal_error":
        return f"one of {context['expected']}".replace("'", "")
    if error["type"] == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    words = _EXPECTED.get(error["type"])
    return str(error["msg"]) if words is None else words.format(**context)
