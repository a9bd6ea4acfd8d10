"""What the tests of the ML backend need before anything is imported."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

# label-studio-ml 2.x opens a database there as soon as it is imported; test processes side by side have one each.
_MODELS = Path(tempfile.gettempdir()) / f"label-studio-ml-tests-{os.getpid()}"
os.environ["MODEL_DIR"] = str(_MODELS)


def pytest_unconfigure() -> None:
    """Removes that folder."""
    shutil.rmtree(_MODELS, ignore_errors=True)
