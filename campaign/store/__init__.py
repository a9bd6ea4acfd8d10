"""The campaign's store: one folder, one database, read and written only through `Store`."""

from campaign.store.store import SECRET_NAMES, Store

__all__ = ["SECRET_NAMES", "Store"]
