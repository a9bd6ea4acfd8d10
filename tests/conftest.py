"""Fixtures that every test may use, and how tests are shared out between workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Workers share the cores; before NumPy and torch are imported, which read it once.
if "PYTEST_XDIST_WORKER" in os.environ:
    side_by_side = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // side_by_side)))

# One Label Studio serves all tests of a run.
pytest_plugins = ["tests.label_studio_fixture"]

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"

# The tests' servers are on this machine; a proxy for the outside must not be asked for them.
os.environ["NO_PROXY"] = "127.0.0.1,localhost"

# Files whose tests train a network; tests elsewhere that take long carry the marker themselves.
TRAINING = (
    "tests/ml_backend/detectors/",
    "tests/ml_backend/learning/test_training.py",
    "tests/ml_backend/test_model.py",
)
# Workers begin with these, so that none is left with a long file at the end.
FIRST = ("label_studio", "slow", "browser")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what trains, and has workers take whole files: what the tests of a file share is then made once."""
    rank: dict[str, int] = {}
    for item in items:
        if item.path.relative_to(ROOT).as_posix().startswith(TRAINING):
            item.add_marker("slow")
        group = _group(item)
        first = next((i for i, name in enumerate(FIRST) if item.get_closest_marker(name)), len(FIRST))
        rank[group] = min(rank.get(group, first), first)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank[_group(item)])


def _group(item: pytest.Item) -> str:
    """The name of the tests that run in one worker: a file, or all that drive Label Studio.

    Its SQLite refuses a transaction now and then where two write at once, and answers late where many do.
    """
    marker = item.get_closest_marker("xdist_group")
    if marker is not None:
        return str(marker.args[0])
    name = item.path.relative_to(ROOT).as_posix()
    group = "label_studio" if item.get_closest_marker("label_studio") else name
    item.add_marker(pytest.mark.xdist_group(group))
    return group


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
