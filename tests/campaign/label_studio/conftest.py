from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest

from campaign.label_studio.client import Client
from campaign.label_studio.verification import create_project


@pytest.fixture
def verification_project(label_studio_client: Client) -> Callable[[], int]:
    """Makes a fresh verification project and returns its id. A title names a project, so no two are alike."""
    return lambda: create_project(label_studio_client, f"Verify [{uuid.uuid4().hex[:12]}]")
