"""Random annotations and random answers of Label Studio, for whatever reads them; a seed makes each the same again.

`SURFACES` names the readers. Each takes a generator, makes one case of it and reads that; it raises where the project
misbehaves: any exception but the project's own for bad input (`InputError`), or a result that cannot be.
"""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

import numpy as np

from campaign.label_studio import verification
from campaign.label_studio.annotations import LONGEST, Unknown
from campaign.label_studio.client import Client
from campaign.label_studio.controls import mask_controls
from campaign.label_studio.drawing import DrawnTask, parse_drawn, read_drawings
from campaign.label_studio.readback import TaskSnapshot, parse_task, read_changes
from campaign.label_studio.source import parse_regions, standing_annotation
from campaign.pages import completeness, editing, painting
from campaign.records.page import ShownPage
from ml_backend.errors import InputError
from ml_backend.masks import editing as masks_editing
from ml_backend.masks.brush import encode_brush
from ml_backend.predictions import Predictions

TIME = "2026-01-01T00:00:00.000000Z"
HEIGHT, WIDTH = 24, 32
PAGE = ShownPage("page", {f"n{i}": i for i in range(4)})
SOURCE = mask_controls(
    '<View><Image name="image" value="$image"/><BrushLabels name="mask" toName="image"><Label value="cell"/>'
    '</BrushLabels><PolygonLabels name="poly" toName="image"><Label value="cell"/></PolygonLabels>'
    '<RectangleLabels name="box" toName="image"><Label value="cell"/></RectangleLabels></View>'
)
_WORDS = (
    "", "status", "wrong", "doubt", "verdict", "mask", "class", "missing", "yes", "no", "unsure", "reviewed",
    "complete", "corrected", "no such object", "choices", "brushlabels", "keypoint", "cell", "n1", "n2", "9", "\x00",
    "é\u2028\ud800", "<script>", "x" * 300, TIME, "key", "relation", "a\nb", "None", "__class__", "%s{0}",
)  # fmt: skip
_NUMBERS = (
    0, 1, -1, 3, 50, 100, 255, 256, 2**31, 2**53 + 1, 2**63, -(2**63) - 1, 10**30, 0.5, -0.0, 1e9, -1e9, 1e308,
    math.nan, math.inf, -math.inf,
)  # fmt: skip


