"""Python as on a machine that has PyTorch, NumPy and SciPy and nothing else that this project needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MISSING = (
    "PIL", "cv2", "detectron2", "fastcluster", "flask", "fsspec", "matplotlib", "numba", "psutil", "pyarrow",
    "pycocotools", "pydantic", "redis", "requests", "rich", "rq", "sklearn", "sqlalchemy", "threadpoolctl",
    "torchvision", "typer",
)  # fmt: skip
_HIDE = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {MISSING}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
"""


def run_bare(code: str) -> subprocess.CompletedProcess[str]:
    """Run code there, from the checkout; its output is text."""
    command = [sys.executable, "-c", _HIDE + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
