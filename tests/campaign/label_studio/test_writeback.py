"""Masks into a source project and out again, in the real Label Studio: exact, once, and nobody else's work touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_util

from campaign.label_studio.client import Client
from campaign.label_studio.controls import mask_controls
from campaign.label_studio.conversion import convert
from campaign.label_studio.server import LabelStudioServer
from campaign.label_studio.source import read_source
from campaign.label_studio.writeback import WrittenMask, destinations, remove, write_back
from campaign.store import models as m
from ml_backend.errors import InputError
from ml_backend.masks.brush import encode_brush
from tests.campaign.builders import finish, verify_store
from tests.campaign.cli.builders import campaign
from tests.campaign.label_studio.test_source import (
    annotation,
    box,
    drawn,
    encode,
    make_project,
    region,
    ring_and_dot,
)

HEAD = '<View><Image name="img" value="$image"/>'
LABEL = '<Label value="cell"/>'


def config(*controls: str) -> str:
    return HEAD + "".join(controls) + "</View>"


BRUSH = f'<BrushLabels name="b" toName="img">{LABEL}</BrushLabels>'
POLYGON = f'<PolygonLabels name="p" toName="img">{LABEL}</PolygonLabels>'
RECTANGLE = f'<RectangleLabels name="r" toName="img">{LABEL}</RectangleLabels>'
LABELS = f'<Labels name="l" toName="img">{LABEL}</Labels><Polygon name="pp" toName="img"/>'
PLAIN = '<Brush name="pb" toName="img"/>'


@pytest.mark.parametrize(
    ("xml", "kind", "control", "plain"),
    [
        (config(RECTANGLE, POLYGON, BRUSH), "BrushLabels", "b", None),
        (config(RECTANGLE, POLYGON), "PolygonLabels", "p", None),
        (config(RECTANGLE), "RectangleLabels", "r", None),
        (config(LABELS), "PolygonLabels", "l", "pp"),
        (config(LABELS, PLAIN), "BrushLabels", "l", "pb"),
        (config(RECTANGLE, LABELS), "RectangleLabels", "r", None),
    ],
)
def test_the_most_exact_control_is_taken(xml: str, kind: str, control: str, plain: str | None) -> None:
    place = destinations(mask_controls(xml), ["cell"])["cell"]
    assert (place.target.kind, place.target.from_name, place.plain) == (kind, control, plain)


def test_a_class_without_a_control_is_named() -> None:
    with pytest.raises(InputError, match="expected a brush, polygon or rectangle with the label nut, got none"):
        destinations(mask_controls(config(BRUSH)), ["cell", "nut"])


def state(client: Client, project: int) -> dict[int, dict[str, Any]]:
    """Everything that a project's tasks hold, without what changes by itself."""
    fields = "id,predictions,annotations,result,score,model_version,completed_by,ground_truth,was_cancelled"
    return {t["id"]: t for t in client.tasks(project, fields, annotations=True)}


@pytest.mark.label_studio
def test_once_exact_and_out_again(label_studio_client: Client, web: str, tmp_path: Path) -> None:
    client = label_studio_client
    theirs = annotation(
        region("brush", "brushlabels", {"format": "rle", "rle": encode_brush(ring_and_dot())}, "cell", id="x"),
        region("box", "rectanglelabels", box(1, 1, 5, 5), "dirt", id="y"),
        {"type": "relation", "from_id": "x", "to_id": "y", "direction": "right"},
    )
    tasks = [{"data": {"image": f"{web}/im{i}.png"}} for i in range(4)]
    project, ids = make_project(client, "Source: written", [*tasks, tasks[0] | {"annotations": theirs}])
    other = {"task": ids[0], "model_version": "another model", "score": 0.5, "result": theirs[0]["result"][1:2]}
    client.request("POST", f"api/projects/{project}/import/predictions", body=[other])
    before = state(client, project)
    masks = [
        WrittenMask(ids[0], "cell", encode(ring_and_dot()), 0.75),
        WrittenMask(ids[0], "nucleus", encode(drawn(4, 4, 24, 20)), 0.25),
        WrittenMask(ids[1], "nucleus", encode(drawn(0, 0, 5, 5))),
        WrittenMask(ids[2], "cell", encode(drawn(0, 0, 9, 9))),
        WrittenMask(ids[4], "cell", encode(drawn(3, 3, 9, 9))),
    ]
    first = write_back(client, project, masks[:3], "mine")
    assert (first.written, first.unchanged, first.mean_iou) == (2, 0, 1)
    # Killed after these two and run again: the others follow, and a third time nothing does.
    again = write_back(client, project, masks, "mine")
    assert (again.written, again.unchanged) == (2, 2)
    assert write_back(client, project, masks, "mine").unchanged == 4
    held = state(client, project)
    assert [len(held[t]["predictions"]) for t in ids] == [2, 1, 1, 0, 1]
    # Other masks since: one task is replaced, one emptied.
    changed = [masks[0], *masks[2:3], masks[4]]
    done = write_back(client, project, changed, "mine", annotations=True)
    assert (done.replaced, done.unchanged, done.emptied, done.annotated, done.left_to_people) == (1, 2, 1, 2, 1)
    assert write_back(client, project, changed, "mine", annotations=True).annotated == 0
    # What was written is read as a source project's masks, down to the pixel.
    source = read_source(client, project, tmp_path / "cache", heldout_share=0)
    got = {(a.image_id, source.classes[a.class_id]): mask_util.decode(a.rle) for a in source.labelled.annotations}
    for mask in changed[:2]:
        assert np.array_equal(got[mask.task_id, mask.class_name], mask_util.decode(mask.rle))
    # A person goes on with one of the annotations, and it stays theirs.
    own = state(client, project)[ids[1]]["annotations"][0]
    client.request("PATCH", f"api/annotations/{own['id']}/", body={"result": own["result"], "lead_time": 4.0})
    removed = remove(client, project, "mine")
    assert (removed.predictions, removed.annotations, removed.kept) == (3, 1, 1)
    after = state(client, project)
    assert [a["id"] for a in after[ids[1]].pop("annotations")] == [own["id"]]
    before[ids[1]].pop("annotations")
    assert after == before
    assert remove(client, project, "mine").as_dict() == {"predictions": 0, "annotations": 0, "kept": 0}


