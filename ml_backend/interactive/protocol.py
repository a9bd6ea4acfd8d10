"""What an annotator said of one object, read from a request of Label Studio's browser, and the regions that answer it.

With every click the browser sends all points of the annotation, and nothing of the box or the mask. So the points hold
the state: each click is answered as a point of its own, and a box as two points in its corners, named by when they were
made. Undo, redo, reset and a reload of the page change the points, and with them what the next request says; two
annotators of one task have each their own. A box begins anew: clicks made before it are taken away.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np

from ml_backend.errors import InputError
from ml_backend.interactive.segmenter import Click
from ml_backend.masks.brush import CLICKED_THROUGH, encode_brush
from ml_backend.masks.editing import CORRECTED, IMAGE, MASK, TITLE, VERDICT
from ml_backend.masks.limits import is_number
from ml_backend.masks.regions import config_root

MASK_ID, MESSAGE_ID = "corrected-mask", "message"
MOST_CLICKS = 64  # of one object; the study had at most 15
MOST_REGIONS = 4096  # that are read of one request
LEAST_SIDE = 1.0  # of a box, in pixels
_MADE = re.compile(r"(click|box)-(\d{10,14})-(\d{1,4})")
_POINTS, _BOXES = ("keypoint", "keypointlabels"), ("rectangle", "rectanglelabels")
POINT_WIDTH = 0.5  # of a point on the screen, in percent of the picture


@dataclass(frozen=True)
class Names:
    """The controls of a labeling config that answers are made for.

    `mask` and its `label`, one of `labels`, are what the mask is drawn as, on the object `image`; `click` and
    `outside` the points on the object and beside it; `message` and `hint` the control and object of what the annotator
    is told; `data_key` where a task's data has the image. "" for those that a config lacks.
    """

    mask: str
    image: str
    label: str
    click: str = ""
    outside: str = ""
    message: str = ""
    hint: str = ""
    data_key: str = ""
    labels: tuple[str, ...] = ()

    @property
    def keeps_points(self) -> bool:
        """Whether the points of a box and clicks can stand in the annotation, and so hold what was said before."""
        return bool(self.click and self.outside)


@dataclass(frozen=True)
class Point:
    """A click and when it was made: milliseconds since 1970, and a number that tells those of one moment apart."""

    click: Click
    at: int
    number: int


@dataclass(frozen=True)
class Said:
    """Everything that stands of an annotator's word on one object.

    box: x0, y0, x1, y1 in pixels, made at `box_at`. points: oldest first. stale: regions that say nothing any more and
    go. notes: what was left out, names of texts in `label_config.messages`. unanswered: whether something among it had
    no answer yet, or one that was not accepted.
    """

    box: tuple[float, float, float, float] | None = None
    box_at: int = 0
    points: tuple[Point, ...] = ()
    stale: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    unanswered: bool = False

    @property
    def clicks(self) -> tuple[Click, ...]:
        """The clicks, oldest first."""
        return tuple(point.click for point in self.points)


def names_of(label_config: str) -> Names:
    """The controls of a labeling config. Raises InputError where it has no image with brush labels.

    >>> names_of(
    ...     '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="Car"/></BrushLabels>'
    ...     '<KeyPoint name="k" toName="i" smart="true"/></View>'
    ... ).click
    'k'
    """
    root = config_root(label_config)
    for brush in root.iter("BrushLabels"):
        labels = [label.get("alias") or label.get("value") or "" for label in brush.iter("Label")]
        image = (brush.get("toName") or "").split(",")[0]
        shown = next((e for e in root.iter("Image") if e.get("name") == image), None)
        if shown is not None and labels:
            message = root.find(".//TextArea[@name='message']")
            return Names(
                brush.get("name", ""),
                image,
                labels[0],
                _point_control(root, image, "outside", False),
                _point_control(root, image, "outside", True),
                "" if message is None else "message",
                "" if message is None else message.get("toName", ""),
                (shown.get("value") or "").lstrip("$"),
                tuple(labels),
            )
    raise InputError("labeling config", "an Image with BrushLabels", "neither")


def label_of(result: Any, names: Names) -> str:
    """The label that a prompt was made with where the mask may have it, else the first."""
    for region in result[:MOST_REGIONS] if isinstance(result, list) else ():
        value = region.get("value") if isinstance(region, dict) else None
        for key in ("keypointlabels", "rectanglelabels", "labels"):
            chosen = value.get(key) if isinstance(value, dict) else None
            if isinstance(chosen, list) and chosen and chosen[0] in names.labels:
                return str(chosen[0])
    return names.label


def _point_control(root: Element, image: str, outside: str, is_outside: bool) -> str:
    """The name of the control for points on the object, or beside it. Points with labels are no place for a state."""
    names = [e.get("name", "") for e in root.iter("KeyPoint") if (e.get("toName") or "").split(",")[0] == image]
    return next((name for name in names if (name == outside) == is_outside), "")


@dataclass
class _Read:
    """What was found so far."""

    boxes: dict[int, dict[int, tuple[float, float]]] = field(default_factory=dict)
    made: dict[tuple[int, int], tuple[Click, dict[str, Any]]] = field(default_factory=dict)
    new: list[tuple[Click, dict[str, Any]]] = field(default_factory=list)
    corners: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    drawn: tuple[float, float, float, float] | None = None
    bad: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def read_said(result: Any, height: int, width: int, now: int, most: int = MOST_CLICKS) -> Said:
    """What the regions of a request say of an object in a picture of height x width pixels; `now` in milliseconds.

    Both spellings of the sign are read. What cannot be a click or a box is left out and noted; nothing is raised.

    >>> region = {"id": "a", "type": "keypoint", "value": {"x": 50, "y": 25}, "is_positive": False}
    >>> read_said([region], 100, 200, now=1).clicks
    (Click(x=100.0, y=25.0, positive=False),)
    """
    read = _Read()
    if not isinstance(result, list):
        result = []
    seen: set[str] = set()
    for region in result[:MOST_REGIONS]:
        # Labels of a point come as a second region of the same id.
        name = region.get("id") if isinstance(region, dict) else None
        if isinstance(region, dict) and not (isinstance(name, str) and name in seen):
            seen |= {name} if isinstance(name, str) else set()
            _take(read, region, height, width, now)
    if len(result) > MOST_REGIONS:
        read.notes.append("too many")
    return _said(read, now, most)


def _take(read: _Read, region: dict[str, Any], height: int, width: int, now: int) -> None:
    value, kind = region.get("value"), region.get("type")
    if kind not in _POINTS + _BOXES or not isinstance(value, dict):
        return
    if kind in _BOXES:
        box = _box(value, height, width)
        if box is None:
            read.notes.append("no box")
        else:
            read.drawn = box
        return
    x, y = value.get("x"), value.get("y")
    if x is None or y is None or not (is_number(x) and is_number(y) and 0 <= x <= 100 and 0 <= y <= 100):
        read.notes.append("outside the picture")
        read.bad.append(region)
        return
    place = float(x) / 100 * width, float(y) / 100 * height
    made = _MADE.fullmatch(str(region.get("id")))
    if made and made[1] == "box" and made[3] in "01" and int(made[2]) <= now:
        read.boxes.setdefault(int(made[2]), {})[int(made[3])] = place
        read.corners.append((int(made[2]), region))
        return
    click = Click(*place, positive=_is_positive(region, value))
    if made and made[1] == "click" and int(made[2]) <= now:
        read.made[int(made[2]), int(made[3])] = click, region
    else:
        read.new.append((click, region))


def _is_positive(region: dict[str, Any], value: dict[str, Any]) -> bool:
    if region.get("from_name") == "outside":
        return False
    return region.get("is_positive") is not False and value.get("positive") is not False


def _box(value: dict[str, Any], height: int, width: int) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 in pixels of what of a rectangle lies in the picture, None where that is nothing."""
    sides = [value.get(name) for name in ("x", "y", "width", "height")]
    if not all(map(is_number, sides)):
        return None
    x, y, w, h = (min(max(float(v or 0), -1e6), 1e6) for v in sides)
    x0, x1 = (min(max(v / 100 * width, 0.0), float(width)) for v in (x, x + w))
    y0, y1 = (min(max(v / 100 * height, 0.0), float(height)) for v in (y, y + h))
    return (x0, y0, x1, y1) if x1 - x0 >= LEAST_SIDE and y1 - y0 >= LEAST_SIDE else None


