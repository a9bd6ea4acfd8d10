from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_util

from campaign.demo import annotators, eyes
from campaign.demo.annotators import main, per_user, result
from campaign.demo.eyes import AnnotatorError, Habits, Truth, chance
from campaign.label_studio.client import Client
from campaign.label_studio.readback import parse_verdicts, read_changes
from campaign.label_studio.server import LabelStudioServer
from campaign.label_studio.verification import Page, create_project, publish_pages
from campaign.records.verdict import Verdict
from label_config import Crop
from tests.campaign.label_studio.pages import published

PASSWORD = "simulated-users-password"


def square(x: int, y: int, side: int = 20, size: tuple[int, int] = (64, 64)) -> dict[str, Any]:
    """A square mask as COCO compressed RLE with text counts."""
    mask = np.zeros(size, np.uint8, order="F")
    mask[y : y + side, x : x + side] = 1
    return {"size": list(size), "counts": mask_util.encode(mask)["counts"].decode()}


def truth_file(folder: Path) -> Path:
    """One image "a.png" with a true square of 20 at (10, 10), in each of the forms of COCO."""
    coco = {
        "images": [
            {"id": 1, "file_name": "a.png", "height": 64, "width": 64},
            {"id": 2, "file_name": "b.png", "height": 64, "width": 64},
        ],
        "categories": [{"id": 1, "name": "nucleus"}, {"id": 2, "name": "cell"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": square(10, 10)},
            {
                "id": 2,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "segmentation": [[40, 40, 60, 40, 60, 60, 40, 60]],
            },
            {"id": 3, "image_id": 1, "category_id": 2, "iscrowd": 1, "segmentation": square(0, 0)},
            {
                "id": 4,
                "image_id": 2,
                "category_id": 1,
                "iscrowd": 0,
                "segmentation": {"size": [64, 64], "counts": [0, 640, 3456]},
            },
        ],
    }
    path = folder / "truth.json"
    path.write_text(json.dumps(coco))
    return path


@pytest.mark.parametrize(("module", "beside"), [(annotators, {"campaign.demo.eyes"}), (eyes, set())])
def test_imports_nothing_of_the_project(module, beside) -> None:
    tree = ast.parse(Path(module.__file__).read_text())
    modules = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    modules |= {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    assert {m.partition(".")[0] for m in modules - beside}.isdisjoint(
        {"campaign", "ml_backend", "label_config", "label_studio_sdk", ""}
    )


@pytest.mark.parametrize(
    ("image", "class_name", "rle", "expected"),
    [
        ("a.png", "nucleus", square(10, 10), 1.0),
        ("a.png", "nucleus", square(12, 10), 18 / 22),
        ("0a1b2c3d-a.png", "nucleus", square(10, 10), 1.0),
        ("folder/a.png", "nucleus", square(40, 40), 1.0),
        ("b.png", "nucleus", square(0, 0, 10), 0.15625),
        ("a.png", "cell", square(0, 0), 0.0),
        ("a.png", "other", square(10, 10), 0.0),
        ("c.png", "nucleus", square(10, 10), 0.0),
        ("a.png", "nucleus", square(10, 10, size=(32, 32)), 0.0),
    ],
)
def test_best_iou(tmp_path: Path, image: str, class_name: str, rle: dict[str, Any], expected: float) -> None:
    assert Truth(truth_file(tmp_path)).best_iou(image, class_name, rle) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("habits", "iou", "expected"),
    [
        (Habits(), 0.75, {"yes": 1.0}),
        (Habits(), 0.7499, {"no": 1.0}),
        (Habits(error=1.0), 0.9, {"no": 1.0}),
        (Habits(unsure=1.0), 0.9, {"unsure": 1.0}),
        (Habits(error=0.1), 0.9, {"yes": 0.9, "no": 0.1}),
        (Habits(error=0.1, unsure=0.2), 0.1, {"unsure": 0.2, "no": 0.72, "yes": 0.08}),
        (Habits(near_width=0.1, near_error=0.3), 0.8, {"yes": 0.7, "no": 0.3}),
        (Habits(near_width=0.1, near_error=0.3), 0.9, {"yes": 1.0}),
        (Habits(eye_cut=0.70), 0.72, {"yes": 1.0}),
        (Habits(eye_cut=0.70, near_width=0.04, near_error=0.3), 0.72, {"yes": 0.7, "no": 0.3}),
        (Habits(eye_cut=0.70, near_width=0.04, near_error=0.3), 0.75, {"yes": 1.0}),
    ],
)
def test_verdicts_come_at_the_set_rates(habits: Habits, iou: float, expected: dict[str, float]) -> None:
    said = [habits.verdict(iou, "user", f"mask {i}") for i in range(4000)]
    for verdict in ("yes", "no", "unsure"):
        assert said.count(verdict) / len(said) == pytest.approx(expected.get(verdict, 0.0), abs=0.03)


def test_mistakes_follow_from_the_mask_and_where_wanted_from_the_user() -> None:
    masks = [f"mask {i}" for i in range(300)]
    alike, own = Habits(error=0.5), Habits(error=0.5, alike=False)
    assert [alike.verdict(1, "a", m) for m in masks] == [alike.verdict(1, "b", m) for m in reversed(masks)][::-1]
    assert [own.verdict(1, "a", m) for m in masks] != [own.verdict(1, "b", m) for m in masks]
    # Mistakes near the limit are everyone's, whatever else is their own.
    near = Habits(near_width=0.2, alike=False)
    assert [near.verdict(0.8, "a", m) for m in masks] == [near.verdict(0.8, "b", m) for m in masks]
    assert chance(1, "a") != chance(2, "a")
    assert 0 <= chance(1, "a") < 1


@pytest.mark.parametrize(
    ("verdicts", "doubts", "expected"),
    [
        ({"1": "yes", "2": "yes"}, True, {1: Verdict.YES, 2: Verdict.YES}),
        ({"1": "no", "2": "unsure"}, True, {1: Verdict.NO, 2: Verdict.UNSURE}),
        ({"1": "no", "2": "unsure", "3": "yes"}, False, {1: Verdict.NO, 2: Verdict.UNSURE, 3: Verdict.UNSURE}),
    ],
)
def test_result_reads_back_as_meant(verdicts: dict[str, str], doubts: bool, expected: dict[int, Verdict]) -> None:
    data = {"key": "k"} | ({"doubts": []} if doubts else {})
    assert parse_verdicts(result(verdicts, data), {m: int(m) for m in verdicts}) == expected


def test_per_user() -> None:
    assert per_user([0.1], 3, "error") == [0.1, 0.1, 0.1]
    assert per_user([0.1, 0.2], 2, "error") == [0.1, 0.2]
    with pytest.raises(AnnotatorError, match="--error: expected one value or one for each of 3 users, got 2"):
        per_user([0.1, 0.2], 3, "error")


@pytest.mark.parametrize(
    ("options", "password", "message"),
    [
        (["--truth", "no-such-file.json"], PASSWORD, "no-such-file.json: expected a COCO file with true masks"),
        (["--truth", "t"], "", "ANNOTATORS_PASSWORD: expected the users' password"),
        (["--truth", "t", "--users", "3", "--error", "0.1", "--error", "0.2"], PASSWORD, "--error: expected one value"),
    ],
)
def test_bad_options_end_it_with_one_line(options, password, message, monkeypatch, capsys) -> None:
    monkeypatch.setenv("ANNOTATORS_PASSWORD", password)
    assert main(["--url", "http://127.0.0.1:9", "--project", "1", "--shown", "s", *options]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(message)
    assert printed.count("\n") == 1


def pages(count: int) -> list[Page]:
    """Pages of five masks at growing distance from the true square: IoU 1, 0.90, 0.82, 0.74, 0.67."""
    return [
        Page(f"k{i}", "nucleus", "t", [Crop(str(10 * i + j), "http://127.0.0.1:9/x") for j in range(5)])
        for i in range(count)
    ]


def shown_file(folder: Path, shown: list[Page]) -> Path:
    """What these pages show, as a demo says it to annotators."""
    path = folder / "shown.jsonl"
    with path.open("w") as file:
        for page in shown:
            masks = [{"name": c.name, "image": "a.png", "rle": square(10 + j, 10)} for j, c in enumerate(page.crops)]
            file.write(json.dumps({"key": page.key, "masks": masks}) + "\n")
    return path


@pytest.mark.label_studio
def test_team_answers_every_page_once(
    label_studio: LabelStudioServer, label_studio_client: Client, tmp_path: Path
) -> None:
    project = create_project(label_studio_client, "Verify: annotators [1]")
    tasks = publish_pages(label_studio_client, project, pages(12))
    own = published(tasks, pages(12))
    command = [
        sys.executable, "-m", "campaign.demo.annotators", "--url", label_studio.url, "--project", str(project),
        "--truth", str(truth_file(tmp_path)), "--shown", str(shown_file(tmp_path, pages(12))),
        "--invite", label_studio.invite_token(), "--users", "3",
    ]  # fmt: skip
    environment = os.environ | {"ANNOTATORS_PASSWORD": PASSWORD}
    team = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 300
        changes = []
        while time.monotonic() < until and sum(bool(c.annotations) for c in changes) < 12:
            time.sleep(0.2)
            changes = read_changes(label_studio_client, project, own).tasks
        team.send_signal(signal.SIGTERM)
        out, err = team.communicate(timeout=60)
    finally:
        team.kill()
    summary = json.loads(out)
    assert (team.returncode, err) == (0, "")
    assert {k: summary[k] for k in ("pages", "answers", "yes", "no", "unsure", "mistakes", "unknown_images")} == {
        "pages": 12, "answers": 60, "yes": 36, "no": 24, "unsure": 0, "mistakes": 0, "unknown_images": [],
    }  # fmt: skip
    assert len(summary["users"]) == 3
    for change in changes:
        (annotation,) = change.annotations
        assert [v.name for _, v in sorted(annotation.verdicts.items())] == ["YES", "YES", "YES", "NO", "NO"]
    # Once more: the users are there already, there is nothing to do, and the project goes away.
    assert subprocess.run([*command, "--idle-seconds", "1"], env=environment, capture_output=True).returncode == 0
    label_studio_client.request("DELETE", f"api/projects/{project}/")
    gone = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert gone.returncode == 1
    assert gone.stderr.strip() == f"project {project}: expected a project of {label_studio.url}, got none"
