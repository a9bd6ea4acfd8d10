"""Masks written back to the source project, where the admin asks for it, and taken out again.

They go into the project's own controls as predictions of one version, by which they are known ever after, or as
annotations made of these. What people made in the project is never changed: an annotation that a person has touched
stays, even where it came from here.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from campaign.label_studio.client import Client, LabelStudioUnavailable
from campaign.label_studio.controls import MaskControls, mask_controls
from ml_backend.errors import InputError
from ml_backend.masks.brush import encode_brush_rles
from ml_backend.masks.coco import to_rle
from ml_backend.masks.regions import CONTROLS, Target, to_regions

logger = logging.getLogger(__name__)

# Predictions in one request, and about as many regions: each request costs the same again, however little is in it.
BATCH, BATCH_REGIONS = 500, 1000
# Tasks whose predictions become annotations in one request.
ACTION_BATCH = 50
PAGE_SIZE = 200
# Seconds: Label Studio takes out all predictions of a version in one request, however many they are.
REMOVAL = 1800.0
FIELDS = "id,predictions,result,model_version,annotations,parent_prediction,completed_by,lead_time"


@dataclass(frozen=True)
class WrittenMask:
    """A mask for the task that shows its image; `rle` is COCO compressed RLE of the whole image."""

    task_id: int
    class_name: str
    rle: dict[str, Any]
    score: float | None = None


@dataclass(frozen=True)
class Destination:
    """Where the masks of a class go: a control with the label; `plain` is the tool where Labels has the class."""

    target: Target
    plain: str | None = None

    @property
    def exact(self) -> bool:
        """Whether masks are kept to the pixel, with holes and parts."""
        return self.target.kind == "BrushLabels"

    def regions(self, rle: dict[str, Any], score: float | None, brush: list[int] | None) -> list[dict[str, Any]]:
        """The regions of a mask; `brush` is its brush RLE where it goes to a brush."""
        made = to_regions(rle, self.target, score, brush)
        return made if self.plain is None else [part for region in made for part in self._two_parts(region)]

    def _two_parts(self, region: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A region of Labels is one of the tool and one of the class, of the same id."""
        kind = self.target.kind.lower()
        shape = {k: v for k, v in region["value"].items() if k != kind}
        yield region | {"from_name": self.plain, "type": kind.removesuffix("labels"), "value": shape}
        yield region | {"type": "labels", "value": shape | {"labels": [self.target.label]}}


@dataclass
class Written:
    """What was done, in tasks: `written` anew, `replaced` where the masks have changed, `unchanged`, `emptied`.

    `annotated` are tasks that got an annotation, `left_to_people` those that got none because people have annotated
    them. `mean_iou` is that of the regions with their masks, 1 where all are brushes; None without masks.
    """

    written: int = 0
    replaced: int = 0
    unchanged: int = 0
    emptied: int = 0
    annotated: int = 0
    left_to_people: int = 0
    masks: int = 0
    mean_iou: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


@dataclass(frozen=True)
class Removed:
    """What was taken out, and how many annotations made here were kept because a person has touched them."""

    predictions: int
    annotations: int
    kept: int

    def as_dict(self) -> dict[str, int]:
        """For programs."""
        return asdict(self)


@dataclass
class _Held:
    """What a task holds of a version: its predictions with the ids of their regions, annotations made of these."""

    predictions: dict[int, frozenset[str]] = field(default_factory=dict)
    own: list[int] = field(default_factory=list)
    touched: int = 0
    others: int = 0


