"""Which masks an export holds, and to which of its parts an image belongs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from campaign.dataset.listed import ListedMasks
from campaign.records.dataset_masks import DatasetMasks
from ml_backend.errors import InputError

PARTS = {2: ("train", "val"), 3: ("train", "val", "test")}


@dataclass(frozen=True)
class Choice:
    """Masks of these classes and rounds, of this score or more, that a person said yes to; all where nothing is said.

    A mask that an annotator corrected counts as one that a person said yes to.
    """

    classes: tuple[str, ...] | None = None
    rounds: tuple[int, ...] | None = None
    min_score: float | None = None
    verified_only: bool = False

    def select(self, masks: DatasetMasks | ListedMasks, classes: Mapping[int, str]) -> np.ndarray:
        """Which masks these are, (n,) bool. Raises InputError for a class that is not among `classes`, {id: name}."""
        chosen = np.ones(len(masks), bool)
        if self.classes is not None:
            chosen &= np.isin(masks.class_id, list(self.kept(classes)))
        if self.rounds is not None:
            chosen &= np.isin(masks.round, self.rounds)
        if self.min_score is not None:
            chosen &= masks.score >= np.float32(self.min_score)
        if self.verified_only:
            chosen &= masks.voted
        return chosen

    def check_rounds(self, numbers: Iterable[int]) -> None:
        """Raises InputError where a round was chosen that is not among `numbers`, those there are."""
        there = sorted(numbers)
        if unknown := set(self.rounds or ()) - set(there):
            wanted = f"some of {', '.join(map(str, there)) or 'none'}"
            raise InputError("rounds", wanted, ", ".join(map(str, sorted(unknown))))

    def kept(self, classes: Mapping[int, str]) -> dict[int, str]:
        """Those of the classes that are exported. Raises InputError for one that there is not."""
        if self.classes is None:
            return dict(classes)
        if unknown := set(self.classes) - set(classes.values()):
            raise InputError("classes", f"some of {', '.join(classes.values())}", ", ".join(sorted(unknown)))
        return {number: name for number, name in classes.items() if name in self.classes}

    def as_dict(self) -> dict[str, Any]:
        """What was chosen by, for the file's info; empty where nothing was."""
        said: dict[str, Any] = {"classes": self.classes, "rounds": self.rounds, "min_score": self.min_score}
        return {k: v for k, v in said.items() if v is not None} | (
            {"verified_only": True} if self.verified_only else {}
        )


@dataclass(frozen=True)
class Division:
    """Parts of an export by image: their names and shares.

    An image's part follows from its file name and the key alone, so that it stays where it is when others are added.
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]
    key: str

    @classmethod
    def parse(cls, text: str, key: str) -> Division:
        """Shares of train, val and, where there is a third, test.

        >>> Division.parse("0.8/0.1/0.1", "k").names
        ('train', 'val', 'test')
        """
        wanted = "two or three shares that sum to 1, such as 0.8/0.1/0.1"
        try:
            shares = tuple(float(part) for part in text.split("/"))
        except ValueError:
            raise InputError("split", wanted, text) from None
        if len(shares) not in PARTS or not all(s > 0 for s in shares) or abs(sum(shares) - 1) > 1e-6:
            raise InputError("split", wanted, text)
        return cls(PARTS[len(shares)], shares, key)

    def part_of(self, file_name: str) -> str:
        """The part of the image of this name."""
        digest = hashlib.blake2b(file_name.encode(), key=self.key.encode()[:64], digest_size=8).digest()
        place = int.from_bytes(digest, "big") / 2**64
        for name, end in zip(self.names, np.cumsum(self.shares), strict=True):
            if place < end:
                return name
        return self.names[-1]


@dataclass(frozen=True)
class Parts:
    """Parts of an export that are a class each, or so many `images` each."""

    images: int | None = None

    @classmethod
    def parse(cls, text: str) -> Parts:
        """By `class`, or by a number of images.

        >>> Parts.parse("class"), Parts.parse("100000")
        (Parts(images=None), Parts(images=100000))
        """
        if text == "class":
            return cls()
        if not text.isdecimal() or int(text) < 1:
            raise InputError("parts", "class, or a number of images such as 100000", text)
        return cls(int(text))


def class_part(class_id: int, name: str) -> str:
    """The name of the part of a class: its id, and of its name what any file system takes.

    >>> class_part(3, "traffic light/red")
    '3-traffic-light-red'
    """
    return f"{class_id}-{re.sub('[^0-9A-Za-z_]+', '-', name).strip('-')}".rstrip("-")
