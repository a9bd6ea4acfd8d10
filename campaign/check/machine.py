"""This machine: Python, disk, memory, GPU, and the packages that only some campaigns need."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from campaign.check.lines import Line, ok, unknown, wrong
from campaign.check.versions import judged
from campaign.settings import DetectorSettings

GIB = 1 << 30
LEAST_DISK = 2 * GIB  # rules of thumb: below these a first round hardly ends
LEAST_MEMORY = 2 * GIB
SMALL = {"torchvision": (None, "tiny"), "pointrend": (None, "small")}  # presets that need no GPU


def machine(folder: Path, detector: DetectorSettings | None) -> Iterator[Line]:
    """What there is to say of this machine, for a campaign in `folder` with this detector; None: not known yet."""
    own = version("label-studio-cluster-verification")
    yield judged("Python", platform.python_version(), where=f" with label-studio-cluster-verification {own}")
    yield _disk(folder)
    memory = psutil.virtual_memory()
    said = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    enough = memory.available >= LEAST_MEMORY
    yield ok("memory", said) if enough else wrong("memory", said, f"leave {LEAST_MEMORY // GIB} GiB free")
    yield _gpu(detector)
    yield _detectron2(detector)
    yield _label_studio_ml()


def _disk(folder: Path) -> Line:
    place = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(place).free
    said = f"{free / GIB:.1f} GiB free at {place}"
    if free < LEAST_DISK:
        return wrong("disk", said, f"make room, at least {LEAST_DISK // GIB} GiB")
    return ok("disk", said)


def _gpu(detector: DetectorSettings | None) -> Line:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]
        free = torch.cuda.mem_get_info()[0] / GIB
        return ok("GPU", f"{', '.join(names)}, {free:.1f} GiB free on the first; torch {torch.__version__}")
    said = f"none that torch {torch.__version__} can use"
    if detector is None or detector.name not in SMALL:
        return ok("GPU", f"{said}; the presets tiny and small need none")
    preset = detector.options.get("preset")
    if preset in SMALL[detector.name]:
        return ok("GPU", f"{said}, and preset {preset or SMALL[detector.name][1]} needs none")
    hint = "train and detect on a machine with one (campaign worker --queue gpu), or install its driver"
    return wrong("GPU", f"{said}; preset {preset} wants one", hint)


def _detectron2(detector: DetectorSettings | None) -> Line:
    needed = detector is not None and detector.name == "pointrend"
    hint = "make pointrend, or as README.md says under Detectors"
    try:
        import_module("detectron2._C")
    except ModuleNotFoundError as error:
        if needed:
            return wrong(
                "detectron2", f"not installed ({error.name} is missing), and detector pointrend needs it", hint
            )
        return ok("detectron2", "not installed; only detector pointrend needs it")
    except ImportError as error:  # built for another torch
        said = f"does not load: {' '.join(str(error).split())[:200]}"
        return wrong("detectron2", said, hint) if needed else unknown("detectron2", said, hint)
    return ok("detectron2", version("detectron2"))


def _label_studio_ml() -> Line:
    try:
        return judged("label-studio-ml", version("label-studio-ml"))
    except PackageNotFoundError:
        return ok("label-studio-ml", "not installed; only `label-studio-ml start` needs it")
