"""COCO files: read and validated at the door, trusted inside."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from pycocotools import mask as mask_util

from ml_backend.buckets import is_url
from ml_backend.errors import InputError, brief
from ml_backend.files import whole_file
from ml_backend.masks.fetched import file_of, is_fetched, place_of
from ml_backend.masks.limits import MAX_PIXELS, check_size, is_id
from ml_backend.masks.polygons import fill
from ml_backend.masks.rle import checked, packed


@dataclass(frozen=True)
class ImageRecord:
    """One image: its id and size in pixels as the COCO file states them, and where its file lies.

    `exhaustive` is False where only some of the image's objects are annotated, so that what is not
    annotated must not be learnt as background (masks obtained by a campaign in earlier rounds). `coco_id` is its id in
    the COCO file that it came from, where `id` is another.
    """

    id: int
    file_name: str
    width: int
    height: int
    path: Path
    exhaustive: bool = True
    coco_id: int | None = None


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
            _further(coco["images"], _IMAGE_FIELDS),
            _further(coco["categories"], {"id", "name"}),
        )

    def __bool__(self) -> bool:
        return bool(self.info or self.licenses or self.images or self.categories)


_IMAGE_FIELDS = {"id", "file_name", "width", "height", "exhaustive"}


def image_row(row: dict[str, Any]) -> dict[str, Any]:
    """The further fields of an image's row, such as `license` and `date_captured`."""
    return {k: v for k, v in row.items() if k not in _IMAGE_FIELDS}


def _further(rows: list[dict[str, Any]], known: set[str]) -> dict[int, dict[str, Any]]:
    kept = ((row["id"], {k: v for k, v in row.items() if k not in known}) for row in rows)
    return {number: further for number, further in kept if further}


