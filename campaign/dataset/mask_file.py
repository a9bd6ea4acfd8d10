"""COCO files of anybody's masks, read without their images, and two of them brought to one numbering."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ml_backend.errors import InputError
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord, read_json


@dataclass(frozen=True)
class MaskFile:
    """The masks of a COCO file and what it says of them.

    `scores` holds the score of each annotation that states one, by its id, and `attributes` those of each that has
    any. `info` is the file's own.
    """

    path: Path
    data: CocoDataset
    scores: Mapping[int, float] = field(default_factory=dict)
    attributes: Mapping[int, Mapping[str, Any]] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


def read_masks(path: str | Path, of: MaskFile | None = None) -> MaskFile:
    """The masks in a COCO file; a COCO results file (a list) is read as results on the images and classes of `of`.

    Raises InputError where the file is none of these, or its masks are malformed, see `CocoDataset.load`.
    """
    path = Path(path)
    coco = read_json(path, results=of is not None)
    if isinstance(coco, list):
        assert of is not None
        images = {i.id: i for i in of.data.images}
        rows = [{**row, "id": n} if isinstance(row, dict) else row for n, row in enumerate(coco, 1)]
        head = {
            "images": [{"id": i.id, "file_name": i.file_name, "width": i.width, "height": i.height}
                       for i in images.values()],
            "categories": [{"id": k, "name": v} for k, v in of.data.classes.items()],
        }  # fmt: skip
        coco = head | {"annotations": rows}
    data = CocoDataset.parse(coco, path)
    scores: dict[int, float] = {}
    attributes: dict[int, Mapping[str, Any]] = {}
    for annotation, row in zip(data.annotations, coco.get("annotations", []), strict=True):
        own = row.get("attributes")
        if isinstance(own, dict):
            attributes[annotation.id] = own
        score = row.get("score", (own or {}).get("score") if isinstance(own, dict) else None)
        if isinstance(score, (int, float)) and not isinstance(score, bool):
            if not math.isfinite(score):
                raise InputError(f"{path} annotation {annotation.id}", "a score that is a number", score)
            scores[annotation.id] = float(score)
    info = coco.get("info")
    return MaskFile(path, data, scores, attributes, info if isinstance(info, dict) else {})


@dataclass(frozen=True)
class Aligned:
    """Two sets of masks, `first` and `second`, in one numbering of images and classes.

    Images are the same where their file names are, or else the base names of these; classes where their names are.
    `images` are those of `second` first. Crowds are left out of `first` and kept in `second`.
    """

    images: list[ImageRecord]
    classes: dict[int, str]
    first: list[Annotation]
    second: list[Annotation]
    shared: frozenset[int]  # images that both have


def align(first: MaskFile, second: MaskFile) -> Aligned:
    """The masks of two files in one numbering.

    Raises InputError where an image has another size in the other file, or the base names by which images of the two
    would have to be told apart are not unique.
    """
    images = list(second.data.images)
    places = {image.file_name: n for n, image in enumerate(images)}
    bases = _bases(second, images)
    moved: dict[int, int] = {}
    own_bases = _bases(first, first.data.images)
    for image in first.data.images:
        at = places.get(image.file_name)
        if at is None:
            at = _by_base(image, bases, own_bases, second)
        if at is None:
            at = len(images)
            images.append(image)
        elif (images[at].width, images[at].height) != (image.width, image.height):
            want = f"{images[at].width}x{images[at].height} as in {second.path}"
            raise InputError(f"{first.path} image {image.file_name}", want, f"{image.width}x{image.height}")
        moved[image.id] = at
    names = list(dict.fromkeys([*second.data.classes.values(), *first.data.classes.values()]))
    number = {name: n for n, name in enumerate(names, 1)}
    placed = {image.id: n for n, image in enumerate(second.data.images)}
    return Aligned(
        [ImageRecord(n, i.file_name, i.width, i.height, i.path) for n, i in enumerate(images)],
        {n: name for name, n in number.items()},
        [a for a in _renumbered(first, moved, number) if not a.iscrowd],
        _renumbered(second, placed, number),
        frozenset(n for n in moved.values() if n < len(second.data.images)),
    )


def _renumbered(file: MaskFile, images: Mapping[int, int], number: Mapping[str, int]) -> list[Annotation]:
    classes = file.data.classes
    return [
        Annotation(a.id, images[a.image_id], number[classes[a.class_id]], a.rle, a.iscrowd)
        for a in file.data.annotations
    ]


def _bases(file: MaskFile, images: list[ImageRecord]) -> dict[str, int | None]:
    """The place of each image by the base name of its file; None where several have it."""
    names = [base_name(i.file_name) for i in images]
    often = Counter(names)
    return {name: n if often[name] == 1 else None for n, name in enumerate(names)}


def _by_base(
    image: ImageRecord, bases: Mapping[str, int | None], own: Mapping[str, int | None], other: MaskFile
) -> int | None:
    base = base_name(image.file_name)
    if base not in bases:
        return None
    at = bases[base]
    if at is None or own[base] is None:
        raise InputError(f"image {image.file_name}", f"a base name that one image of {other.path} has", "several")
    return at


def base_name(file_name: str) -> str:
    r"""The last part of a file's path, whichever slashes it has.

    >>> base_name("train/a.png"), base_name("C:\\a.png")
    ('a.png', 'a.png')
    """
    return PurePosixPath(file_name.replace("\\", "/")).name


def scores_of(file: MaskFile, annotations: list[Annotation]) -> np.ndarray | None:
    """The score of each annotation, (n,) float64; None where one states none."""
    if not annotations or any(a.id not in file.scores for a in annotations):
        return None
    return np.array([file.scores[a.id] for a in annotations], np.float64)
