"""What annotators say of a mask."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum


class Verdict(IntEnum):
    """What an annotator says of one mask: is it correct?"""

    NO = 0
    YES = 1
    UNSURE = 2

    @property
    def word(self) -> str:
        """The verdict as it is stored: no, yes or unsure."""
        return self.name.lower()

    @classmethod
    def parse(cls, word: str) -> Verdict:
        """The verdict of a stored word. Raises KeyError for any other."""
        return cls[word.upper()]


def majority(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that more than half of the yes and no answers give; otherwise unsure.

    >>> majority([Verdict.YES, Verdict.NO, Verdict.YES]).word
    'yes'
    >>> majority([Verdict.YES, Verdict.NO, Verdict.UNSURE]).word
    'unsure'
    """
    yes, no = verdicts.count(Verdict.YES), verdicts.count(Verdict.NO)
    return Verdict.UNSURE if yes == no else Verdict.YES if yes > no else Verdict.NO
