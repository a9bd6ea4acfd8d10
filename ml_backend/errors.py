"""The error that bad input raises, in one shape, and the one of what could not be had just now."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input, told in one line: the thing, what was expected, what was got.

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
