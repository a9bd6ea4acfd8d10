"""Simulated annotators who look for what is missing: they click the true objects that a page shows without a mask.

Like those who judge masks they know Label Studio's HTTP API and a file with the true masks, and nothing else.

    python -m campaign.demo.finders --url http://127.0.0.1:8080 --project 1 --truth pool.json --shown shown.jsonl
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from campaign.demo.annotators import Annotator, parser, per_user, run_team
from campaign.demo.eyes import Habits, Shown, Truth, chance

COVERED = 0.1  # share of an object under masks, from which on it has one
INSIDE = 0.5  # share of an object in the picture, from which on it is seen there
SECONDS = 10.0  # that a look at a page takes, and each click a second more: stated where there is no pace of its own


class SeenTruth(Truth):
    """True masks that can be listed by image, beside what annotators look up."""

    def objects(self, image: str) -> list[tuple[str, dict]]:
        """(class name, RLE) of every true object of an image; none of an unknown one."""
        key = self.image(image)
        if key is None:
            return []
        objects = []
        for (number, name), class_id in self._classes.items():
            if number == key[0]:
                self.best_iou(image, name, {"size": self._sizes[key], "counts": ""})  # fills the table of masks
                objects += [(name, rle) for rle in self._rles.get((key, class_id), [])]
        return objects


class Finder(Annotator):
    """One user at the screen that asks what is missing."""

    truth: SeenTruth

    def answer_next(self, project: int) -> bool:
        """Answers the next page; False where there is none. Raises AnnotatorError where the project is gone."""
        reply = self._ask(
            "POST", "/api/dm/actions", params={"id": "next_task", "project": project}, json={}, ok=(200, 404)
        )
        if reply.status_code == 404:
            return False
        task = reply.json()
        shown = self.see(task["data"])
        clicks = self.look(shown)
        time.sleep(self.seconds * (1 + len(clicks)))
        body: dict[str, Any] = {"result": result(clicks, shown), "lead_time": SECONDS + len(clicks)}
        if task.get("unique_lock_id"):
            body["unique_id"] = task["unique_lock_id"]
        self._ask(
            "POST", f"/api/tasks/{task['id']}/annotations/", params={"project": project}, json=body, ok=(201, 409)
        )
        self.counts.pages += 1
        self.counts.verdicts.update({"missing": len(clicks)})
        return True

    def look(self, shown: dict[str, Any]) -> list[tuple[str, float, float]]:
        """(class name, x, y) of each click, in pixels of the image.

        An object is overlooked with the chance `error`, and a mask that is there is clicked with a tenth of it.
        """
        habits = self.habits
        x0, y0, x1, y1 = shown["window"]
        if self.truth.image(shown["image"]) is None:
            self.counts.unknown_images.add(shown["image"])
        masks = [{"size": m["rle"]["size"], "counts": m["rle"]["counts"].encode("ascii")} for m in shown["masks"]]
        own = "" if habits.alike else self.email
        clicks = []
        for name, rle in self.truth.objects(shown["image"]):
            whole = mask_util.decode(rle)
            part = whole[y0:y1, x0:x1]
            if part.sum() < INSIDE * whole.sum():
                continue
            cover = float(np.sum(mask_util.iou([rle], masks, [1] * len(masks)))) if masks else 0.0
            odds = chance(habits.seed, "find", own, shown["image"], rle["counts"])
            if (cover < COVERED and odds >= habits.error) or (cover >= COVERED and odds < habits.error / 10):
                clicks.append((name, *_middle(part, x0, y0)))
        return clicks


def _middle(part: np.ndarray, x0: int, y0: int) -> tuple[float, float]:
    """The pixel of an object that is nearest to its middle."""
    ys, xs = np.nonzero(part)
    nearest = int(np.argmin((xs - xs.mean()) ** 2 + (ys - ys.mean()) ** 2))
    return float(x0 + xs[nearest] + 0.5), float(y0 + ys[nearest] + 0.5)


def result(clicks: list[tuple[str, float, float]], shown: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotation that a person makes with these clicks, complete with them."""
    x0, y0, x1, y1 = shown["window"]
    regions: list[dict[str, Any]] = []
    for number, (name, x, y) in enumerate(clicks):
        value = {"x": 100 * (x - x0) / (x1 - x0), "y": 100 * (y - y0) / (y1 - y0), "width": 0.5}
        base = {"id": f"p{number}", "to_name": "image", "original_width": x1 - x0, "original_height": y1 - y0}
        regions.append(base | {"from_name": "missing", "type": "keypoint", "value": value})
        regions.append(base | {"from_name": "class", "type": "labels", "value": value | {"labels": [name]}})
    verdict = {"from_name": "verdict", "to_name": "title", "type": "choices", "value": {"choices": ["complete"]}}
    return [*regions, verdict]


def _finders(options: argparse.Namespace, emails: list[str], paces: list[float]) -> list[Finder]:
    """The users who look for what is missing."""
    password, truth = os.environ.get("ANNOTATORS_PASSWORD", ""), SeenTruth(*options.truth)
    shown = Shown(options.shown)
    errors = per_user(options.error or [0.0], len(emails), "error")
    habits = [Habits(error=e, seed=options.seed, alike=not options.own_mistakes) for e in errors]
    return [
        Finder(options.url, email, password, truth, habit, pace, shown)
        for email, habit, pace in zip(emails, habits, paces, strict=True)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Runs the team; the users' password comes from $ANNOTATORS_PASSWORD. Returns the exit status."""
    return run_team(parser().parse_args(arguments), _finders)


if __name__ == "__main__":
    sys.exit(main())