def _said(read: _Read, now: int, most: int) -> Said:
    """Puts in order what was read: the newest box, and what was clicked since."""
    whole = [at for at, corners in read.boxes.items() if len(corners) == 2]
    box, box_at = read.drawn, now
    if box is None and whole:
        box_at = max(whole)
        (ax, ay), (bx, by) = (read.boxes[box_at][n] for n in (0, 1))
        box = min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)
        if box[2] - box[0] < LEAST_SIDE or box[3] - box[1] < LEAST_SIDE:
            box = None
    if box is None:
        box_at = 0
    stale = [region for at, region in read.corners if at != box_at or read.drawn is not None]
    points = []
    for (at, number), (click, region) in sorted(read.made.items()):
        if at < box_at:
            stale.append(region)
        else:
            points.append((Point(click, at, number), region))
    # Later than all there are, whatever the clock says.
    newest = max([now, *(at for at, _ in read.made)])
    points += [(Point(click, newest, 5000 + n), region) for n, (click, region) in enumerate(read.new)]
    notes = list(read.notes)
    if len(points) > most:
        notes.append("too many")
        stale += [region for _, region in points[most:]]
    kept = tuple(point for point, _ in points[:most])
    return Said(box, box_at, kept, tuple(stale + read.bad), tuple(dict.fromkeys(notes)), bool(read.new or read.drawn))


