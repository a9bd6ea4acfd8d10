"""`campaign status --watch`: the campaign until it has ended, in place on a terminal or line by line."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from campaign.jobs.watching import Look, Watch

if TYPE_CHECKING:
    from campaign.store import Store


def watch(store: Store, every: float, as_json: bool) -> None:
    """Shows the campaign until it has ended, or Ctrl+C: in place on a terminal, else whenever something changed."""
    from campaign.cli.output import emit, table

    if as_json or not sys.stdout.isatty():
        before = None
        for look in _looks(store, every):
            if look != before and as_json:
                emit(asdict(look), True)
                sys.stdout.flush()
            elif look != before:
                table(f"{store.settings.name}, {time.strftime('%H:%M:%S')}", look.rows())
            before = look
        return
    from rich.live import Live

    from campaign.cli.output import two_columns

    with Live(auto_refresh=False) as shown:
        for look in _looks(store, every):
            title = f"{store.settings.name}, {time.strftime('%H:%M:%S')}"
            shown.update(two_columns(title, look.rows()), refresh=True)


def _looks(store: Store, every: float) -> Iterator[Look]:
    from campaign.records.stage import Stage

    watching = Watch(store)
    while True:
        yield watching.look()
        current = store.rounds.newest()
        if current is not None and current.stage == Stage.DONE:
            return
        time.sleep(every)
