"""What simulated annotators know and how they answer: true masks, what pages show, habits.

Like `campaign.demo.annotators`, which is a program of its own, this imports nothing of this project.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pycocotools import mask as mask_util

# Seconds between two looks for a task where there is none, and for which a failing server is borne with.
POLL_SECONDS = 0.3
PATIENCE_SECONDS = 60.0


class AnnotatorError(RuntimeError):
    """Something that ends the program, said in one line."""


class Truth:
    """True masks of some COCO files, looked up by an image's file name and a class's name.

    Label Studio puts eight hexadecimal digits before an upload's name, so a name also counts without them. Gold
    hidden among the questions shows images kept out of the pool, so their file is needed too.
    """

    def __init__(self, *paths: str | Path):
        self._classes: dict[tuple[int, str], int] = {}
        self._sizes: dict[tuple[int, int], tuple[int, int]] = {}
        self._images: dict[str, tuple[int, int]] = {}
        self._segments: dict[tuple[tuple[int, int], int], list[Any]] = defaultdict(list)
        for number, path in enumerate(paths):
            try:
                self._read(number, json.loads(Path(path).read_text()))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise AnnotatorError(
                    f"{path}: expected a COCO file with true masks, got {type(error).__name__} {error}"
                ) from None
        self._by_name = {Path(name).name: i for name, i in self._images.items()}
        self._rles: dict[tuple[tuple[int, int], int], list[dict]] = {}
        self._lock = threading.Lock()

    def _read(self, number: int, coco: dict) -> None:
        """Adds one file. Files number their images and classes as they like, so ids are kept with the file's number."""
        self._classes |= {(number, c["name"]): c["id"] for c in coco["categories"]}
        for image in coco["images"]:
            self._sizes[number, image["id"]] = (image["height"], image["width"])
            self._images.setdefault(image["file_name"], (number, image["id"]))
        for a in coco["annotations"]:
            if not a.get("iscrowd"):
                self._segments[(number, a["image_id"]), a["category_id"]].append(a["segmentation"])

    def image(self, name: str) -> tuple[int, int] | None:
        """The file and id of the image called `name`, or None."""
        base = Path(name).name
        for table, key in (
            (self._images, name),
            (self._by_name, base),
            (self._by_name, re.sub(r"^[0-9a-f]{8}-", "", base)),
        ):
            if key in table:
                return table[key]
        return None

    def best_iou(self, image: str, class_name: str, rle: dict) -> float:
        """The largest IoU of a mask with a true mask of its class on its image; 0 where there is none."""
        image_id = self.image(image)
        class_id = None if image_id is None else self._classes.get((image_id[0], class_name))
        if image_id is None or class_id is None:
            return 0.0
        with self._lock:
            if (image_id, class_id) not in self._rles:
                size = self._sizes[image_id]
                self._rles[image_id, class_id] = [_rle(s, *size) for s in self._segments[image_id, class_id]]
            true = self._rles[image_id, class_id]
        mask = {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].encode("ascii")}
        if not true or true[0]["size"] != mask["size"]:
            return 0.0
        return float(mask_util.iou([mask], true, [0] * len(true)).max())


class Shown:
    """What pages show, from a file with a line of JSON for each, which may grow."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._pages: dict[str, dict[str, Any]] = {}
        self._read = 0
        self._lock = threading.Lock()

    def __call__(self, key: str) -> dict[str, Any] | None:
        """What the page of this name shows; it is waited for a while. None where the file does not say."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            with self._lock:
                self._look()
                if key in self._pages or time.monotonic() > until:
                    return self._pages.get(key)
            time.sleep(POLL_SECONDS)

    def _look(self) -> None:
        try:
            with self.path.open(encoding="utf-8") as file:
                file.seek(self._read)
                while (line := file.readline()).endswith("\n"):
                    page = json.loads(line)
                    self._pages[page["key"]] = page
                    self._read = file.tell()
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise AnnotatorError(
                f"{self.path}: expected a line of JSON for each page, got {type(error).__name__} {error}"
            ) from None


def _rle(segmentation: Any, height: int, width: int) -> dict:
    if isinstance(segmentation, list):
        rle = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        rle = mask_util.frPyObjects(segmentation, height, width)
    else:
        counts = segmentation["counts"]
        rle = {"size": segmentation["size"], "counts": counts.encode("ascii") if isinstance(counts, str) else counts}
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"]}


@dataclass(frozen=True)
class Habits:
    """How an annotator answers.

    Their eyes cut at the IoU `eye_cut`, by default at `k_iou`: from there on they take a mask for correct. `error` is
    the chance of an answer against their own eyes, `unsure` that of none (per mask), `skip` that of skipping a page.
    Masks whose IoU lies within `near_width` of the cut are judged so with the chance `near_error` by everyone
    alike: such mistakes are correlated. `alike` makes all of them so. All chances follow from `seed`, the mask and,
    unless alike, the user, never from the order of the pages.
    """

    k_iou: float = 0.75
    error: float = 0.0
    unsure: float = 0.0
    skip: float = 0.0
    near_width: float = 0.0
    near_error: float = 0.5
    seed: int = 0
    alike: bool = True
    eye_cut: float | None = None

    def verdict(self, iou: float, user: str, mask: str) -> str:
        """What is said, "yes", "no" or "unsure", of a mask with this IoU, known by its content `mask`."""
        own = "" if self.alike else user
        if chance(self.seed, "unsure", own, mask) < self.unsure:
            return "unsure"
        cut = self.k_iou if self.eye_cut is None else self.eye_cut
        seems = iou >= cut
        if abs(iou - cut) < self.near_width:
            return "yes" if seems != (chance(self.seed, "near", "", mask) < self.near_error) else "no"
        return "yes" if seems != (chance(self.seed, "error", own, mask) < self.error) else "no"


def chance(*parts: object) -> float:
    """A number in [0, 1) that follows from the parts alone."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
