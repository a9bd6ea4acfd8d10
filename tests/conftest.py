"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# One Label Studio serves all tests of a session.
pytest_plugins = ["tests.label_studio_fixture"]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"

# The tests' servers are on this machine; a proxy for the outside must not be asked for them.
os.environ["NO_PROXY"] = "127.0.0.1,localhost"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the two real data sets beside the checkout."""
    if not (DATA / "nuclei" / "pool.json").exists():
        pytest.skip(f"needs the data sets in {DATA}")
    return DATA


@pytest.fixture(params=["cpu", "cuda"])
def device(request) -> str:
    """Every device that the computing must be right on."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return request.param
