"""Masks written back to the source project, where the admin asks for it."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from campaign.label_studio.client import Client, LabelStudioUnavailable
from campaign.label_studio.controls import mask_controls
from ml_backend.masks.regions import Target, to_regions

logger = logging.getLogger(__name__)

# Tasks in one request. Label Studio stores a request of this size whole or not at all.
BATCH = 50


@dataclass(frozen=True)
class WrittenMask:
    """A mask for the task that shows its image; `rle` is COCO compressed RLE of the whole image."""

    task_id: int
    class_name: str
    rle: dict[str, Any]
    score: float | None = None


def write_back(
    client: Client,
    project_id: int,
    masks: Iterable[WrittenMask],
    version: str,
    *,
    annotations: bool = False,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Writes one prediction to each task, its masks as brush regions; returns how many tasks got theirs.

    `version` names what is written: a task that has a prediction of this version is left as it is, so that a run
    that was killed goes on where it was. With `annotations` the predictions then become annotations of the token's
    user, each once. `progress` is called with the number of tasks of each batch. Raises InputError where the project's
    labeling config has no BrushLabels for a class, LabelStudioError as a client does.
    """
    controls = mask_controls(client.project(project_id)["label_config"])
    by_task: dict[int, list[WrittenMask]] = defaultdict(list)
    for mask in masks:
        by_task[mask.task_id].append(mask)
    names = {m.class_name for own in by_task.values() for m in own}
    targets = {name: Target("BrushLabels", controls.brush(name), controls.image_name, name) for name in sorted(names)}
    held = _written(client, project_id, version)
    todo = [task for task in sorted(by_task) if task not in held]
    for start in range(0, len(todo), BATCH):
        part = todo[start : start + BATCH]
        body = [
            {
                "task": task,
                "model_version": version,
                "score": _mean([m.score for m in by_task[task]]),
                "result": [
                    region for m in by_task[task] for region in to_regions(m.rle, targets[m.class_name], m.score)
                ],
            }
            for task in part
        ]
        _import(client, project_id, body, version)
        if progress:
            progress(len(part))
    if annotations:
        _become_annotations(client, project_id, sorted(by_task), version)
    return len(todo)


def _written(client: Client, project_id: int, version: str) -> set[int]:
    """Tasks that have a prediction of this version."""
    tasks = client.tasks(project_id, "id,predictions,model_version", annotations=True)
    return {t["id"] for t in tasks if any(p.get("model_version") == version for p in t.get("predictions") or [])}


def _import(client: Client, project_id: int, body: list[dict[str, Any]], version: str) -> None:
    """Imports one batch. Where the connection fails it may have arrived or not, so look before trying again."""
    problem: LabelStudioUnavailable | None = None
    for _ in range(3):
        try:
            client.request(
                "POST", f"api/projects/{project_id}/import/predictions", thing=f"project {project_id}", body=body
            )
            return
        except LabelStudioUnavailable as error:
            logger.warning("%s; looking which predictions arrived", error)
            problem = error
        held = _written(client, project_id, version)
        body = [row for row in body if row["task"] not in held]
        if not body:
            return
    assert problem
    raise problem


def _become_annotations(client: Client, project_id: int, tasks: list[int], version: str) -> None:
    """Label Studio's own action; it passes over predictions that have become annotations before."""
    for start in range(0, len(tasks), BATCH):
        client.request(
            "POST",
            "api/dm/actions",
            thing=f"project {project_id}",
            params={"id": "predictions_to_annotations", "project": project_id},
            body={
                "model_version": version,
                "selectedItems": {"all": False, "included": tasks[start : start + BATCH]},
            },
            repeatable=True,
        )


def _mean(scores: list[float | None]) -> float | None:
    known = [s for s in scores if s is not None]
    return sum(known) / len(known) if known else None