@dataclass
class CocoDataset:
    """Images, classes {category id: name} and annotations of one COCO file, and what else it says."""

    images: list[ImageRecord]
    classes: dict[int, str]
    annotations: list[Annotation] = field(default_factory=list)
    fields: SourceFields = field(default_factory=SourceFields, compare=False)

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
        classes = classes_of(json_path, coco)
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
    check_size(height, width)
    if isinstance(segmentation, list):
        return fill(segmentation, height, width)
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        raise ValueError("polygons or an RLE object")
    size, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        raise ValueError(f"a mask of size {[height, width]}, got {brief(size)}")
    if isinstance(counts, list):
        if any(type(c) is not int or not 0 <= c <= height * width for c in counts):
            raise ValueError(f"run lengths that sum to {height * width}")
        return {"size": [height, width], "counts": packed(np.array(counts, np.int64), height, width)}
    if isinstance(counts, str):
        counts = counts.encode("ascii", "replace")
    if not isinstance(counts, bytes):
        raise ValueError("counts of an RLE")
    return {"size": [height, width], "counts": checked(counts, height, width)}


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON, whole or not at all. Raises InputError where the file cannot be written."""
    with whole_file(path) as file:
        json.dump(value, file)


@contextmanager
def opened_coco(path: Path) -> Iterator[IO[str]]:
    """A COCO file that is read inside; InputError says why it cannot be, or that it is no JSON."""
    try:
        with path.open(encoding="utf-8") as file:
            yield file
    except FileNotFoundError:
        raise InputError(path, "a COCO file", "no such file") from None
    except (ValueError, RecursionError) as error:
        raise InputError(path, "JSON", str(error)) from None
    except OSError as error:
        raise InputError(path, "a readable COCO file", error.strerror or str(error)) from None


def read_json(path: Path, results: bool = False) -> Any:
    """The COCO object in a file; with `results` it may also be a list, of results. Raises InputError otherwise."""
    with opened_coco(path) as file:
        coco = json.load(file)
    if results and isinstance(coco, list):
        return coco
    if not isinstance(coco, dict) or not isinstance(coco.get("images"), list):
        raise InputError(path, "a COCO object with images", type(coco).__name__)
    if not isinstance(coco.get("annotations", []), list):
        raise InputError(path, "a list of annotations", type(coco["annotations"]).__name__)
    return coco


def classes_of(path: Path, coco: dict) -> dict[int, str]:
    """{category id: name} of a COCO object. Raises InputError where one is malformed or doubled, or there is none."""
    classes: dict[int, str] = {}
    names: set[str] = set()
    categories = coco.get("categories")
    for row in categories if isinstance(categories, list) else []:
        if not isinstance(row, dict) or not is_id(row.get("id")) or not _is_name(row.get("name")):
            raise InputError(f"{path} categories", "an integer id and a name each", brief(row))
        if row["id"] in classes:
            raise InputError(f"{path} categories", "unique ids", f"id {row['id']} twice")
        name = str(row["name"])
        if name in names:
            raise InputError(f"{path} categories", "unique names", f"{brief(name)} twice")
        names.add(name)
        classes[row["id"]] = name
    if not classes:
        raise InputError(f"{path} categories", "at least one class", "none")
    return classes


def _images(path: Path, coco: dict, folder: Path | None) -> list[ImageRecord]:
    if folder is not None and not folder.is_dir() and not is_fetched(folder):
        raise InputError(folder, "a folder of images", "no such folder")
    images: list[ImageRecord] = []
    seen: set[int] = set()
    for image in images_of(path, coco["images"], folder):
        if image.id in seen:
            raise InputError(f"{path} images", "unique ids", f"id {image.id} twice")
        seen.add(image.id)
        images.append(image)
    return images


def images_of(path: Path, rows: Iterable[Any], folder: Path | None, root: Path | None = None) -> Iterator[ImageRecord]:
    """The images of rows of a COCO file, one by one; their ids may be doubled.

    `root` is the folder resolved, for whoever asks for one row after the other. Raises InputError where one is
    malformed, or its file is not in the folder.
    """
    root = root or (folder.resolve() if folder else None)
    for row in rows:
        if not isinstance(row, dict) or not is_id(row.get("id")) or not _is_name(row.get("file_name")):
            raise InputError(f"{path} images", "an integer id and a file_name each", brief(row))
        name, width, height = str(row["file_name"]), row.get("width"), row.get("height")
        file = Path(name) if folder is None else _file(f"{path} image {row['id']}", folder, root, name)
        got = f"{brief(width)}x{brief(height)}"
        if not (type(width) is int and type(height) is int and width > 0 and height > 0):
            raise InputError(f"{path} image {row['id']}", "a width and a height in pixels", got)
        if width * height > MAX_PIXELS:
            raise InputError(f"{path} image {row['id']}", f"at most {MAX_PIXELS} pixels", got)
        yield ImageRecord(row["id"], name, width, height, file, bool(row.get("exhaustive", True)))


def _file(thing: str, folder: Path, root: Path | None, name: str) -> Path:
    """The file `name` below `folder`, resolved `root`. Raises InputError where it is outside, or there is none.

    In an object store it is not looked for: who checks images reads them.
    """
    if is_fetched(folder):
        if ".." in name.split("/") or is_url(name):
            raise InputError(thing, f"an object below {place_of(folder)}", name)
        return file_of(f"{place_of(folder)}/{name}")
    file = folder / name
    try:
        below, there = file.resolve().is_relative_to(root or folder), file.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # a name that no file can have; links in a circle
        raise InputError(thing, f"a file below {folder}", error) from None
    if not below:
        raise InputError(thing, f"a file below {folder}", name)
    if not there:
        raise InputError(thing, f"the file {file}", "no such file")
    return file


def _is_name(value: Any) -> bool:
    """Whether a value is a text with something in it; numbers name classes, too."""
    return (isinstance(value, str) or is_id(value)) and bool(str(value).strip())


def _annotations(path: Path, coco: dict, images: dict[int, ImageRecord], classes: dict[int, str]) -> list[Annotation]:
    annotations: list[Annotation] = []
    seen: set[int] = set()
    for number, row in enumerate(coco.get("annotations", []), 1):
        if not isinstance(row, dict):
            raise InputError(f"{path} annotations", "an object each", type(row).__name__)
        key = row.get("id", number)
        name = f"{path} annotation {brief(row['id']) if 'id' in row else f'number {number}'}"
        if not is_id(key):
            raise InputError(name, "an integer id", brief(key))
        if key in seen:
            raise InputError(name, "a unique id", "the same id twice")
        seen.add(key)
        image_id, class_id = row.get("image_id", -1), row.get("category_id")
        image = images.get(int(image_id)) if is_id(image_id) else None
        if image is None:
            raise InputError(name, "an image_id of this file", brief(image_id))
        if not is_id(class_id) or class_id not in classes:
            raise InputError(name, f"a category_id among {brief(sorted(classes))}", brief(class_id))
        try:
            rle = to_rle(row.get("segmentation"), image.height, image.width)
        except ValueError as error:
            raise InputError(f"{name} segmentation", str(error), brief(row.get("segmentation"))) from None
        if not mask_util.area(rle):
            raise InputError(f"{name} segmentation", "a mask of at least one pixel", "an empty mask")
        annotations.append(Annotation(key, image.id, class_id, rle, bool(row.get("iscrowd", 0))))
    return annotations


def decode(rle: dict) -> np.ndarray:
    """A mask as (height, width) uint8 of 0 and 1."""
    return mask_util.decode(rle)
