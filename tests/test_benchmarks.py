"""The benchmarks that are to run on machines unlike this one."""

import json

from tests.bare_python import run_bare

COMMAND = """
import runpy
sys.argv = "gpu --json --quick --device cpu --only clustering_check pasting rle network pointrend_training".split()
runpy.run_module("tests.benchmarks.gpu", run_name="__main__")
"""


def test_gpu_benchmark_runs_without_one():
    done = run_bare(COMMAND)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["quick"] and result["machine"]["device"] == "cpu" and not result["aims"]
    assert set(result["machine"]["packages"]) == {"numpy", "scipy"}
    parts = result["parts"]
    assert parts["pasting"]["correct"]
    assert {kind: parts["clustering_check"][kind]["correct"] for kind in ("scipy_blobs", "scipy_noise")} == {
        "scipy_blobs": True,
        "scipy_noise": True,
    }
    left_out = {name: figures["left_out"].partition(":")[0] for name, figures in parts.items() if "left_out" in figures}
    assert left_out == {"rle": "pycocotools", "network": "torchvision", "pointrend_training": "torchvision"}
