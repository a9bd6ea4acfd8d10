"""COCO files: read and validated at the door, trusted inside."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ml_backend.errors import InputError
from ml_backend.files import whole_file


@dataclass(frozen=True)
class ImageRecord:
    """One image: its id and size in pixels as the COCO file states them, and where its file lies.

    `exhaustive` is False where only some of the image's objects are annotated, so that what is not
    annotated must not be learnt as background (masks obtained by a campaign in earlier rounds).
    """

    id: int
    file_name: str
    width: int
    height: int
    path: Path
    exhaustive: bool = True


@dataclass(frozen=True)
class Annotation:
    """One annotated instance; `rle` is {"size": [height, width], "counts": bytes}."""

    id: int
    image_id: int
    class_id: int
    rle: dict
    iscrowd: bool = False


@dataclass
class SourceFields:
    """What a COCO file says beyond what is used here, to be kept in an export.

    `info` and `licenses` as they are; `images` and `categories` by id, each with its further fields, such as
    `license` and `date_captured`; those without any are absent.
    """

    info: dict[str, Any] = field(default_factory=dict)
    licenses: list[dict[str, Any]] = field(default_factory=list)
    images: dict[int, dict[str, Any]] = field(default_factory=dict)
    categories: dict[int, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def parse(cls, coco: dict[str, Any]) -> SourceFields:
        """The fields in a COCO object whose images and categories are known to be sound."""
        info, licenses = coco.get("info"), coco.get("licenses")
        return cls(
            info if isinstance(info, dict) else {},
            [row for row in licenses if isinstance(row, dict)] if isinstance(licenses, list) else [],
            _further(coco["images"], {"id", "file_name", "width", "height", "exhaustive"}),
            _further(coco["categories"], {"id", "name"}),
        )

    def __bool__(self) -> bool:
        return bool(self.info or self.licenses or self.images or self.categories)


def _further(rows: list[dict[str, Any]], known: set[str]) -> dict[int, dict[str, Any]]:
    kept = ((row["id"], {k: v for k, v in row.items() if k not in known}) for row in rows)
    return {number: further for number, further in kept if further}


@dataclass
class CocoDataset:
    """Images, classes {category id: name} and annotations of one COCO file, and what else it says."""

    images: list[ImageRecord]
    classes: dict[int, str]
    annotations: list[Annotation] = field(default_factory=list)
    fields: SourceFields = field(default_factory=SourceFields)

    @classmethod
    def load(cls, json_path: str | Path, images_dir: str | Path, annotations: bool = True) -> CocoDataset:
        """The data set in `json_path` with its images in `images_dir`.

        With `annotations=False` they are not even looked at (a pool's belong to nobody here). Raises InputError
        where the file is missing or no COCO object, an id is doubled, an image file is missing, an annotation names
        an unknown image or class, a mask is empty, malformed or not of its image's size, or there is no class.
        """
        return cls.parse(read_json(Path(json_path)), Path(json_path), Path(images_dir), annotations)

    @classmethod
    def parse(
        cls, coco: dict[str, Any], json_path: Path, images_dir: Path | None = None, annotations: bool = True
    ) -> CocoDataset:
        """The data set in a COCO object that was read from `json_path`. Raises InputError like `load`.

        Without `images_dir` no image file is looked for, and an image's path is its file name.
        """
        classes = _classes(json_path, coco)
        images = _images(json_path, coco, images_dir)
        data = cls(images, classes, fields=SourceFields.parse(coco))
        if annotations:
            data.annotations = _annotations(json_path, coco, {i.id: i for i in images}, classes)
        return data

    @staticmethod
    def load_annotations(json_path: str | Path, images: list[ImageRecord], classes: dict[int, str]) -> list[Annotation]:
        """The annotations in `json_path` of `images`, wherever their files lie. Raises InputError like `load`."""
        return _annotations(Path(json_path), read_json(Path(json_path)), {i.id: i for i in images}, classes)

    def by_image(self) -> dict[int, list[Annotation]]:
        """Annotations by image id; images without any are absent."""
        grouped: dict[int, list[Annotation]] = defaultdict(list)
        for annotation in self.annotations:
            grouped[annotation.image_id].append(annotation)
        return dict(grouped)

    def save(self, path: str | Path) -> None:
        """Writes COCO JSON with compressed RLE, whole or not at all."""
        write_json(path, self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The data set as a COCO object."""
        images = []
        for i in self.images:
            row: dict[str, Any] = {"id": i.id, "file_name": i.file_name, "width": i.width, "height": i.height}
            if not i.exhaustive:
                row["exhaustive"] = False
            images.append(row)
        return {
            "info": {"description": "label-studio-cluster-verification"},
            "images": images,
            "categories": [{"id": k, "name": v} for k, v in self.classes.items()],
            "annotations": [annotation_json(a) for a in self.annotations],
        }


def annotation_json(annotation: Annotation) -> dict[str, Any]:
    """A COCO annotation with exact compressed RLE, area and box."""
    rle = annotation.rle
    return {
        "id": annotation.id,
        "image_id": annotation.image_id,
        "category_id": annotation.class_id,
        "segmentation": {"size": [int(s) for s in rle["size"]], "counts": rle["counts"].decode("ascii")},
        "area": float(mask_util.area(rle)),
        "bbox": [float(v) for v in mask_util.toBbox(rle)],
        "iscrowd": int(annotation.iscrowd),
    }


def to_rle(segmentation: Any, height: int, width: int) -> dict:
    """A COCO segmentation in any of its three forms as compressed RLE, {"size": [h, w], "counts": bytes}.

    Raises ValueError where it is malformed or of another size.
    """
    if isinstance(segmentation, list):
        if not segmentation or not all(
            isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 and all(isinstance(v, (int, float)) for v in p)
            for p in segmentation
        ):
            raise ValueError("polygons of at least three x, y points")
        rle = mask_util.merge(mask_util.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation, dict) and {"size", "counts"} <= segmentation.keys():
        if list(segmentation["size"]) != [height, width]:
            raise ValueError(f"a mask of size {[height, width]}, got {list(segmentation['size'])}")
        counts = segmentation["counts"]
        if isinstance(counts, list):
            if any(not isinstance(c, int) or c < 0 for c in counts) or sum(counts) != height * width:
                raise ValueError(f"run lengths that sum to {height * width}")
            return mask_util.frPyObjects(segmentation, height, width)
        rle = {
            "size": [height, width],
            "counts": counts.encode("ascii") if isinstance(counts, str) else counts,
        }
        if _pixels(rle["counts"]) != height * width:
            raise ValueError(f"a compressed RLE of {height * width} pixels")
    else:
        raise ValueError("polygons or an RLE object")
    return {"size": [height, width], "counts": rle["counts"]}


def _pixels(counts: bytes) -> int:
    """Pixels that a compressed RLE spans. pycocotools reads past the end of a malformed one, so count first."""
    runs: list[int] = []
    at = 0
    while at < len(counts):
        value, shift, more = 0, 0, True
        while more:
            if at >= len(counts):
                return -1
            c = counts[at] - 48
            if not 0 <= c < 64:
                return -1
            value |= (c & 0x1F) << shift
            more = bool(c & 0x20)
            at, shift = at + 1, shift + 5
            if not more and c & 0x10:
                value |= -1 << shift
        if len(runs) > 2:
            value += runs[-2]
        if value < 0:
            return -1
        runs.append(value)
    return sum(runs)


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON, whole or not at all. Raises InputError where the file cannot be written."""
    with whole_file(path) as file:
        json.dump(value, file)


def read_json(path: Path, results: bool = False) -> Any:
    """The COCO object in a file; with `results` it may also be a list, of results. Raises InputError otherwise."""
    try:
        with path.open() as file:
            coco = json.load(file)
    except FileNotFoundError:
        raise InputError(path, "a COCO file", "no such file") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(path, "JSON", str(error)) from None
    except OSError as error:
        raise InputError(path, "a readable COCO file", error.strerror or str(error)) from None
    if results and isinstance(coco, list):
        return coco
    if not isinstance(coco, dict) or not isinstance(coco.get("images"), list):
        raise InputError(path, "a COCO object with images", type(coco).__name__)
    if not isinstance(coco.get("annotations", []), list):
        raise InputError(path, "a list of annotations", type(coco["annotations"]).__name__)
    return coco


def _classes(path: Path, coco: dict) -> dict[int, str]:
    classes: dict[int, str] = {}
    categories = coco.get("categories")
    for row in categories if isinstance(categories, list) else []:
        if not isinstance(row, dict) or not isinstance(row.get("id"), int) or not str(row.get("name", "")).strip():
            raise InputError(f"{path} categories", "an integer id and a name each", row)
        if row["id"] in classes:
            raise InputError(f"{path} categories", "unique ids", f"id {row['id']} twice")
        if str(row["name"]) in classes.values():
            raise InputError(f"{path} categories", "unique names", f"{row['name']!r} twice")
        classes[row["id"]] = str(row["name"])
    if not classes:
        raise InputError(f"{path} categories", "at least one class", "none")
    return classes


def _images(path: Path, coco: dict, folder: Path | None) -> list[ImageRecord]:
    if folder is not None and not folder.is_dir():
        raise InputError(folder, "a folder of images", "no such folder")
    images: list[ImageRecord] = []
    seen: set[int] = set()
    for row in coco["images"]:
        if not isinstance(row, dict) or not isinstance(row.get("id"), int) or not row.get("file_name"):
            raise InputError(f"{path} images", "an integer id and a file_name each", row)
        if row["id"] in seen:
            raise InputError(f"{path} images", "unique ids", f"id {row['id']} twice")
        seen.add(row["id"])
        name, width, height = str(row["file_name"]), row.get("width"), row.get("height")
        file = Path(name) if folder is None else _image_file(path, row["id"], folder, name)
        if not (isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0):
            raise InputError(f"{path} image {row['id']}", "a width and a height in pixels", f"{width}x{height}")
        images.append(ImageRecord(row["id"], name, width, height, file, bool(row.get("exhaustive", True))))
    return images


def _image_file(path: Path, image_id: int, folder: Path, name: str) -> Path:
    file = folder / name
    if not file.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{path} image {image_id}", f"a file below {folder}", name)
    if not file.is_file():
        raise InputError(f"{path} image {image_id}", f"the file {file}", "no such file")
    return file


def _annotations(path: Path, coco: dict, images: dict[int, ImageRecord], classes: dict[int, str]) -> list[Annotation]:
    annotations: list[Annotation] = []
    seen: set[int] = set()
    for number, row in enumerate(coco.get("annotations", []), 1):
        if not isinstance(row, dict):
            raise InputError(f"{path} annotations", "an object each", type(row).__name__)
        name = f"{path} annotation {row.get('id', f'number {number}')}"
        key = row.get("id", number)
        if key in seen:
            raise InputError(name, "a unique id", "the same id twice")
        seen.add(key)
        image = images.get(row.get("image_id", -1))
        if image is None:
            raise InputError(name, "an image_id of this file", row.get("image_id"))
        if row.get("category_id") not in classes:
            raise InputError(name, f"a category_id among {sorted(classes)}", row.get("category_id"))
        try:
            rle = to_rle(row.get("segmentation"), image.height, image.width)
        except (ValueError, TypeError) as error:
            raise InputError(f"{name} segmentation", str(error), _brief(row.get("segmentation"))) from None
        if not mask_util.area(rle):
            raise InputError(f"{name} segmentation", "a mask of at least one pixel", "an empty mask")
        annotations.append(Annotation(key, image.id, row["category_id"], rle, bool(row.get("iscrowd", 0))))
    return annotations


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def decode(rle: dict) -> np.ndarray:
    """A mask as (height, width) uint8 of 0 and 1."""
    return mask_util.decode(rle)
