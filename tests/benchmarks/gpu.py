"""Everything that runs on a GPU, measured and checked by one command on any machine that has one.

    python -m tests.benchmarks.gpu --json

Needs PyTorch, NumPy and SciPy; each part that needs more runs where that imports and otherwise says what is missing.
Nothing is downloaded. The whole run takes at most `--seconds` (480): parts that would begin too late are left out, and
a clustering or a training is stopped there. Without a CUDA device, or with `--quick`, sizes are small and the figures
no more than a sign that everything runs; the result says so (`quick`). On a CPU the engine for GPUs runs on PyTorch's
CPU device.

Whatever can be is checked, too: trees against the CPU engine and SciPy on a part of the masks, merges of the large
trees against distances in double precision, pasted masks and IoU targets against the CPU's. The exit status is 1 where
a part failed or is wrong.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ml_backend.errors import InputError
from tests.benchmarks import gpu_clustering, gpu_detectors, gpu_masks
from tests.benchmarks.gpu_bench import FULL, QUICK, Bench, OutOfTimeError, import_error

PACKAGES = ("numpy", "scipy", "numba", "torchvision", "pydantic", "pycocotools", "PIL", "pyarrow", "detectron2")
DETECTOR = ("torchvision", "pydantic", "pycocotools", "PIL")
POINTREND = (*DETECTOR, "detectron2.projects.point_rend")


@dataclass(frozen=True)
class Part:
    """One measurement: what must import for it, and seconds that must be left for it to begin, on a GPU."""

    measure: Callable[[Bench], dict[str, Any]]
    needs: tuple[str, ...] = ()
    seconds: float = 20


PARTS = {
    "clustering_check": Part(gpu_clustering.check),
    "clustering_exact": Part(lambda bench: gpu_clustering.exact(bench, "blobs")),
    "clustering_exact_noise": Part(lambda bench: gpu_clustering.exact(bench, "noise")),
    "clustering_approximate": Part(gpu_clustering.approximate),
    "iou_targets": Part(gpu_masks.iou_targets),
    "pasting": Part(gpu_masks.pasting),
    "rle": Part(gpu_masks.rle, ("pycocotools",)),
    "network": Part(gpu_detectors.network, ("torchvision",)),
    "torchvision_inference": Part(gpu_detectors.torchvision_inference, DETECTOR),
    "torchvision_training": Part(gpu_detectors.torchvision_training, DETECTOR),
    "pointrend_inference": Part(gpu_detectors.pointrend_inference, POINTREND),
    "pointrend_training": Part(gpu_detectors.pointrend_training, POINTREND),
    "clustering_exact_large": Part(gpu_clustering.exact_large, ("numba",), seconds=60),
    "clustering_approximate_large": Part(gpu_clustering.approximate_large, seconds=40),
}


@dataclass(frozen=True)
class Aim:
    """What a part's figure should reach on a GPU of the H200's class: at most, or at least, `limit`."""

    part: str
    figure: str
    limit: float
    at_most: bool


AIMS = {
    "exact tree of 150,000 masks, s": Aim("clustering_exact", "seconds", 60, True),
    "exact tree of 150,000 masks of noise, s": Aim("clustering_exact_noise", "seconds", 60, True),
    "exact tree of 1,000,000 masks, s": Aim("clustering_exact_large", "seconds", 600, True),
    "approximate tree of 1,000,000 masks, s": Aim("clustering_approximate_large", "seconds", 600, True),
    "whole inference over detectron2's bare loop": Aim("pointrend_inference", "ratio", 0.85, False),
    "whole inference with R50 at 800 px, images/s": Aim("pointrend_inference", "bfloat16_images_per_s", 25, False),
}


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes; the only ones without a CUDA device")
    parser.add_argument("--device", help="torch device; default: cuda where there is one")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--seconds", type=float, default=480, help="limit of the whole run")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    result = measure(arguments)
    print(json.dumps(result) if arguments.json else table(result))
    bad = [name for name, figures in result["parts"].items() if "failed" in figures or not correct(figures)]
    if bad:
        sys.exit(f"gpu: expected every part to run and be correct, got {', '.join(bad)}")


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All parts in turn; a part that fails or lacks something says so in its place."""
    began = time.perf_counter()
    device = torch.device(arguments.device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
    quick = arguments.quick or device.type != "cuda"
    if quick and not arguments.quick:
        print("gpu: no CUDA device; small sizes on the CPU, whose figures say nothing of a GPU", file=sys.stderr)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    result: dict[str, Any] = {"quick": quick, "machine": machine(device), "parts": {}}
    with tempfile.TemporaryDirectory(prefix="gpu-") as name:
        bench = Bench(device, QUICK if quick else FULL, began + arguments.seconds, Path(name), quick)
        for name in arguments.only or PARTS:
            result["parts"][name] = run(PARTS[name], bench)
            print(f"{time.perf_counter() - began:6.1f} s  {name}", file=sys.stderr, flush=True)
    result["seconds"] = round(time.perf_counter() - began, 1)
    result["aims"] = {} if quick else aims(result["parts"])
    return result


def run(part: Part, bench: Bench) -> dict[str, Any]:
    """The part's figures, or why there are none: `left_out`, `stopped` or `failed`."""
    missing = [reason for reason in map(import_error, part.needs) if reason]
    if missing:
        return {"left_out": "; ".join(missing)}
    if bench.left() < (0 if bench.quick else part.seconds):
        return {"left_out": f"{max(bench.left(), 0):.0f} s were left of the run, {part.seconds:.0f} are needed"}
    began = time.perf_counter()
    try:
        figures = part.measure(bench)
    except OutOfTimeError as stop:
        figures = {"stopped": str(stop)}
    except InputError as error:  # this machine lacks something that the part cannot do without
        figures = {"left_out": str(error)}
    except Exception as error:  # the other parts are still worth their time; the exit status tells
        traceback.print_exc()
        figures = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    gc.collect()
    if bench.gpu:
        torch.cuda.empty_cache()
    return figures | {"whole_part_s": round(time.perf_counter() - began, 1)}


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were taken on."""
    described: dict[str, Any] = {"device": "cpu", "cpus": os.cpu_count(), "torch": torch.__version__}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described["device"] = properties.name
        described["gpu_gib"] = round(properties.total_memory / 2**30, 1)
        described["cuda"] = torch.version.cuda
    versions = {}
    for name in PACKAGES:
        if import_error(name) is None:
            versions[name] = getattr(sys.modules[name], "__version__", "without a version")
    return described | {"packages": versions}


def aims(parts: dict[str, Any]) -> dict[str, Any]:
    """Each aim with its figure and whether it was met, None where it was not measured."""
    result = {}
    for name, aim in AIMS.items():
        value = parts.get(aim.part, {}).get(aim.figure)
        met = None if value is None else value <= aim.limit if aim.at_most else value >= aim.limit
        result[name] = {"aim": aim.limit, "at_most": aim.at_most, "measured": value, "met": met}
    return result


def correct(figures: Any) -> bool:
    """Whether no check among the figures failed."""
    if not isinstance(figures, dict):
        return True
    return figures.get("correct", True) and all(correct(value) for value in figures.values())


def table(result: dict[str, Any]) -> str:
    """The result as lines: machine, each part's figures, aims."""
    sizes = "small sizes, which say nothing of speed" if result["quick"] else "full sizes"
    lines = [f"{sizes}, {result['seconds']} s", *flat("machine", result["machine"])]
    for name, figures in result["parts"].items():
        lines += ["", *flat(name, figures)]
    for name, aim in result["aims"].items():
        verdict = {None: "not measured", True: "met", False: "missed"}[aim["met"]]
        sign = "at most" if aim["at_most"] else "at least"
        lines += [f"aim: {name:46} {sign} {aim['aim']:g}, measured {aim['measured']}: {verdict}"]
    return "\n".join(lines)


def flat(name: str, value: Any) -> list[str]:
    """Lines of names with dots and their values."""
    if isinstance(value, dict):
        return [line for key, inner in value.items() for line in flat(f"{name}.{key}", inner)]
    return [f"{name:60} {value}"]


if __name__ == "__main__":
    main()
