"""The error that bad input raises, in one shape, and the one of what could not be had just now."""

from __future__ import annotations

import re


class InputError(ValueError):
    """Bad input, said in one line: the thing, what was expected, what was got.

    >>> str(InputError("pool.json", "a COCO object", "a list"))
    'pool.json: expected a COCO object, got a list'
    """

    def __init__(self, thing: object, expected: str, got: object):
        self.thing, self.expected, self.got = str(thing), expected, str(got)
        super().__init__(" ".join(f"{self.thing}: expected {expected}, got {self.got}".split()))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        return type(self), (self.thing, self.expected, self.got)


class FetchError(InputError):
    """What is asked for could not be had from where it lies: no answer, no permission, a failing server.

    It may be had another time, so it says nothing of the thing itself.
    """


# How pydantic begins and ends what it says of a value, and what is left of it after "expected".
_WORDING = (
    (r"^Input should be (greater|less) than", r"a number \1 than"),
    (r"^(?:Input|Value) should be ", ""),
    (r"^\w+ should have at least (\d+ \w+).*", r"at least \1"),
    (r"^Value error, ", ""),
    (r"^Field required$", "a value"),
    (r", unable to .*$", ""),
    (r"\ba valid (?=[aeiou])", "an "),
    (r"\bvalid ", ""),
)


def expected_words(message: str) -> str:
    """What a validation message of pydantic expects, to be put into an `InputError`.

    >>> expected_words("Input should be greater than or equal to 1")
    'a number greater than or equal to 1'
    >>> expected_words("Input should be a valid integer, unable to parse string as an integer")
    'an integer'
    """
    for pattern, words in _WORDING:
        message = re.sub(pattern, words, message)
    return message
