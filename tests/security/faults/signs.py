"""What the logs are to say of each fault: what happened, and what a person is to do or that nothing is to be done."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

STATES = ("down", "lost", "slow", "500", "429", "502", "html")  # in which Label Studio may be

AWAY = r"waiting, is Label Studio up, and does its address lead there\? answers given meanwhile are read afterwards"
REDIS = (
    r"Redis: expected an answer, got .*; "
    r"(waiting, is it up\? what was on its queues is planned anew|the worker ends, and is started again)"
    r"|Redis .*: expected a Redis that answers"
)
# By the name of the fault. Webhooks that are many or doubled, and answers that are changed, are nothing to tell of.
LINES = {
    "kill": r"was ended by signal 9; it is started again, and what it ran is done again"
    r"|was killed, perhaps for want of memory; (it is tried again|`campaign jobs)"
    r"|ran this campaign and was killed; what it had begun is done again",
    "redis stopped": REDIS,
    "redis emptied": REDIS,
    "postgres restarted": r"waiting, is the database up, and is there room on its disk\? nothing that was stored"
    r"|database .*: expected a database that can be opened",
    **dict.fromkeys(STATES, AWAY),
    "lost": AWAY + r"|looking which pages arrived",
    "slow": r"Label Studio at .* took [\d.]+ s for an answer; the campaign goes on, slower: has its machine too much",
    "token": r"waiting, `campaign token .*` gives it another token",
    "disk": r"waiting, (is there room on the disk of|is the database up, and is there room on its disk)",
    "clock": r"the clock of this machine was set back by 3\d{3} s; .* nothing is to be done but to see to",
    "clock of Label Studio": r"the clock of Label Studio went back from .* is read anew, nothing is to be done",
    "webhooks forged": r"POST /webhook from 127.0.0.1 was refused.* nothing is to be done",
}


@dataclass
class Sign:
    """Whether the log tells of a fault since it began."""

    name: str
    lines: Callable[[], str]  # all that the logs hold
    answered: int = 0  # pages, when it began
    felt: bool = True
    before: int = 0

    def __post_init__(self) -> None:
        self.before = self._count()

    def is_read(self) -> bool:
        """Whether a line has come that tells of it."""
        return self._count() > self.before

    def _count(self) -> int:
        return len(re.findall(LINES[self.name], self.lines()))
