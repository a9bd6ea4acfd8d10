"""Fixtures of the campaign's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaign.store import Store
from tests.campaign.builders import verify_store


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Store]:
    """Makes stores whose round 1 is at verify, see `verify_store`."""

    def make(name: str = "campaign", label_studio: dict | None = None, **search: Any) -> Store:
        return verify_store(tmp_path / name, search, label_studio=label_studio)

    return make