def answer_regions(
    mask: np.ndarray | None, said: Said, names: Names, size: tuple[int, int], text: str = ""
) -> list[dict[str, Any]]:
    """The regions that Label Studio puts in place of what it sent: the mask, the points that stand, what it is told.

    `mask` is (height, width) bool, None to leave the one there is; `size` height and width of the picture. The mask
    always has the same id, so that it takes the place of the one before. It is not quite opaque: clicks go through it.
    """
    height, width = size
    base = {"to_name": names.image, "original_width": width, "original_height": height, "image_rotation": 0}
    regions: list[dict[str, Any]] = []
    if mask is not None:
        region = mask_region(mask, names.mask, names.image, names.label)
        # Where no points say which object a mask is of, none takes another's place.
        regions.append(region if names.keeps_points else region | {"id": f"mask-{secrets.token_hex(6)}"})
    if names.keeps_points:
        regions += [base | _point(name, control, x, y, size) for name, control, x, y in _standing(said, names)]
        # A region that is accepted as dynamic is taken away at once, with the click that was just made.
        regions += [
            base | {"id": r["id"], "from_name": names.click, "type": "keypoint", "dynamic": True, "value": _at(0, 0)}
            for r in said.stale
            if isinstance(r.get("id"), str) and len(r["id"]) <= 64
        ]
    if names.message:
        value = {"text": [text or " "]}
        regions.append(
            {"id": MESSAGE_ID, "from_name": names.message, "to_name": names.hint, "type": "textarea", "value": value}
        )
    return regions


def mask_region(mask: np.ndarray, control: str, image: str, label: str) -> dict[str, Any]:
    """A mask (height, width) bool as the brush region that the answers to clicks replace."""
    height, width = mask.shape
    return {
        "id": MASK_ID,
        "from_name": control,
        "to_name": image,
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": encode_brush(mask, CLICKED_THROUGH), "brushlabels": [label]},
    }


def _standing(said: Said, names: Names) -> list[tuple[str, str, float, float]]:
    """(id, control, x, y) of the points that stand for the box and the clicks."""
    points: list[tuple[str, str, float, float]] = []
    if said.box is not None:
        x0, y0, x1, y1 = said.box
        points = [(f"box-{said.box_at}-{n}", names.click, x, y) for n, (x, y) in enumerate(((x0, y0), (x1, y1)))]
    taken: set[tuple[int, int]] = set()
    for p in said.points:
        number = p.number
        while (p.at, number) in taken:
            number += 1
        taken.add((p.at, number))
        control = names.click if p.click.positive else names.outside
        points.append((f"click-{p.at}-{number}", control, p.click.x, p.click.y))
    return points


def _point(name: str, control: str, x: float, y: float, size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    return {
        "id": name,
        "from_name": control,
        "type": "keypoint",
        "readonly": True,
        "value": _at(100 * x / width, 100 * y / height),
    }


def _at(x: float, y: float) -> dict[str, float]:
    return {"x": x, "y": y, "width": POINT_WIDTH}


def correct_prediction(mask: np.ndarray, label: str, model_version: str) -> dict[str, Any]:
    """The Label Studio prediction that puts a mask (height, width) bool on a `correct` page, to be corrected."""
    verdict = {"id": "verdict", "from_name": VERDICT, "to_name": TITLE, "type": "choices"}
    regions = [mask_region(mask, MASK, IMAGE, label), verdict | {"value": {"choices": [CORRECTED]}}]
    return {"result": regions, "model_version": model_version}
