"""Which versions of what a campaign stands on are tested; the table in `docker/README.md` is held against it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from campaign.check.lines import Line, ok, unknown, wrong


@dataclass(frozen=True)
class Tested:
    """The oldest and the newest version that tests ran on, and whether older ones are known not to work."""

    oldest: str
    newest: str
    refused_below: str | None = None

    def __str__(self) -> str:
        return self.oldest if self.oldest == self.newest else f"{self.oldest} to {self.newest}"


TESTED = {
    "Python": Tested("3.10", "3.13", "3.10"),
    "Label Studio": Tested("1.20.0", "1.23.2", "1.20.0"),
    "label-studio-ml": Tested("1.0.9", "1.0.9"),
    "PostgreSQL": Tested("15", "15"),
    "Redis": Tested("6.2", "7.0"),
}


def judged(name: str, version: str, thing: str | None = None, where: str = "") -> Line:
    """Whether a version is one of those tested."""
    tested, thing = TESTED[name], thing or name
    said = f"{version}{where}"
    if tested.refused_below and _parts(version) < _parts(tested.refused_below):
        return wrong(thing, f"{said}, older than {tested.refused_below}", f"install {name} {tested.newest}")
    length = max(len(_parts(tested.oldest)), len(_parts(tested.newest)))
    if _parts(tested.oldest)[:length] <= _parts(version)[:length] <= _parts(tested.newest):
        return ok(thing, f"{said}, tested")
    return unknown(thing, f"{said}, tested are {tested}", "run campaign demo against it, or take a tested one")


def _parts(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with.

    >>> _parts("1.23.2.post0+abc"), _parts("15.4 (Debian)")
    ((1, 23, 2), (15, 4))
    """
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
