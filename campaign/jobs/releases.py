"""Which release runs a campaign: the workers of other machines are to be of the same."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from campaign.store import Store
from campaign.store.values import Key
from ml_backend.buckets import is_url
from ml_backend.errors import InputError

PACKAGE = "label-studio-cluster-verification"


def note_release(store: Store) -> None:
    """Notes that this release runs the campaign."""
    if (store.values.get(Key.RELEASE) or {}).get("release") != version(PACKAGE):
        store.values.set(Key.RELEASE, {"release": version(PACKAGE)})


def check_release(place: str | Path) -> None:
    """Raises InputError where a campaign at a URL is run by another release than this one; nothing is written.

    A newer one would change the database under those at work, and an older one would not know what it finds.
    """
    if not is_url(place):
        return
    store = Store.open(place, read_only=True)
    known = (store.values.get(Key.RELEASE) or {}).get("release")
    store.engine.dispose()
    if known not in (None, version(PACKAGE)):
        raise InputError("worker", f"release {known}, which runs {store.place}", version(PACKAGE))
