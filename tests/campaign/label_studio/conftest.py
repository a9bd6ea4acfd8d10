from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from campaign.label_studio.client import Client
from campaign.label_studio.verification import create_project

_numbers = itertools.count()


@pytest.fixture
def verification_project(label_studio_client: Client) -> Callable[[], int]:
    """Makes a fresh verification project and gives its id."""
    return lambda: create_project(label_studio_client, f"Verify [{next(_numbers)}]")
