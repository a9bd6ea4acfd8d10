"""What is away just now: how long to wait for it, and what a person can do meanwhile."""

from __future__ import annotations

import random

from campaign.label_studio.client import LabelStudioUnauthorized, LabelStudioUnavailable
from campaign.store import Store
from campaign.store.database import DatabaseUnavailable
from campaign.store.values import Key
from ml_backend.buckets import is_url

FIRST_PAUSE, LONGEST_PAUSE = 2.0, 300.0  # seconds
JITTER = 0.25  # share of a pause by which it is longer or shorter, so that many do not come back at once


def pause_before(attempt: int, first: float = FIRST_PAUSE) -> int:
    """Seconds to wait before a further attempt, the first one being number 0: twice as long each time, with jitter.

    >>> pause_before(0, first=0)
    0
    >>> 3 <= pause_before(1) <= 5 and pause_before(50) <= 375
    True
    """
    pause = min(first * 2.0 ** min(attempt, 30), LONGEST_PAUSE)
    return round(pause * random.uniform(1 - JITTER, 1 + JITTER))  # noqa: S311 - it keeps no secret


def advice(error: BaseException, place: str) -> str:
    """What a person can do about something that is away, in a few words."""
    if isinstance(error, LabelStudioUnauthorized):
        return f"`campaign token {place}` gives it another token"
    if isinstance(error, LabelStudioUnavailable):
        return "is Label Studio up, and does its address lead there? answers given meanwhile are read afterwards"
    if isinstance(error, DatabaseUnavailable):
        return "is the database up, and is there room on its disk? nothing that was stored is lost"
    if is_url(place):
        return f"does {place} answer to the credentials here, and is there room on the disk? nothing stored is lost"
    return f"is there room on the disk of {place}? nothing that was stored is lost"


def note_trouble(store: Store, text: str) -> None:
    """Keeps what is wrong for `campaign status` and the lead's page; a trouble that is new is a line of the log."""
    known = (store.values.get(Key.TROUBLE) or {}).get("text")
    if known != text:
        store.values.set(Key.TROUBLE, {"text": text})
        store.log(f"trouble: {text}")


def forget_trouble(store: Store) -> None:
    """Notes that a step went well again."""
    if (store.values.get(Key.TROUBLE) or {}).get("text"):
        store.values.set(Key.TROUBLE, {"text": None})
        store.log("the trouble is over; nothing is to be done")
