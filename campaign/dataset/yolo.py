"""The YOLO segmentation export: a folder with `data.yaml` and, for each image, a text file with a polygon a line."""

from __future__ import annotations

import json
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from campaign.dataset.polygons import PolygonLoss, outline
from campaign.records.dataset_masks import DatasetMasks
from ml_backend.errors import InputError

HEAD = "# Instance masks collected by cluster verification"


def export_yolo(
    folder: Path,
    masks: DatasetMasks,
    images: Sequence[Mapping[str, Any]],
    classes: Mapping[int, str],
    parts: Mapping[int, str],
    info: Mapping[str, Any],
) -> PolygonLoss:
    """Writes labels/PART/NAME.txt for each image, `data.yaml` and `info.json`; returns what polygons lost.

    `parts` says to which part each image belongs, {image id: name}. Images themselves belong below `images/PART`.
    The folder is new, empty, or holds an earlier export of this kind, which goes; it changes as a whole or not at all.
    Raises InputError where it holds something else, two images would have one label file, or it cannot be written.
    """
    if folder.exists() and not _replaceable(folder):
        raise InputError(folder, "a new or empty folder, or an earlier export", "one that holds other files")
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        loss = _write(partial, masks, images, classes, parts, info)
        if folder.exists():
            # Images that were copied before need not be copied again.
            if (folder / "images").exists():
                (folder / "images").replace(partial / "images")
            shutil.rmtree(folder)
        partial.replace(folder)
    except OSError as error:
        raise InputError(folder, "a folder that can be written", error.strerror or str(error)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return loss


def label_file(part: str, file_name: str) -> PurePosixPath:
    """Where an image's polygons lie below the folder."""
    return PurePosixPath("labels", part, PurePosixPath(file_name.replace("\\", "/")).with_suffix(".txt"))


def image_file(part: str, file_name: str) -> PurePosixPath:
    """Where the image itself lies below the folder."""
    return PurePosixPath("images", part, file_name.replace("\\", "/"))


def _write(
    folder: Path, masks: DatasetMasks, images: Sequence[Mapping[str, Any]], classes: Mapping[int, str],
    parts: Mapping[int, str], info: Mapping[str, Any],
) -> PolygonLoss:  # fmt: skip
    index = {class_id: n for n, class_id in enumerate(classes)}
    lines: dict[int, list[str]] = defaultdict(list)
    loss = PolygonLoss()
    rows = zip(masks.mask_id.tolist(), masks.image_id.tolist(), masks.class_id.tolist(), masks.rles(), strict=True)
    for mask_id, image_id, class_id, rle in rows:
        found = outline(rle, single=True)
        if not loss.add(mask_id, found):
            continue
        height, width = rle["size"]
        points = found.rings[0] / (width, height)
        lines[image_id].append(" ".join([str(index[class_id]), *(f"{v:.6g}" for v in points.reshape(-1))]))
    taken: dict[PurePosixPath, str] = {}
    for row in images:
        name = str(row["file_name"])
        place = label_file(parts[row["id"]], name)
        if (other := taken.setdefault(place, name)) != name:
            raise InputError(f"image {name}", "a name that no other image has but for its suffix", other)
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines[row["id"]]), encoding="utf-8")
    (folder / "info.json").write_text(json.dumps({**info, "polygons": loss.as_dict()}, indent=2) + "\n")
    (folder / "data.yaml").write_text(_yaml(classes, sorted(set(parts.values()))), encoding="utf-8")
    return loss


def _yaml(classes: Mapping[int, str], parts: Sequence[str]) -> str:
    places = {part: f"images/{part}" for part in parts}
    places.setdefault("val", places.get("train", "images/train"))
    lines = [HEAD, "path: .", *(f"{part}: {places[part]}" for part in ("train", "val", "test") if part in places)]
    # JSON is YAML, whatever signs a class's name has.
    return (
        "\n".join([*lines, "names:", *(f"  {n}: {json.dumps(name)}" for n, name in enumerate(classes.values()))]) + "\n"
    )


def _replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    head = folder / "data.yaml"
    return not any(folder.iterdir()) or (head.is_file() and head.read_text(encoding="utf-8").startswith(HEAD))
