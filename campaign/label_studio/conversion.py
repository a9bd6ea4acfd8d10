"""Any project with masks as exact COCO: holes and parts kept, one annotation for each region and label.

What cannot be converted is counted by what it is, and what is malformed is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from campaign.label_studio.client import Client
from campaign.label_studio.controls import MaskControls, mask_controls
from campaign.label_studio.source import (
    FIELDS,
    MALFORMED,
    Region,
    class_ids,
    download,
    file_names,
    parse_regions,
    standing_annotation,
    task_pages,
)
from ml_backend.errors import InputError
from ml_backend.masks.coco import Annotation, annotation_json, write_json
from ml_backend.masks.images import image_size

NAMED = 100  # malformed regions that are named; all are counted


@dataclass
class Conversion:
    """What became of a project: its COCO object, and what is not in it.

    `left_out` counts regions by why they are no masks, `tasks_left_out` tasks by why they are no images, and
    `malformed` names the first regions that could not be read.
    """

    coco: dict[str, Any]
    left_out: Counter[str] = field(default_factory=Counter)
    tasks_left_out: Counter[str] = field(default_factory=Counter)
    malformed: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "images": len(self.coco["images"]),
            "annotations": len(self.coco["annotations"]),
            "classes": [row["name"] for row in self.coco["categories"]],
            "left_out": dict(sorted(self.left_out.items())),
            "tasks_left_out": dict(sorted(self.tasks_left_out.items())),
            "malformed": self.malformed,
        }


@dataclass(frozen=True)
class _Task:
    address: str
    annotation: dict[str, Any]
    regions: list[tuple[str, Region]]
    size: tuple[int, int] | None


def convert(
    client: Client, project_id: int, images: Path | None = None, progress: Callable[[int], None] | None = None
) -> Conversion:
    """The standing annotation of each task, see `source.standing_annotation`, as a COCO object; nothing is written.

    An image is as large as its regions say. With `images` the images are downloaded there too, and one without a
    region is kept; otherwise such a task is left out, as nothing says how large its image is. `progress` is called
    with the number of tasks read so far. Raises InputError where the labeling config takes no masks or an image cannot
    be had, LabelStudioError as a client does.
    """
    project = client.project(project_id)
    controls = mask_controls(project["label_config"])
    result = Conversion({})
    tasks: dict[int, _Task] = {}
    seen = 0
    pages = task_pages(client, project_id, f"{FIELDS},completed_by")
    for seen, task in enumerate((task for page in pages for task in page), 1):
        if (read := _read_task(task, controls, result)) is not None:
            tasks[task["id"]] = read
        if progress:
            progress(seen)
    if not seen:
        raise InputError(f"project {project_id}", "at least one task", "none")
    sizes = {t: task.size for t, task in tasks.items() if task.size is not None}
    if images is not None:
        sizes = _sizes(client, tasks, images)
    result.tasks_left_out["annotated, but without a region that says how large the image is"] += len(
        tasks.keys() - sizes.keys()
    )
    result.tasks_left_out = +result.tasks_left_out
    result.coco.update(_coco(project, controls, {t: tasks[t] for t in sizes}, sizes, result.left_out))
    return result


def save(conversion: Conversion, path: Path) -> None:
    """Writes the COCO file, whole or not at all. Raises InputError where it cannot be written."""
    write_json(path, conversion.coco)


def _read_task(task: dict[str, Any], controls: MaskControls, result: Conversion) -> _Task | None:
    annotation = standing_annotation(task)
    if annotation is None:
        result.tasks_left_out["not annotated"] += 1
        return None
    address = (task.get("data") or {}).get(controls.data_key)
    if not isinstance(address, str) or not address:
        result.tasks_left_out[f"without an image under {controls.data_key}"] += 1
        return None
    others = [a for a in task.get("annotations") or [] if not a.get("was_cancelled")]
    result.left_out["further annotations of a task"] += len(others) - 1
    result.left_out = +result.left_out
    regions: list[tuple[str, Region]] = []
    for region_id, parts in _by_id(annotation["result"]).items():
        before = result.left_out[MALFORMED]
        regions += [(region_id, r) for r in parse_regions(parts, controls, result.left_out)]
        if result.left_out[MALFORMED] > before and len(result.malformed) < NAMED:
            result.malformed.append(f"task {task['id']} region {region_id}")
    return _Task(address, annotation, regions, _stated_size(annotation["result"]))


def _by_id(parts: Any) -> dict[str, list[dict[str, Any]]]:
    """The parts of each region: one of Labels and a plain Brush comes in two of one id."""
    found: dict[str, list[dict[str, Any]]] = {}
    for number, part in enumerate(parts if isinstance(parts, list) else []):
        if isinstance(part, dict):
            found.setdefault(str(part.get("id", f"number {number}")), []).append(part)
    return found


def _stated_size(parts: Any) -> tuple[int, int] | None:
    """The (width, height) that most regions state."""
    stated = Counter(
        (part.get("original_width"), part.get("original_height"))
        for part in (parts if isinstance(parts, list) else [])
        if isinstance(part, dict)
    )
    sound = [size for size, _ in stated.most_common() if all(isinstance(v, int) and v > 0 for v in size)]
    return (int(sound[0][0]), int(sound[0][1])) if sound else None  # type: ignore[arg-type]


def _sizes(client: Client, tasks: dict[int, _Task], images: Path) -> dict[int, tuple[int, int]]:
    """The (width, height) of each task's image, from the image itself, which is kept below the folder by its name."""
    addresses = {t: task.address for t, task in tasks.items()}
    names = file_names(addresses)
    sizes = {}
    for task_id, path in download(client, addresses, images / ".cache").items():
        sizes[task_id] = image_size(path)
        target = images / names[task_id]
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            target.hardlink_to(path)
    return sizes


def _coco(
    project: dict[str, Any], controls: MaskControls, tasks: dict[int, _Task], sizes: dict[int, tuple[int, int]],
    left_out: Counter[str],
) -> dict[str, Any]:  # fmt: skip
    names = file_names({t: task.address for t, task in tasks.items()})
    classes = class_ids(controls, {t: [r for _, r in task.regions] for t, task in tasks.items()})
    ids = {name: number for number, name in classes.items()}
    rows: list[dict[str, Any]] = []
    for task_id, task in tasks.items():
        for region_id, region in task.regions:
            if (region.width, region.height) != sizes[task_id]:
                left_out["regions of another size than their image"] += 1
                continue
            left_out["further labels of a region, each an annotation of its own"] += len(region.labels) - 1
            for label in region.labels:
                row = annotation_json(Annotation(len(rows) + 1, task_id, ids[label], region.rle))
                user = task.annotation.get("completed_by")
                user = user.get("id") if isinstance(user, dict) else user
                said = {"region": region_id, "annotation": task.annotation["id"], "user": user}
                rows.append(row | {"attributes": {k: v for k, v in said.items() if v is not None}})
    for what in [what for what, count in left_out.items() if not count]:
        del left_out[what]
    return {
        "info": {"description": str(project.get("title") or ""), "label_studio_project": project["id"]},
        "licenses": [],
        "categories": [{"id": number, "name": name} for number, name in classes.items()],
        "images": [
            {"id": t, "file_name": names[t], "width": sizes[t][0], "height": sizes[t][1], "source_task": t}
            for t in tasks
        ],
        "annotations": rows,
    }
