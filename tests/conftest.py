"""Fixtures that every test may use, and how tests are shared out between workers."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest

# Workers share the cores; before NumPy and torch are imported, which read it once.
if "PYTEST_XDIST_WORKER" in os.environ:
    side_by_side = int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // side_by_side)))

# One Label Studio serves all tests of a run.
pytest_plugins = ["tests.label_studio_fixture", "tests.object_store", "tests.postgres"]

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"

# The tests' servers are on this machine; a proxy for the outside must not be asked for them.
os.environ["NO_PROXY"] = "127.0.0.1,localhost"

# What trains a network, and single tests that take more than a few seconds.
SLOW = (
    "tests/ml_backend/detectors/",
    "tests/ml_backend/examples/",
    "tests/ml_backend/learning/test_training.py",
    "tests/ml_backend/learning/test_processes.py",
    "tests/ml_backend/test_model.py",
    "tests/campaign/dataset/test_recall.py::test_the_bound_is_true",
    "tests/campaign/derived/test_live.py::test_any_interleaving",
    "tests/campaign/label_studio/test_writeback.py::test_two_thousand_tasks",
    "tests/campaign/search/policies/test_adaptive.py::test_fewer_questions",
    "tests/campaign/simulation/test_study.py",
)
# Workers begin with files of these, so that none is left with a long one at the end.
FIRST = ("label_studio", "slow", "browser")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what is slow, and puts long files first where workers run side by side."""
    rank: dict[str, int] = {}
    for item in items:
        if item.nodeid.startswith(SLOW):
            item.add_marker("slow")
        first = next((i for i, name in enumerate(FIRST) if item.get_closest_marker(name)), len(FIRST))
        rank[_group(item.nodeid)] = min(rank.get(_group(item.nodeid), first), first)
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank[_group(item.nodeid)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `--dist loadfile` a worker takes a whole file, so that what its tests share is made once.

    The files that drive Label Studio go to one worker, one after the other: its SQLite refuses a transaction now and
    then where two write at once, and it answers late where many ask.
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _group(nodeid)

    return GroupScheduling(config, log)


def _group(nodeid: str) -> str:
    """The name of the tests that one worker takes together."""
    file = nodeid.partition("::")[0]
    return "label_studio" if _drives_label_studio(file) else file


@functools.cache
def _drives_label_studio(file: str) -> bool:
    return "pytest.mark.label_studio" in (ROOT / file).read_text(encoding="utf-8")


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