def anything(rng: random.Random, depth: int = 3) -> Any:
    """Some JSON of any kind, as Python reads it."""
    kind = rng.randrange(8 if depth else 5)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind in (1, 2):
        return rng.choice(_NUMBERS)
    if kind in (3, 4):
        return rng.choice(_WORDS)
    if kind == 5:
        return [anything(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        return [rng.randrange(256) for _ in range(rng.randrange(40))]
    return {rng.choice(_WORDS): anything(rng, depth - 1) for _ in range(rng.randrange(4))}


def spoiled(rng: random.Random, value: Any, rate: float = 0.1) -> Any:
    """The same with parts replaced, left out, doubled or added."""
    if rng.random() < rate:
        return anything(rng)
    if isinstance(value, dict):
        made = {k: spoiled(rng, v, rate) for k, v in value.items() if rng.random() >= rate / 3}
        return made | ({rng.choice(_WORDS): anything(rng)} if rng.random() < rate / 3 else {})
    if isinstance(value, list):
        made = [spoiled(rng, v, rate) for v in value[:40] if rng.random() >= rate / 3] + value[40:]
        return made + (made[:1] if rng.random() < rate / 3 else [])
    return value


def _region(name: str, kind: str, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": "r1", "from_name": name, "to_name": "image", "type": kind, "value": value} | more


@lru_cache(maxsize=1)
def _brush() -> tuple[int, ...]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[4:12, 5:20] = True
    return tuple(encode_brush(mask))


def regions(rng: random.Random) -> list[Any]:
    """An annotation's result that was right once, for one of the screens or for a source project."""
    size = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0}
    point = {"x": rng.uniform(-5, 105), "y": rng.uniform(-5, 105), "width": 0.5}
    corners = [[rng.uniform(0, 100), rng.uniform(0, 100)] for _ in range(rng.randrange(2, 6))]
    box = {"x": 1.0, "y": 2.0, "width": 30.0, "height": 20.0, "rotation": rng.choice((0, 30, 1e9))}
    whole = [
        _region("status", "choices", {"choices": [rng.choice(("reviewed", "unsure", "fine"))]}),
        _region("wrong", "choices", {"choices": rng.sample(["n0", "n1", "n2", "n3", "n9"], rng.randrange(4))}),
        _region("doubt", "choices", {"choices": ["n1"]}),
        _region("verdict", "choices", {"choices": [rng.choice(("yes", "no", "corrected", "complete", "unsure"))]}),
        _region("mask", "brushlabels", {"format": "rle", "rle": list(_brush()), "brushlabels": ["cell"]}, **size),
        _region("missing", "keypoint", point, **size),
        _region("class", "labels", point | {"labels": ["cell"]}, **size),
        _region("poly", "polygonlabels", {"points": corners, "closed": True, "polygonlabels": ["cell"]}, **size),
        _region("box", "rectanglelabels", box | {"rectanglelabels": ["cell"]}, **size),
        {"type": "relation", "from_id": "r1", "to_id": "r2", "direction": "right"},
    ]
    return [copy.deepcopy(region) for region in whole if rng.random() < 0.6]


def task(rng: random.Random, rate: float = 0.1) -> Any:
    """A task with annotations, of which anything may be anything."""
    annotations = [
        {
            "id": 10 + n, "completed_by": rng.choice((1, 2, {"id": 3}, None)), "updated_by": rng.choice((1, 2, None)),
            "updated_at": TIME, "lead_time": rng.choice((3.5, None, *_NUMBERS)), "was_cancelled": rng.random() < 0.1,
            "ground_truth": False, "result": spoiled(rng, regions(rng), rate),
        }
        for n in range(rng.randrange(4))
    ]  # fmt: skip
    whole = {
        "id": rng.choice((1, 2, 3)), "meta": {"key": "page", "format": 2}, "updated_at": TIME,
        "data": {"image": "/data/upload/a.png"}, "annotations": [spoiled(rng, a, rate / 3) for a in annotations],
    }  # fmt: skip
    return spoiled(rng, whole, rate / 10)


def _own_task(rng: random.Random) -> dict[str, Any]:
    """A task as the server sets it, with annotations of anybody."""
    made = task(rng)
    known = {"id": 1, "updated_at": TIME}
    return (made if isinstance(made, dict) else {}) | known


def _check_row(lead_time: float | None, unknown: Unknown) -> None:
    assert lead_time is None or 0 <= lead_time <= LONGEST
    assert str(unknown).isascii() and str(unknown).isprintable() and len(unknown) <= 21


def question_answers(rng: random.Random) -> None:
    """Annotations on a page of questions."""
    snapshot = parse_task(_own_task(rng), PAGE)
    assert isinstance(snapshot, TaskSnapshot) and snapshot.page_key == "page"
    for a in snapshot.annotations:
        _check_row(a.lead_time, a.unknown)
        assert set(a.verdicts) <= set(PAGE.masks.values()) and (a.sound or not a.verdicts)
    json.dumps([str(a) for a in snapshot.annotations])


def _drawn(rng: random.Random) -> DrawnTask:
    drawn = parse_drawn(_own_task(rng), ShownPage("page", {}))
    for a in drawn.annotations:
        _check_row(a.lead_time, a.unknown)
    return drawn


@lru_cache(maxsize=1)
def _mask() -> Predictions:
    from pycocotools import mask as mask_util

    part = np.zeros((64, 64), np.uint8, order="F")
    part[20:30, 20:30] = 1
    counts = np.empty(1, object)
    counts[0] = mask_util.encode(part)["counts"]
    return Predictions(
        np.array([7]), np.array([1]), np.array([1], np.int32), np.array([[20, 20, 10, 10]], np.float32), counts,
        np.array([[64, 64]]), np.array([0.5], np.float32), np.ones(1, np.float32), np.zeros((1, 4), np.float16),
    )  # fmt: skip


def edits(rng: random.Random) -> None:
    """Annotations on a page on which a mask is corrected."""
    for a in _drawn(rng).annotations:
        x0, y0, x1, y1 = editing._window(_mask(), 0)
        for region in a.result:  # of the size that the page has, so that more of them are read on
            if rng.random() < 0.5 and isinstance(region["value"].get("rle"), list):
                region |= {"original_width": x1 - x0, "original_height": y1 - y0}
                if rng.random() < 0.5:
                    region["value"]["rle"] = spoiled(rng, encode_brush(np.ones((y1 - y0, x1 - x0), bool)), 0.02)
        state, shapes = editing.outcome(_mask(), a)
        assert state in ("corrected", "none", "unsure") and len(shapes) == (state == "corrected")


def paintings(rng: random.Random) -> None:
    """Annotations on a page on which everything is painted."""
    for a in _drawn(rng).annotations:
        state, shapes = painting._painted(a, [0, 0, WIDTH, HEIGHT], {"cell": 1})
        assert state in ("painted", "unsure") and all(s["size"] == [HEIGHT, WIDTH] for s in shapes)
        json.dumps(shapes, allow_nan=False)


def clicks(rng: random.Random) -> None:
    """Annotations on a page that asks what is missing."""
    for a in _drawn(rng).annotations:
        classes = {"cell": 1} if rng.random() < 0.5 else {"cell": 1, "dot": 2}
        state, points = completeness._said(a, [4, 4, 36, 28], classes)
        assert state in ("complete", "missing", "unsure")
        assert all(4 <= p["x"] <= 36 and 4 <= p["y"] <= 28 for p in points)
        json.dumps(points, allow_nan=False)


def raw_drawings(rng: random.Random) -> None:
    """The readers of brush masks, given regions that nobody looked at before."""
    result = [r for region in regions(rng) if isinstance(r := spoiled(rng, region, 0.2), dict)]
    masks_editing.edit_verdict(result)
    with suppress(InputError):
        masks_editing.edited_mask(result, (0, 0, WIDTH, HEIGHT), 64, 64)
    with suppress(InputError):
        masks_editing.painted_masks(result, HEIGHT, WIDTH)


def source_annotations(rng: random.Random) -> None:
    """Annotations of a source project, by which a detector is taught."""
    made = task(rng)
    chosen = standing_annotation(made if isinstance(made, dict) else {})
    if chosen is not None:
        for region in parse_regions(chosen["result"], SOURCE):
            assert region.labels and region.rle["size"] == [region.height, region.width]


class _Replies(Client):
    """A Label Studio that answers anything to anything; what is right for a question is spoiled."""

    def __init__(self, rng: random.Random):
        super().__init__("http://127.0.0.1:9", "t" * 40)
        self.rng, self.asked = rng, 0

    def request(self, method: str, path: str, **options: Any) -> Any:
        self.asked += 1
        assert self.asked < 50, "it is asked for ever"
        return spoiled(self.rng, self._right(path, options.get("params") or {}), 0.03)

    def _right(self, path: str, params: Mapping[str, Any]) -> Any:
        if path == "api/tasks/":
            made = [task(self.rng, 0.05) for _ in range(self.rng.randrange(4))]
            return {"tasks": [t | {"id": n} for n, t in enumerate(made, 1) if isinstance(t, dict)]}
        if path == "api/users/":
            return [{"id": 1, "email": "a@example.com"}, {"id": 2, "email": "b@example.com"}]
        if path.endswith("/import"):
            return {"task_ids": [5, 6], "task_count": 2}
        if path == "api/webhooks/":
            hook = {"id": 3, "project": 1, "url": "http://h/webhook", "actions": list(verification.WEBHOOK_ACTIONS)}
            return [hook]
        if path == "api/projects/":
            return {"results": [{"id": 4, "title": "t"}], "id": 4}
        return {"id": 4, "label_config": "<View/>", "title": "t"}


def responses(rng: random.Random) -> None:
    """Whole answers of Label Studio, to all that is asked of it."""
    client = _Replies(rng)
    page = {1: PAGE, 2: ShownPage("other", {})}
    cursor = rng.choice((None, json.dumps({"since": TIME, "seen": {}})))
    bodies = {"a": {"data": {}, "meta": {"key": "a"}}, "b": {"data": {}, "meta": {"key": "b"}}}
    ask: list[Callable[[], Any]] = [
        lambda: read_changes(client, 1, lambda _: page, cursor),
        lambda: read_drawings(client, 1, lambda _: page, cursor),
        lambda: verification.read_keys(client, 1),
        lambda: verification.publish_tasks(client, 1, bodies),
        lambda: verification.find_project(client, "t"),
        lambda: verification.ensure_webhook(client, 1, "http://h/webhook", "s"),
        lambda: verification.create_project(client, "new"),
        client.users,
        lambda: client.project(1),
    ]
    with suppress(InputError):
        rng.choice(ask)()


SURFACES: dict[str, Callable[[random.Random], None]] = {
    "answers to questions": question_answers,
    "corrections": edits,
    "paintings": paintings,
    "clicks": clicks,
    "raw drawings": raw_drawings,
    "source annotations": source_annotations,
    "whole responses": responses,
}