@pytest.mark.label_studio
@pytest.mark.parametrize(
    ("controls", "exact"),
    [((LABELS, PLAIN), True), ((POLYGON,), False), ((LABELS,), False), ((RECTANGLE,), False)],
    ids=["labels and brush", "polygons", "labels and polygon", "rectangles"],
)
def test_the_projects_own_controls(label_studio_client: Client, web: str, controls: tuple, exact: bool) -> None:
    client = label_studio_client
    body = {"title": "Source: own controls", "label_config": config(*controls)}
    project = client.request("POST", "api/projects/", body=body)["id"]
    tasks = [{"data": {"image": f"{web}/im0.png"}}]
    (task,) = client.request(
        "POST", f"api/projects/{project}/import", params={"return_task_ids": "true"}, body=tasks
    )["task_ids"]  # fmt: skip
    square = WrittenMask(task, "cell", encode(drawn(30, 24, 50, 40)))
    assert write_back(client, project, [square], "mine", annotations=True).mean_iou == pytest.approx(1, abs=0.01)
    rows = convert(client, project).coco["annotations"]
    assert [mask_util.area(r["segmentation"]) for r in rows] == [320]
    ring = WrittenMask(task, "cell", encode(ring_and_dot()))
    done = write_back(client, project, [square, ring], "mine", annotations=True)
    assert (done.replaced, done.mean_iou == 1) == (1, exact)
    if exact:
        masks = [mask_util.decode(r["segmentation"]) for r in convert(client, project).coco["annotations"]]
        assert np.array_equal(masks[1], ring_and_dot())


@pytest.mark.label_studio
def test_two_thousand_tasks(label_studio_client: Client, web: str) -> None:
    client, n = label_studio_client, 2000
    project, ids = make_project(
        client, "Source: large", [{"data": {"image": f"{web}/im{i % 6}.png"}} for i in range(n)]
    )
    rle = encode(ring_and_dot())
    masks = [WrittenMask(task, "cell", rle, 0.5) for task in ids]
    steps: list[tuple[int, int]] = []
    # Killed on the way, it goes on where it was.
    with pytest.raises(KeyboardInterrupt):
        write_back(client, project, masks, "mine", progress=lambda *s: steps.append(s) or _interrupt(len(steps) == 1))
    written = write_back(client, project, masks, "mine")
    assert (steps[-1], written.written, written.unchanged) == ((500, n), n - 500, 500)
    fields = "id,predictions,model_version"
    counts = {len(t["predictions"]) for t in client.tasks(project, fields, annotations=True)}
    assert counts == {1}
    assert remove(client, project, "mine").predictions == n
    assert {len(t["predictions"]) for t in client.tasks(project, fields, annotations=True)} == {0}


def _interrupt(now: bool) -> None:
    if now:
        raise KeyboardInterrupt


@pytest.mark.label_studio
def test_from_the_command_line(label_studio: LabelStudioServer, label_studio_client: Client, tmp_path: Path) -> None:
    client = label_studio_client
    label = '<Label value="dot"/>'
    xml = config(BRUSH.replace(LABEL, LABEL + label))
    project = client.request("POST", "api/projects/", body={"title": "Source: cli", "label_config": xml})["id"]
    body = [{"data": {"image": "http://127.0.0.1/none.png"}}]
    (task,) = client.request("POST", f"api/projects/{project}/import", params={"return_task_ids": "true"}, body=body)[
        "task_ids"
    ]
    store = verify_store(tmp_path / "a", label_studio={"url": label_studio.url, "source_project": project})
    finish(store)
    with store.session() as session:
        session.query(m.Image).update({"source_task": task})
    token = {"LABEL_STUDIO_API_KEY": label_studio.token}
    options = ["--to-label-studio", "--min-score", "0.5", "--json"]
    said = json.loads(campaign("export", store.folder, *options, **token).stdout)
    (prediction,) = state(client, project)[task]["predictions"]
    assert said["written"] == 1 and said["masks"] == len(prediction["result"]) > 0
    assert prediction["model_version"] == f"t [{store.key}]"
    said = json.loads(campaign("export", store.folder, *options, "--as-annotations", **token).stdout)
    assert said["unchanged"] == said["annotated"] == 1
    said = json.loads(campaign("export", store.folder, "--to-label-studio", "--remove", "--json", **token).stdout)
    assert said == {"predictions": 1, "annotations": 1, "kept": 0}
    assert state(client, project)[task] | {"id": 0} == {"id": 0, "predictions": [], "annotations": []}


def test_what_is_refused_in_one_line(tmp_path: Path) -> None:
    store = verify_store(tmp_path / "a", label_studio={"url": "http://127.0.0.1:9"})
    for options, code, message in (
        (["--remove"], 2, "--remove: expected --to-label-studio with it"),
        (["--to-label-studio"], 1, "label_studio.source_project: expected a campaign started from a Label Studio"),
    ):
        done = campaign("export", store.folder, *options)
        assert done.returncode == code and message in done.stderr and len(done.stderr.splitlines()) == 1
