"""What a check says of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from campaign.records.names import Name


class State(Name):
    """How a thing is."""

    OK = "ok"
    WRONG = "wrong"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Line:
    """One thing, how it is, what there is to say of it, and what to do where it is not ok."""

    thing: str
    state: State
    text: str
    mend: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {"thing": self.thing, "state": str(self.state), "text": self.text, "mend": self.mend}

    def __str__(self) -> str:
        return f"{self.state:8}{self.thing}: {self.text}" + (f"; {self.mend}" if self.mend else "")


def ok(thing: str, text: str) -> Line:
    """A thing as it should be."""
    return Line(thing, State.OK, text)


def wrong(thing: str, text: object, mend: str) -> Line:
    """A thing that is not as it should be, and what to do."""
    return Line(thing, State.WRONG, str(text), mend)


def unknown(thing: str, text: object, mend: str | None = None) -> Line:
    """A thing of which nothing could be found out, and what would help."""
    return Line(thing, State.UNKNOWN, str(text), mend)
