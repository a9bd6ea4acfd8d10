"""From features and scores to a SciPy linkage array, by the engine that suits size, device and memory."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from campaign.clustering import walks
from campaign.clustering.compiled import need_compiler
from campaign.clustering.dense import Merges
from campaign.clustering.micro import MOST_PIECES, REPRESENTATIVES, approximate_merges
from campaign.clustering.neighbours import LIST, Clusters
from campaign.clustering.options import LinkageOptions
from campaign.clustering.points import BLOCK, Points, Source, checked, source_of
from campaign.clustering.workers import Workers, workers
from ml_backend.errors import InputError

Progress = Callable[[str, int, int], None]
DIRECT = 8192  # so many clusters go straight into a matrix
EXACT_LIMIT = {"cpu": 200_000, "cuda": 1_000_000}
FREE_SHARE = 0.8
MOST_POINTS = MOST_PIECES * REPRESENTATIVES  # that the approximate engine holds at a time
APART = 200  # bytes of the approximate engine for each of the other masks: merges, pieces, bounds
WORKING_SET = 64 << 20  # interpreter, tiles and small arrays that do not grow with n


@dataclass(frozen=True)
class Clustering:
    """A finished linkage.

    linkage: float64 (n-1, 4), SciPy's format; merge heights are fused distances.
    engine: "exact" or "approximate"; device: where it ran.
    error: float64 (n-1,), how far each height may be from the true distance of the two clusters it merges;
        None where the linkage is exact.
    feature_scale, score_scale: σ_f and σ_s used.
    """

    linkage: np.ndarray
    engine: str
    device: str
    error: np.ndarray | None
    feature_scale: float
    score_scale: float


def linkage(
    features: np.ndarray,
    scores: np.ndarray,
    options: LinkageOptions | None = None,
    progress: Progress | None = None,
) -> np.ndarray:
    """Complete linkage of n masks under ‖f_i − f_j‖ / σ_f + |s_i − s_j| / σ_s.

    features: (n, d) of any real dtype, d may be 0. scores: (n,).
    Returns SciPy's (n-1, 4) float64 array, (0, 4) for fewer than two masks. InputError on NaN, wrong shapes, or a
    memory budget below what the engine needs. Papadopoulos et al., section 3.2.
    """
    return cluster(features, scores, options, progress).linkage


def cluster(
    features: np.ndarray,
    scores: np.ndarray,
    options: LinkageOptions | None = None,
    progress: Progress | None = None,
) -> Clustering:
    """Like `linkage`, with what is known about the result: engine, device, error bounds and scales."""
    options = options or LinkageOptions()
    features, scores = checked(features, scores)
    device = find_device(options.device)
    engine = choose_engine(len(features), device, options)
    budget = matrix_budget(features, options, engine)
    with workers(options.threads) as team:
        scales = options.feature_scale, options.score_scale
        source = source_of(features, scores, *scales, options.seed, provisional=engine == "exact")
        if engine == "approximate":

            def exact(part: Points, pieces: np.ndarray | None = None, report: Progress | None = None) -> Merges:
                return exact_merges(part, budget, team, report, pieces, device)

            merges, reach = approximate_merges(source, options.micro_size, exact, team, options.seed, progress)
            return finished(merges, reach, device, source)[0]
        points = source.points()
        return finished(exact_merges(points, budget, team, progress, None, device), None, device, points)[0]


def finished(
    merges: Merges, reach: np.ndarray | None, device: str, points: Points | Source
) -> tuple[Clustering, np.ndarray]:
    """The clustering of all merges, each after its parts, and the row of its linkage that each one became."""
    left, right, own = merges
    height = own.copy()
    walks.lift(left, right, height)
    order = np.argsort(height, kind="stable")
    linkage = np.empty((len(order), 4))
    walks.label(left[order], right[order], height[order], linkage)
    error = None
    if reach is not None:
        error = np.empty(len(linkage))
        walks.bounds(linkage, own[order], reach, error)
    row = np.empty_like(order)
    row[order] = np.arange(len(order))
    engine = "exact" if reach is None else "approximate"
    return Clustering(linkage, engine, device, error, points.feature_scale, points.score_scale), row


def matrix_budget(features: np.ndarray, options: LinkageOptions, engine: str = "exact") -> int:
    """Bytes of the budget left to a matrix; InputError where there is not even enough for the rest."""
    memory = options.memory or int(_available() * FREE_SHARE)
    count, width = features.shape
    held = min(count, MOST_POINTS) if engine == "approximate" else count
    left = memory - _fixed(held, width, options.threads or os.cpu_count() or 1) - (count - held) * APART
    if left < 0:
        raise InputError("memory", f"at least {memory - left} bytes for {features.shape} features", memory)
    return left


def _available() -> int:
    """Bytes of memory that are free; those of Linux where psutil, which knows every system, is not installed."""
    try:
        import psutil
    except ImportError:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return psutil.virtual_memory().available


def choose_engine(n: int, device: str, options: LinkageOptions) -> str:
    """The engine that "auto" stands for: exact up to 200,000 masks on a CPU and a million on CUDA."""
    if options.engine != "auto":
        return options.engine
    limit = options.exact_limit or EXACT_LIMIT[device.partition(":")[0]]
    return "exact" if n <= limit else "approximate"


def exact_merges(
    points: Points,
    budget: int,
    team: Workers,
    progress: Progress | None = None,
    pieces: np.ndarray | None = None,
    device: str = "cpu",
) -> Merges:
    """All merges of exact complete linkage within `budget` bytes for the matrix of distances.

    Passes of neighbour lists merge clusters until the matrix of those left fits. pieces: as in `Clusters`.
    device: "cpu", or a PyTorch device; its own free memory is then the budget.
    """
    if device == "cpu":
        need_compiler("clustering on a CPU")
        clusters = Clusters(points, team, pieces)
    else:
        from campaign.clustering.device import DeviceClusters

        clusters = DeviceClusters(points, team, pieces, device)
        budget = clusters.matrix_budget()
    fits = int((budget / 4) ** 0.5)
    if len(clusters) > fits:
        need_compiler(f"more than the {fits} masks whose distances the device holds")
    direct = min(fits, DIRECT) if device == "cpu" else 0
    if device != "cpu" or len(clusters) <= direct:
        clusters.measure(_step(progress, "scale"))
    number = 0
    while len(clusters) > (direct if number == 0 and device == "cpu" else fits):
        number += 1
        before = len(clusters)
        clusters.look(_step(progress, f"pass {number}"))
        clusters.settle()
        if (before - len(clusters)) * 100 < before - fits:
            # a hundred more passes like this one would not do
            raise InputError("memory", f"{4 * len(clusters) ** 2} bytes for a matrix", budget)
    if len(clusters) < 2:
        return clusters.merges
    rest = clusters.finish(_step(progress, "matrix"), _step(progress, "merge"))
    left, right, height = (np.concatenate(part) for part in zip(clusters.merges, rest, strict=True))
    return left, right, height


def find_device(wanted: str) -> str:
    """The device that a setting stands for; InputError where it asks for CUDA and there is none."""
    if wanted.startswith("cpu:"):
        return wanted
    has_cuda = False
    if wanted != "cpu" and _cuda_driver():  # PyTorch alone is half a gigabyte: not without a reason
        import torch

        has_cuda = torch.cuda.is_available()
    if wanted.startswith("cuda") and not has_cuda:
        raise InputError("device", "a CUDA device", "none")
    return "cpu" if not has_cuda else "cuda" if wanted == "auto" else wanted


def _cuda_driver() -> bool:
    try:
        return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1").cuInit(0) == 0
    except OSError:
        return False


def _fixed(n: int, d: int, threads: int) -> int:
    """Bytes that an exact run takes beside the matrix: points, their copy in tiles, lists, tiles."""
    return n * (8 * d + 12 * LIST + 200) + threads * 3 * 4 * BLOCK**2 + WORKING_SET


def _step(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)
