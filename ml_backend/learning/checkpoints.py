"""Checkpoints: what a finished run ends with and what an unfinished one goes on from, named by what they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ml_backend.errors import InputError
from ml_backend.files import write_whole
from ml_backend.masks.coco import CocoDataset

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unfinished:
    """The state of a run that is under way, in the file `path`; a run of another `fingerprint` leaves it aside."""

    path: Path
    fingerprint: str

    def load(self) -> dict[str, Any] | None:
        """The state that was stored last, on the CPU; None where there is none, or none of this run."""
        if not self.path.is_file():
            return None
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
            if state["fingerprint"] == self.fingerprint:
                return state
            log.info("%s belongs to another run; training starts anew", self.path)
        except Exception as error:
            log.warning("%s cannot be read (%s); training starts anew", self.path, error)
        return None

    def save(self, state: dict[str, Any]) -> None:
        """Stores the state in place of the one before. Raises InputError where the file cannot be written."""
        save(self.path, {"fingerprint": self.fingerprint, **state})


def save(path: Path, value: dict[str, Any]) -> None:
    """Writes `value` with torch.save, whole or not at all. Raises InputError where the file cannot be written."""

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            torch.save(value, file)

    try:
        write_whole(path, write)
    except RuntimeError as error:  # what torch says of a full disk
        raise InputError(path, "a file that can be written", error) from None


def read(path: Path, form: str) -> dict[str, Any]:
    """The checkpoint of a finished run at `path`, on the CPU. Raises InputError where it is none of format `form`."""
    if not path.is_file():
        raise InputError(path, "a checkpoint", "no such file")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(path, "a checkpoint", f"a file that cannot be read ({type(error).__name__})") from None
    if not isinstance(stored, dict) or stored.get("format") != form:
        raise InputError(path, f"a checkpoint of format {form}", "another file")
    return stored


def digest(*parts: Any) -> str:
    """A name, 16 hexadecimal digits, for values: dicts and lists by their JSON, bytes and tensors by content.

    >>> digest({"steps": 5, "seed": 0}) == digest({"seed": 0, "steps": 5})
    True
    """
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, dict) and any(isinstance(v, Tensor) for v in part.values()):
            for key in sorted(part):
                total.update(key.encode())
                total.update(part[key].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(part, bytes):
            total.update(part)
        else:
            total.update(json.dumps(part, sort_keys=True, default=str).encode())
    return total.hexdigest()[:16]


def fingerprint(
    options: dict[str, Any], data: CocoDataset, heldout: CocoDataset | None, start: dict[str, Tensor] | None
) -> str:
    """A name for all that the result of a run depends on: another result must not be taken for it.

    Args:
        options: that change the weights.
        data: what is learnt from.
        heldout: what weights are chosen, predicted IoU is calibrated and metrics are measured by.
        start: weights to start from.
    """
    return digest(options, _content(data), _content(heldout) if heldout else None, start or {})


def _content(data: CocoDataset) -> list[Any]:
    images = [[i.id, i.file_name, i.exhaustive] for i in data.images]
    annotations = [[a.id, a.image_id, a.class_id, a.iscrowd, a.rle["counts"].decode()] for a in data.annotations]
    return [sorted(data.classes.items()), images, annotations]
