"""Predicted masks as Label Studio results, for whatever a project's labeling config asks for."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any
from xml.etree.ElementTree import Element

import numpy as np
from pycocotools import mask as mask_util

from label_config.documents import ConfigError, parse_xml
from ml_backend.errors import InputError
from ml_backend.masks.brush import encode_brush_rles
from ml_backend.masks.rle import decode_window
from ml_backend.predictions import Predictions

# From the most exact to the least: where a config offers a label in several, the first is answered.
CONTROLS = ("BrushLabels", "PolygonLabels", "RectangleLabels")
# How far a polygon may run beside the mask's edge, in pixels.
POLYGON_TOLERANCE = 0.7


@dataclass(frozen=True)
class Target:
    """Where the masks of one class go: the control, the image it is drawn on, the label, the least score."""

    kind: str
    from_name: str
    to_name: str
    label: str
    min_score: float = 0.0


@dataclass(frozen=True)
class LabelMap:
    """How a labeling config names the detector's classes.

    data_key: the key of a task's data that holds the image. targets: {class name in lower case: Target}; a label's
    `predicted_values` are such names too.
    """

    data_key: str
    targets: dict[str, Target] = field(default_factory=dict)

    @classmethod
    def parse(cls, xml: str) -> LabelMap:
        """The map of a labeling config. Raises InputError where it is too long, no XML or has no labels on an image.

        >>> labels = LabelMap.parse(
        ...     '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i">'
        ...     '<Label value="Car" predicted_values="car, truck"/></BrushLabels></View>'
        ... )
        >>> labels.data_key, labels.find("truck").label
        ('image', 'Car')
        """
        root = config_root(xml)
        images = {e.get("name"): (e.get("value") or "").lstrip("$") for e in root.iter("Image")}
        predicted: dict[str, Target] = {}
        own: dict[str, Target] = {}
        data_key = ""
        for kind, control in [(k, control) for k in CONTROLS for control in root.iter(k)]:
            to_name = (control.get("toName") or "").split(",")[0]
            key = images.get(to_name)
            if key and data_key in ("", key):
                data_key = key
                _add_labels(kind, control, to_name, own, predicted)
        if not data_key:
            raise InputError(
                "labeling config",
                f"an Image with one of {', '.join(CONTROLS)}",
                "neither" if not images else "an Image",
            )
        return cls(data_key, own | predicted)

    def find(self, class_name: str) -> Target | None:
        """Where masks of `class_name` go, or None where the config has no label for them."""
        return self.targets.get(class_name.lower())


def config_root(xml: str) -> Element:
    """The root of a labeling config. Raises InputError where it is no XML, or larger than a config can be."""
    try:
        return parse_xml(xml)
    except ConfigError as error:
        expected, _, got = str(error).removeprefix("expected ").partition(", got ")
        raise InputError("labeling config", expected, got) from None


def _add_labels(
    kind: str, control: Element, to_name: str, own: dict[str, Target], predicted: dict[str, Target]
) -> None:
    """Adds a control's labels by their own names and by those of `predicted_values`; the first of a name stays."""
    for label in control.iter("Label"):
        value, alias = label.get("value") or "", label.get("alias") or ""
        target = Target(kind, control.get("name", ""), to_name, alias or value, _score(control))
        # Label Studio keeps the alias, where there is one; a class may be called either.
        for name in filter(None, (alias, value)):
            own.setdefault(name.lower(), target)
        for name in (label.get("predicted_values") or "").split(","):
            if name.strip():
                predicted.setdefault(name.strip().lower(), target)


def to_prediction(
    predictions: Predictions, classes: dict[int, str], labels: LabelMap, height: int, width: int, version: str
) -> dict[str, Any]:
    """One Label Studio prediction of an image of height x width pixels: {"result", "score", "model_version"}.

    Masks of classes without a label, and those below a control's `model_score_threshold`, are left out. Its score is
    the mean of its masks' scores, 0 where there are none.
    """
    chosen: list[tuple[dict, Target, float]] = []
    rows = zip(predictions.class_id.tolist(), predictions.score.tolist(), predictions.rle, strict=True)
    for class_id, score, counts in rows:
        target = labels.find(classes.get(class_id, ""))
        if target is not None and score >= target.min_score:
            chosen.append(({"size": [height, width], "counts": counts}, target, score))
    brushes = iter(encode_brush_rles([rle for rle, target, _ in chosen if target.kind == "BrushLabels"]))
    result: list[dict[str, Any]] = []
    scores: list[float] = []
    for rle, target, score in chosen:
        brush = next(brushes) if target.kind == "BrushLabels" else None
        regions = to_regions(rle, target, score=score, brush=brush)
        result += regions
        scores += [score] * bool(regions)
    return {"result": result, "score": float(np.mean(scores)) if scores else 0.0, "model_version": version}


def to_regions(
    rle: dict, target: Target, score: float | None = None, brush: list[int] | None = None
) -> list[dict[str, Any]]:
    """The mask `rle` as regions for `target`: one brush or rectangle, or one polygon per part.

    `brush` is its brush RLE where that is known already.
    """
    height, width = (int(v) for v in rle["size"])
    if target.kind == "BrushLabels":
        values: list[dict[str, Any]] = [{"format": "rle", "rle": brush or encode_brush_rles([rle])[0]}]
    elif target.kind == "PolygonLabels":
        values = [{"points": points, "closed": True} for points in polygons(rle)]
    else:
        x, y, w, h = (float(v) for v in mask_util.toBbox(rle))
        values = [
            {
                "x": 100 * x / width,
                "y": 100 * y / height,
                "width": 100 * w / width,
                "height": 100 * h / height,
                "rotation": 0,
            }
        ]
    kind = target.kind.lower()
    digest = hashlib.blake2b(rle["counts"] + target.label.encode(), digest_size=6).hexdigest()
    return [
        {
            "id": f"{digest}{part}",
            "from_name": target.from_name,
            "to_name": target.to_name,
            "type": kind,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            **({} if score is None else {"score": round(score, 6)}),
            "value": {**value, kind: [target.label]},
        }
        for part, value in enumerate(values)
    ]


def polygons(rle: dict) -> list[list[list[float]]]:
    """The outer edges of the parts of a mask, each [[x, y], ...] in percent of the image. Holes are lost."""
    import cv2

    height, width = (int(v) for v in rle["size"])
    left, top, w, h = (int(v) for v in mask_util.toBbox(rle))
    part = decode_window(rle, left, top, left + w, top + h).astype(np.uint8)
    # Corners of pixels rather than their centres, on a grid twice as fine: a pixel is a square and not a point.
    fine = np.zeros((2 * h + 3, 2 * w + 3), np.uint8)
    inner = np.repeat(np.repeat(part, 2, 0), 2, 1)
    for y in (1, 2):
        for x in (1, 2):
            fine[y : 2 * h + y, x : 2 * w + x] |= inner
    edges, _ = cv2.findContours(fine, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = []
    for edge in edges:
        points = cv2.approxPolyDP(edge, 2 * POLYGON_TOLERANCE, True)[:, 0].astype(float)
        if len(points) >= 3:
            places = (points - 1) / 2 + (left, top)
            outlines.append((100 * places / (width, height)).tolist())
    return outlines


def _score(control: Element) -> float:
    try:
        return float(control.get("model_score_threshold") or 0)
    except ValueError:
        return 0.0