def write_back(
    client: Client,
    project_id: int,
    masks: Iterable[WrittenMask],
    version: str,
    *,
    annotations: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Writes one prediction to each task with all its masks, in the project's own controls.

    `version` names what is written. A task that holds exactly these masks under it is left as it is, so that a run
    that was killed goes on where it was; where the masks have changed, the prediction is exchanged, and where there
    are none any more, it goes. With `annotations` the predictions also become annotations of the token's user, each
    once, but for tasks that people have annotated. `progress` is called with the tasks done and all there are to do.
    Raises InputError where the labeling config has no control for a class, LabelStudioError as a client does.
    """
    by_task: dict[int, list[WrittenMask]] = defaultdict(list)
    for mask in masks:
        by_task[mask.task_id].append(mask)
    xml = client.project(project_id)["label_config"]
    places = destinations(mask_controls(xml), {m.class_name for own in by_task.values() for m in own})
    result = Written(masks=sum(map(len, by_task.values())))
    held = _held(client, project_id, version)
    loss = _Loss()
    order = sorted(by_task)
    bodies: list[dict[str, Any]] = []
    for done, task in enumerate(order, 1):
        regions = _regions(by_task[task], places, loss)
        known = held.get(task, _Held())
        if list(known.predictions.values()) == [frozenset(r["id"] for r in regions)]:
            result.unchanged += 1
        else:
            _clear(client, known)
            result.replaced += bool(known.predictions)
            result.written += not known.predictions
            score = _mean([m.score for m in by_task[task]])
            bodies.append({"task": task, "model_version": version, "score": score, "result": regions})
        full = len(bodies) >= BATCH or sum(len(b["result"]) for b in bodies) >= BATCH_REGIONS
        if full or done == len(order):
            if bodies:
                _import(client, project_id, bodies, version)
            bodies = []
            if progress:
                progress(done, len(order))
    for task, known in held.items():
        if task not in by_task and known.predictions:
            _clear(client, known)
            result.emptied += 1
    result.mean_iou = loss.mean()
    if annotations:
        wanted = [t for t in order if not (held.get(t, _Held()).others or held.get(t, _Held()).touched)]
        result.left_to_people = len(order) - len(wanted)
        result.annotated = _become_annotations(client, project_id, wanted, version)
    return result


def remove(
    client: Client, project_id: int, version: str, progress: Callable[[int, int], None] | None = None
) -> Removed:  # fmt: skip
    """Takes out what `write_back` wrote under this version, and nothing else; run again it goes on.

    Annotations that were made of it go first, without those that a person has touched since. LabelStudioError as a
    client raises.
    """
    held = _held(client, project_id, version)
    own = [annotation for known in held.values() for annotation in known.own]
    for done, annotation in enumerate(own, 1):
        _delete(client, f"api/annotations/{annotation}/")
        if progress:
            progress(done, len(own))
    predictions = sum(len(known.predictions) for known in held.values())
    if predictions:
        client.request(
            "DELETE", f"api/projects/{project_id}/model-versions/", thing=f"project {project_id}",
            body={"model_version": version}, repeatable=False, timeout=REMOVAL,
        )  # fmt: skip
    return Removed(predictions, len(own), sum(known.touched for known in held.values()))


def destinations(controls: MaskControls, classes: Iterable[str]) -> dict[str, Destination]:
    """Where the masks of each class go: to a brush if the project has one for it, else polygons, else rectangles.

    Raises InputError where there is none for a class.
    """
    return {name: _destination(controls, name) for name in sorted(classes)}


def _destination(controls: MaskControls, class_name: str) -> Destination:
    def offered(name: str) -> bool:
        return class_name in controls.labels[name] or not controls.labels[name]

    for kind in CONTROLS:
        for name, tag in controls.controls.items():
            if tag == kind.lower() and offered(name):
                return Destination(Target(kind, name, controls.image_name, class_name))
    labels = next((n for n, tag in controls.controls.items() if tag == "labels" and offered(n)), None)
    for kind in CONTROLS if labels is not None else ():
        for name, tag in controls.controls.items():
            if f"{tag}labels" == kind.lower():
                return Destination(Target(kind, str(labels), controls.image_name, class_name), plain=name)
    raise InputError("labeling config", f"a brush, polygon or rectangle with the label {class_name}", "none")


def _regions(masks: list[WrittenMask], places: dict[str, Destination], loss: _Loss) -> list[dict[str, Any]]:
    own = [places[m.class_name] for m in masks]
    brushes = iter(encode_brush_rles([m.rle for m, place in zip(masks, own, strict=True) if place.exact]))
    regions = []
    for mask, place in zip(masks, own, strict=True):
        made = place.regions(mask.rle, mask.score, next(brushes) if place.exact else None)
        loss.add(mask.rle, None if place.exact else made)
        regions += made
    return regions


class _Loss:
    """The IoU of regions with their masks, summed up."""

    def __init__(self) -> None:
        self.masks, self.total = 0, 0.0

    def add(self, rle: dict[str, Any], regions: list[dict[str, Any]] | None) -> None:
        """Takes a mask into account; None are regions that are exact."""
        self.masks += 1
        if regions is None:
            self.total += 1
            return
        height, width = (int(v) for v in rle["size"])
        outlines = [_corners(r["value"]) for r in regions if r["type"] != "labels"]
        if outlines:
            rings = [(np.array(o) * (width, height) / 100).reshape(-1).tolist() for o in outlines]
            self.total += float(mask_util.iou([to_rle(rings, height, width)], [rle], [0])[0, 0])

    def mean(self) -> float | None:
        """Over all masks; None without any."""
        return self.total / self.masks if self.masks else None


def _corners(value: dict[str, Any]) -> list[tuple[float, float]]:
    if "points" in value:
        return [(x, y) for x, y in value["points"]]
    x, y, w, h = (value[k] for k in ("x", "y", "width", "height"))
    return [(x, y), (x + w, y), (x + w, y + h), (x, y + h)]


def _held(client: Client, project_id: int, version: str) -> dict[int, _Held]:
    """What each task holds; tasks without predictions of this version and without annotations are absent."""
    me = client.call(lambda sdk: sdk.users.whoami()).id
    found: dict[int, _Held] = {}
    for task in client.tasks(project_id, FIELDS, annotations=True, page_size=PAGE_SIZE):
        known = _Held()
        results = {}
        for prediction in task.get("predictions") or []:
            if prediction.get("model_version") == version:
                results[prediction["id"]] = prediction.get("result") or []
                known.predictions[prediction["id"]] = frozenset(str(r.get("id")) for r in results[prediction["id"]])
        for annotation in task.get("annotations") or []:
            parent = annotation.get("parent_prediction")
            if parent not in results:
                known.others += 1
            elif _untouched(annotation, results[parent], me):
                known.own.append(annotation["id"])
            else:
                known.touched += 1
        if known.predictions or known.others:
            found[task["id"]] = known
    return found


def _untouched(annotation: dict[str, Any], result: list[dict[str, Any]], me: int | None) -> bool:
    """Whether an annotation is as it was made of a prediction: by the token's user, without any time spent on it."""
    user = annotation.get("completed_by")
    user = user.get("id") if isinstance(user, dict) else user
    return user == me and annotation.get("lead_time") is None and annotation.get("result") == result


def _clear(client: Client, known: _Held) -> None:
    """Takes a task's predictions out, and the annotations made of them that nobody has touched."""
    for annotation in known.own:
        _delete(client, f"api/annotations/{annotation}/")
    for prediction in known.predictions:
        _delete(client, f"api/predictions/{prediction}/")


def _delete(client: Client, path: str) -> None:
    client.request("DELETE", path, repeatable=False)


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
        held = _held(client, project_id, version)
        body = [row for row in body if not held.get(row["task"], _Held()).predictions]
        if not body:
            return
    assert problem
    raise problem


def _become_annotations(client: Client, project_id: int, tasks: list[int], version: str) -> int:
    """Label Studio's own action; it passes over predictions that have become annotations before."""
    made = 0
    for start in range(0, len(tasks), ACTION_BATCH):
        answer = client.request(
            "POST",
            "api/dm/actions",
            thing=f"project {project_id}",
            params={"id": "predictions_to_annotations", "project": project_id},
            body={
                "model_version": version,
                "selectedItems": {"all": False, "included": tasks[start : start + ACTION_BATCH]},
            },
            repeatable=True,
        )
        words = str((answer or {}).get("detail", "")).split()
        made += next((int(word) for word in words if word.isdigit()), 0)
    return made


def _mean(scores: list[float | None]) -> float | None:
    known = [s for s in scores if s is not None]
    return sum(known) / len(known) if known else None
