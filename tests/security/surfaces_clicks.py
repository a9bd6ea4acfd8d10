"""Seeded attacks on what answers clicks: malformed contexts, forged regions and tasks, many clicks, several at once.

A case raises where the server answers anything but a prediction, or shows what is no mask of the task that it was asked
about.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from random import Random
from typing import Any

import numpy as np

import label_config
from ml_backend.errors import InputError
from ml_backend.interactive.protocol import MASK_ID, MOST_CLICKS
from ml_backend.interactive.steps import StepLog
from ml_backend.masks.brush import decode_brush
from ml_backend.server.app import Access, create_app
from ml_backend.server.backend import Backend
from ml_backend.server.interactive import Interactive, Subject
from tests.ml_backend.interactive.colour_segmenter import ColourSegmenter
from tests.security.mutation import junk, mutated

AUTH = ("campaign", "pw")
HEIGHT, WIDTH = 40, 60
CONFIG = label_config.load("correct", ["cell"]).xml
NUMBERS = (
    0, 1, 50, 99.999, 100, 100.0001, -1e-9, -1, 1e9, 1e308, 10**30, float("nan"), float("inf"), "50", None, True, [],
)  # fmt: skip


class Halves:
    """Task n has its own half of a picture lit, and a mask of nothing else to begin from."""

    def subject(self, project: Any, task: dict[str, Any], names: Any) -> Subject:
        number = task.get("id")
        if number not in (1, 2):
            raise InputError("task", "one that the campaign published", "another")
        return Subject(f"task {number}", f"picture {number}", lambda: half(number), (HEIGHT, WIDTH), None)

    def following(self, project: Any, task: dict[str, Any]) -> tuple[()]:
        return ()

    def of_page(self, number: int) -> None:
        return None


def half(number: int) -> np.ndarray:
    """A picture with its left half lit, or its upper one."""
    image = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    image[(slice(None), slice(0, WIDTH // 2)) if number == 1 else slice(0, HEIGHT // 2)] = (200, 100, 20)
    return image


@cache
def _client() -> Any:
    class Model:
        version = "v1"

        def detector(self) -> Any:
            raise AssertionError("clicks need no detector")

    segmenter = ColourSegmenter()
    interactive = Interactive(lambda: segmenter, Halves(), StepLog(most=500))
    backend = Backend(Model(), None, interactive=interactive)  # type: ignore[arg-type]
    return create_app(backend=backend, access=Access(AUTH)).test_client()


def _region(rng: Random) -> Any:
    kind = rng.choice(("keypoint", "keypoint", "keypointlabels", "rectangle", "rectanglelabels", "brushlabels", "x", 7))
    number = lambda: rng.choice(NUMBERS) if rng.random() < 0.3 else rng.uniform(0, 100)  # noqa: E731
    value: dict[str, Any] = {"x": number(), "y": number(), "width": number(), "height": number()}
    if rng.random() < 0.2:
        value["positive"] = rng.choice((True, False, None, 1))
    name = rng.choice(
        (
            "a", f"r{rng.random()}", f"click-{rng.randrange(10**14)}-{rng.randrange(99)}", "box-2700000000000-0",
            f"box-1700000000000-{rng.randrange(2)}", MASK_ID, "message", "", None, 5, ["a"], "x" * 5000,
        )
    )  # fmt: skip
    region = {
        "id": name,
        "type": kind,
        "from_name": rng.choice(("click", "outside", "box", None, ["click"])),
        "value": value,
    }
    if rng.random() < 0.5:
        region["is_positive"] = rng.choice((True, False, False, None, "no"))
    region |= {"original_width": rng.choice((WIDTH, 0, -1, 10**12, None)), "original_height": HEIGHT}
    return mutated(rng, region) if rng.random() < 0.15 else region


def prompts(rng: Random) -> None:
    """One request with a context of any kind, of a task that may be none."""
    regions = [_region(rng) for _ in range(rng.choice((0, 1, 1, 2, 3, 8)))]
    if rng.random() < 0.01:
        regions = regions * (10_000 // max(len(regions), 1))
    context: Any = {"result": regions}
    if rng.random() < 0.1:
        context = rng.choice(
            (
                {"event": "prewarm"}, {"event": "capabilities"}, {"event": 5}, {"result": None}, {"result": "x"},
                {"result": {}}, {"event": "prewarm", "result": regions},
            )
        )  # fmt: skip
    task = rng.choice(
        ({"id": 1}, {"id": 2}, {"id": 2, "data": {"key": "1"}, "meta": {"key": "1"}}, {"id": 3}, {}, {"id": "1"})
    )
    ask(context, task, rng.choice((CONFIG, CONFIG, CONFIG, "", "<View/>", "<", junk(rng))))


def ask(context: Any, task: dict[str, Any], config: Any = CONFIG) -> list[dict[str, Any]]:
    """The regions of an answer. Raises AssertionError where it is none, or a mask of another task's picture."""
    body = {"tasks": [task], "project": "1.1", "label_config": config, "params": {"context": context}}
    answer = _client().post("/predict", data=json.dumps(body), content_type="application/json", auth=AUTH)
    assert answer.status_code == 200, f"{answer.status_code}: {answer.data[:200]!r}"
    (prediction,) = answer.json["results"]
    regions = prediction["result"]
    json.dumps(regions, allow_nan=False)
    assert len(regions) <= 2 * (MOST_CLICKS + 4) + sum(bool(r.get("dynamic")) for r in regions)
    for region in regions:
        if region["type"] == "brushlabels":
            mask = decode_brush(region["value"]["rle"], HEIGHT, WIDTH)
            assert task.get("id") in (1, 2), "a mask of no task"
            # Without a box a mask is made of halves of its own task's picture.
            if "rectangle" not in json.dumps(context) and "box-" not in json.dumps(context):
                same = mask == (mask[:1] if task["id"] == 1 else mask[:, :1])
                assert same.all(), "a mask of another task's picture"
    return regions


SURFACES: dict[str, Callable[[Random], None]] = {"prompts": prompts}
