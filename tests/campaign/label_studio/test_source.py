from __future__ import annotations

import shutil
from collections import Counter
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as mask_util

from campaign.label_studio.client import Client, LabelStudioUnauthorized, LabelStudioUnavailable, ProjectGone
from campaign.label_studio.controls import mask_controls
from campaign.label_studio.server import LabelStudioServer
from campaign.label_studio.source import (
    NOTES_FILE,
    download,
    file_names,
    held_out,
    original_name,
    parse_regions,
    read_source,
    standing_annotation,
)
from campaign.label_studio.task_notes import TaskNotes
from campaign.steps.create import create_from_label_studio
from ml_backend.errors import InputError
from ml_backend.masks.brush import encode_brush
from ml_backend.masks.fetched import place_of
from ml_backend.masks.images import read_rgb
from ml_backend.server.backend import Backend
from ml_backend.server.image_files import ImageFiles

CONFIG = """<View><Image name="img" value="$image"/>
<BrushLabels name="brush" toName="img"><Label value="nucleus"/><Label value="cell"/></BrushLabels>
<PolygonLabels name="poly" toName="img"><Label value="nucleus"/></PolygonLabels>
<RectangleLabels name="box" toName="img"><Label value="debris" alias="dirt"/></RectangleLabels>
<Choices name="quality" toName="img"><Choice value="good"/></Choices></View>"""


def encode(mask: np.ndarray) -> dict[str, Any]:
    return mask_util.encode(np.asfortranarray(mask, np.uint8))


def ring_and_dot(height: int = 48, width: int = 64) -> np.ndarray:
    """A mask with a hole and two parts, down to the single pixel."""
    mask = np.zeros((height, width), np.uint8)
    mask[5:25, 6:30] = 1
    mask[10:15, 12:20] = 0
    mask[40, 50] = 1
    return mask


def region(name: str, kind: str, value: dict[str, Any], label: str | None, **more: Any) -> dict[str, Any]:
    value = value | ({kind: [label]} if label else {})
    return {"id": more.pop("id", f"{name}-{kind}"), "from_name": name, "to_name": "img", "type": kind,
            "original_width": 64, "original_height": 48, "value": value} | more  # fmt: skip


def polygon(*points: tuple[float, float]) -> dict[str, Any]:
    """Points in pixels of a 64x48 image, as Label Studio's percent."""
    return {"points": [[x * 100 / 64, y * 100 / 48] for x, y in points], "closed": True}


def box(x: float, y: float, w: float, h: float, rotation: float = 0) -> dict[str, Any]:
    return {"x": x * 100 / 64, "y": y * 100 / 48, "width": w * 100 / 64, "height": h * 100 / 48, "rotation": rotation}


@pytest.mark.parametrize(
    ("xml", "classes", "key"),
    [
        (CONFIG, ("nucleus", "cell", "dirt"), "image"),
        ('<View><Image name="i" value="$u"/><Labels name="l" toName="i"><Label value="a"/></Labels>'
         '<Brush name="b" toName="i"/></View>', ("a",), "u"),
        ('<View><Text name="t" value="$t"/><Labels name="n" toName="t"><Label value="x"/></Labels>'
         '<Image name="i" value="$u"/><BrushLabels name="l" toName="i" value="$dynamic"/></View>', (), "u"),
    ],
)  # fmt: skip
def test_mask_controls(xml: str, classes: tuple[str, ...], key: str) -> None:
    controls = mask_controls(xml)
    assert (controls.classes, controls.data_key) == (classes, key)


@pytest.mark.parametrize(
    ("xml", "got"),
    [
        ("<View><Image", "expected XML"),
        ('<View><Text name="t" value="$t"/><Labels name="n" toName="t"/></View>', "got <View> without"),
        ('<View><Image name="i" value="$u"/><Choices name="c" toName="i"/></View>', "got <View> without"),
    ],
)
def test_configs_without_masks(xml: str, got: str) -> None:
    with pytest.raises(InputError, match=got):
        mask_controls(xml)


def drawn(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((48, 64), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ([region("brush", "brushlabels", {"format": "rle", "rle": encode_brush(ring_and_dot())}, "cell")],
         [("cell", ring_and_dot())]),
        ([region("poly", "polygonlabels", polygon((4, 4), (24, 4), (24, 20), (4, 20)), "nucleus")],
         [("nucleus", drawn(4, 4, 24, 20))]),
        ([region("box", "rectanglelabels", box(4, 4, 20, 16), "dirt")], [("dirt", drawn(4, 4, 24, 20))]),
        # Turned by a quarter clockwise about its upper left corner.
        ([region("box", "rectanglelabels", box(24, 4, 16, 20, 90), "dirt")], [("dirt", drawn(4, 4, 24, 20))]),
        # Two labels on one region, and a box that reaches beyond the image.
        ([region("box", "rectanglelabels", box(50, 40, 30, 30) | {"rectanglelabels": ["dirt", "b"]}, None)],
         [("dirt", drawn(50, 40, 64, 48)), ("b", drawn(50, 40, 64, 48))]),
    ],
    ids=["brush", "polygon", "rectangle", "turned", "two labels"],
)  # fmt: skip
def test_parse_regions(regions: list[dict], expected: list[tuple[str, np.ndarray]]) -> None:
    masks = parse_regions(regions, mask_controls(CONFIG))
    got = [(label, mask_util.decode(r.rle)) for r in masks for label in r.labels]
    assert [label for label, _ in got] == [label for label, _ in expected]
    for (_, mask), (_, true) in zip(got, expected, strict=True):
        assert np.array_equal(mask, true)


def test_parse_regions_of_labels_with_a_plain_brush() -> None:
    xml = """<View><Image name="img" value="$i"/><Labels name="l" toName="img"><Label value="a"/></Labels>
    <Polygon name="p" toName="img"/></View>"""
    value = polygon((4, 4), (24, 4), (24, 20), (4, 20))
    parts = [region("p", "polygon", value, None, id="x"), region("l", "labels", value, "a", id="x")]
    (parsed,) = parse_regions(parts, mask_controls(xml))
    assert parsed.labels == ("a",)
    assert np.array_equal(mask_util.decode(parsed.rle), drawn(4, 4, 24, 20))


def test_what_is_no_mask_is_counted() -> None:
    value = polygon((4, 4), (24, 4), (24, 20))
    counted: Counter[str] = Counter()
    regions = [
        region("quality", "choices", {"choices": ["good"]}, None),
        {"type": "relation", "from_id": "a", "to_id": "b"},
        region("poly", "polygonlabels", value, None, id="1"),
        region("poly", "polygonlabels", value, "nucleus", id="2", image_rotation=90),
        region("box", "rectanglelabels", {"x": 1, "y": 1, "width": 3}, "dirt", id="3"),
        region("brush", "brushlabels", {"rle": encode_brush(np.zeros((48, 64), bool))}, "cell", id="4"),
    ]
    assert parse_regions(regions, mask_controls(CONFIG), counted) == []
    assert counted == {
        "choices regions": 1, "regions without a class": 1, "regions on a turned image": 1,
        "regions that are no mask": 1, "empty masks": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        region("brush", "brushlabels", {"rle": encode_brush(np.ones((10, 10), bool))}, "cell"),
        region("poly", "polygonlabels", {"points": [[1, 1], [2, 2]]}, "cell"),
        region("poly", "polygonlabels", {"points": "x"}, "cell"),
        region("poly", "polygonlabels", polygon((1, 1), (5, 1), (1e9, 5)), "cell"),
        region("poly", "polygonlabels", polygon((1, 1), (5, 1), (float("nan"), 5)), "cell"),
        region("box", "rectanglelabels", {"x": 1, "y": 1, "width": "2", "height": 1}, "cell"),
        region("poly", "polygonlabels", polygon((1, 1), (5, 1), (5, 5)), "cell", original_width=0),
        region("poly", "polygonlabels", polygon((1, 1), (5, 1), (5, 5)), "cell", original_width=10**9),
        region("poly", "polygonlabels", polygon((1, 1), (5, 1), (5, 5)), "cell") | {"from_name": ["poly"]},
        region("poly", "polygonlabels", polygon((1, 1), (5, 1), (5, 5)), "cell") | {"value": [1]},
    ],
)
def test_malformed_regions_are_counted_and_stop_nothing(bad: dict) -> None:
    counted: Counter[str] = Counter()
    good = region("poly", "polygonlabels", polygon((1, 1), (50, 1), (50, 50)), "cell", id="good")
    assert len(parse_regions([bad, good], mask_controls(CONFIG), counted)) == 1
    assert counted == {"malformed regions": 1}


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([], None),
        ([{"id": 1, "was_cancelled": True, "result": [], "updated_at": "2026-01-02T00:00:00.000000Z"}], None),
        (
            [
                {"id": 1, "result": [], "updated_at": "2026-01-01T00:00:00.000000Z"},
                {"id": 2, "result": [], "updated_at": "2026-01-02T00:00:00.000000Z"},
            ],
            2,
        ),
        (
            [
                {"id": 1, "result": [], "updated_at": "2026-01-01T00:00:00.000000Z", "ground_truth": True},
                {"id": 2, "result": [], "updated_at": "2026-01-02T00:00:00.000000Z"},
            ],
            1,
        ),
    ],
)
def test_standing_annotation(annotations: list[dict], expected: int | None) -> None:
    standing = standing_annotation({"annotations": annotations})
    assert (standing and standing["id"]) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/data/upload/3/0a1b2c3d-cells_1.png", "cells_1.png"),
        ("/data/local-files/?d=set/a%20b.png", "set/a b.png"),
        ("/data/local-files/?d=../../etc/a.png", "etc/a.png"),
        ("http://host/folder/a%20b.jpg?size=2", "a b.jpg"),
        ("http://host/folder/0a1b2c3d-a.jpg", "0a1b2c3d-a.jpg"),
        ("s3://bucket/folder/a.tif", "a.tif"),
        ("http://host/", "image"),
    ],
)
def test_original_name(address: str, expected: str) -> None:
    assert original_name(address) == expected


def test_file_names_are_unique() -> None:
    names = file_names({1: "http://a/x.png", 2: "http://b/x.png", 3: "http://b/y.png"})
    assert names == {1: "task-1/x.png", 2: "task-2/x.png", 3: "y.png"}


def test_held_out() -> None:
    tasks = list(range(100))
    first = held_out(tasks, 0.2, 0)
    assert len(first) == 20
    assert held_out(tasks[::-1], 0.2, 0) == first != held_out(tasks, 0.2, 1)
    assert held_out(tasks, 0, 0) == held_out([1], 0.5, 0) == set()
    assert len(held_out([1, 2], 0.01, 0)) == len(held_out([1, 2], 0.99, 0)) == 1


def make_project(client: Client, title: str, tasks: list[dict]) -> tuple[int, list[int]]:
    project = client.request("POST", "api/projects/", body={"title": title, "label_config": CONFIG})["id"]
    made = client.request("POST", f"api/projects/{project}/import", params={"return_task_ids": "true"}, body=tasks)
    return project, made["task_ids"]


def annotation(*regions: dict) -> list[dict]:
    return [{"result": list(regions), "ground_truth": False}]


@pytest.mark.label_studio
class TestReadSource:
    def test_uploads_local_files_and_http(
        self, label_studio: LabelStudioServer, label_studio_client: Client, images: Path, web: str, tmp_path: Path
    ) -> None:
        client = label_studio_client
        project, (local, remote, skipped, free) = make_project(
            client,
            "Source: all kinds",
            [
                {"data": {"image": "/data/local-files/?d=set/im0.png"}, "annotations": annotation(
                    region("brush", "brushlabels", {"rle": encode_brush(ring_and_dot())}, "cell"))},
                {"data": {"image": f"{web}/im1.png"}, "annotations": annotation(
                    region("box", "rectanglelabels", box(4, 4, 20, 16), "dirt"),
                    region("poly", "polygonlabels", polygon((30, 4), (40, 4), (40, 20), (30, 20)), "nucleus"),
                    region("quality", "choices", {"choices": ["good"]}, None))},
                {"data": {"image": f"{web}/im2.png"},
                 "annotations": [{"result": [], "was_cancelled": True, "ground_truth": False}]},
                {"data": {"image": f"{web}/im3.png"}},
            ],
        )  # fmt: skip
        assert label_studio.files
        (label_studio.files / "set").mkdir(exist_ok=True)
        (label_studio.files / "set" / "im0.png").write_bytes((images / "im0.png").read_bytes())
        storage = {"project": project, "path": str(label_studio.files / "set"), "use_blob_urls": True}
        client.request("POST", "api/storages/localfiles", body=storage)
        import requests

        with (images / "im4.png").open("rb") as file:
            requests.post(
                f"{client.url}/api/projects/{project}/import", files={"file": ("im4.png", file)},
                headers={"Authorization": f"Token {label_studio.token}"}, timeout=30,
            ).raise_for_status()  # fmt: skip
        before = client.project(project), list(client.tasks(project, "id,updated_at"))
        steps: list[tuple[int, int]] = []
        source = read_source(
            client, project, tmp_path / "cache", heldout_share=0.5, progress=lambda *s: steps.append(s)
        )
        assert source.classes == {1: "nucleus", 2: "cell", 3: "dirt"}
        assert source.left_out == {"choices regions": 1}
        assert steps[-1] == (5, 5)
        annotated = source.labelled.images + source.heldout.images
        assert len(source.labelled.images) == len(source.heldout.images) == 1
        assert {i.id: i.file_name for i in annotated} == {local: "set/im0.png", remote: "im1.png"}
        assert [i.file_name for i in source.pool.images] == ["im2.png", "im3.png", "im4.png"]
        assert [i.id for i in source.pool.images][:2] == [skipped, free]
        assert [image for image, _ in source.pool.rows()] == list(source.pool.images)
        for image in [*annotated, *source.pool.images]:
            assert (image.width, image.height) == (64, 48)
            assert image.path.read_bytes() == (images / Path(image.file_name).name).read_bytes()
        masks = {
            (a.image_id, source.classes[a.class_id]): mask_util.decode(a.rle)
            for a in source.labelled.annotations + source.heldout.annotations
        }
        assert masks.keys() == {(local, "cell"), (remote, "dirt"), (remote, "nucleus")}
        assert np.array_equal(masks[local, "cell"], ring_and_dot())
        assert np.array_equal(masks[remote, "dirt"], drawn(4, 4, 24, 20))
        assert np.array_equal(masks[remote, "nucleus"], drawn(30, 4, 40, 20))
        # Nothing was written, and a second time nothing is downloaded.
        assert (client.project(project), list(client.tasks(project, "id,updated_at"))) == before
        (images / "im3.png").unlink()
        again = read_source(client, project, tmp_path / "cache", heldout_share=0.5)
        assert [i.path for i in again.pool.images] == [i.path for i in source.pool.images]

    def test_images_stay_in_the_bucket_that_is_named(
        self, label_studio_client: Client, images: Path, s3: str, s3_server: str, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """Tasks as Label Studio's own S3 storage writes them, read from the bucket, and from Label Studio otherwise."""
        import fsspec

        client, files = label_studio_client, fsspec.filesystem("s3")
        for number in range(3):
            files.put_file(str(images / f"im{number}.png"), f"{s3}/cells/im{number}.png")
        project = client.request("POST", "api/projects/", body={"title": "Source: bucket", "label_config": CONFIG})[
            "id"
        ]
        storage = {
            "project": project, "bucket": s3.removeprefix("s3://"), "prefix": "cells", "s3_endpoint": s3_server,
            "aws_access_key_id": "me", "aws_secret_access_key": "secret", "region_name": "us-east-1",
            "use_blob_urls": True, "presign": True, "recursive_scan": True,
        }  # fmt: skip
        made = client.request("POST", "api/storages/s3", body=storage)["id"]
        client.request("POST", f"api/storages/s3/{made}/sync")
        tasks = list(client.tasks(project, "id,data"))
        assert sorted(task["data"]["image"] for task in tasks) == [f"{s3}/cells/im{n}.png" for n in range(3)]
        monkeypatch.setenv("CAMPAIGN_IMAGE_CACHE", str(tmp_path / "images"))
        presigned = read_source(client, project, tmp_path / "presigned")
        monkeypatch.setenv("CAMPAIGN_IMAGE_BUCKETS", s3)
        direct = read_source(client, project, tmp_path / "direct")
        assert {place_of(i.path) for i in direct.pool.images} == {f"{s3}/cells/im{n}.png" for n in range(3)}
        assert all(i.path.is_relative_to(tmp_path / "presigned") for i in presigned.pool.images)
        for one, other in zip(presigned.pool.images, direct.pool.images, strict=True):
            assert (one.id, one.file_name, one.width, one.height) == (
                other.id, other.file_name, other.width, other.height
            )  # fmt: skip
            assert np.array_equal(read_rgb(one.path), read_rgb(other.path))
        # Without a Label Studio that answers for the images: nothing was copied, and what the cache lost is fetched.
        assert [path.name for path in (tmp_path / "direct").iterdir()] == [NOTES_FILE]
        shutil.rmtree(tmp_path / "images")
        again = read_source(client, project, tmp_path / "direct")
        assert [i.path for i in again.pool.images] == [i.path for i in direct.pool.images]
        assert read_rgb(next(again.pool.images).path).shape == (48, 64, 3)
        settings = {"name": "bucket", "label_studio": {"url": client.url, "source_project": project}}
        with pytest.raises(InputError, match="tasks with masks"):
            create_from_label_studio(tmp_path / "campaign", settings, client.access_token())
        brush = region("brush", "brushlabels", {"rle": encode_brush(ring_and_dot())}, "cell")
        client.request("POST", f"api/tasks/{tasks[0]['id']}/annotations/", body={"result": [brush]})
        store = create_from_label_studio(tmp_path / "campaign", settings, client.access_token(), heldout_share=0)
        assert {row.path for row in store.images.rows()} == {f"{s3}/cells/im{n}.png" for n in range(3)}
        cells = Backend(None, ImageFiles(tmp_path / "files"))  # type: ignore[arg-type]
        monkeypatch.setenv("LABEL_STUDIO_URL", client.url)
        for task in tasks:
            assert place_of(cells.task_image(project, task, "image")) == task["data"]["image"]

    def test_bad_sources(self, label_studio_client: Client, images: Path, web: str, tmp_path: Path) -> None:
        client = label_studio_client
        wrong_size = region("box", "rectanglelabels", box(1, 1, 5, 5), "dirt", original_width=32, original_height=24)
        (images / "torn.png").write_bytes((images / "im0.png").read_bytes()[:20])
        cases = [
            ([{"data": {"image": f"{web}/none.png"}}], r"image of task {} \(.*none.png\): expected an answer, got 404"),
            ([{"data": {"image": "http://127.0.0.1:9/a.png"}}], r"image of task {} .*, got ConnectionError"),
            ([{"data": {"image": f"{web}/torn.png"}}], r"image of task {} \(.*torn.png\): expected a readable image"),
            ([{"data": {"image": f"{web}/im0.png"}, "annotations": annotation(wrong_size)}],
             "task {}: expected masks of 64x48, got 32x24"),
        ]  # fmt: skip
        for number, (tasks, message) in enumerate(cases):
            project, (task, *_) = make_project(client, f"Source: bad {number}", tasks)
            with pytest.raises(InputError, match=message.format(task)):
                read_source(client, project, tmp_path / "cache")
        empty = client.request("POST", "api/projects/", body={"title": "Source: empty", "label_config": CONFIG})["id"]
        with pytest.raises(InputError, match=f"project {empty}: expected at least one task, got none"):
            read_source(client, empty, tmp_path / "cache")
        client.request("DELETE", f"api/projects/{empty}/")
        with pytest.raises(ProjectGone):
            read_source(client, empty, tmp_path / "cache")
        with pytest.raises(InputError, match="held-out share"):
            read_source(client, empty, tmp_path / "cache", heldout_share=1)

    def test_goes_on_where_it_was(self, label_studio_client: Client, web: str, tmp_path: Path, monkeypatch) -> None:
        """Killed and begun again it reads on, and afterwards only what changed; what was deleted is gone."""
        monkeypatch.setattr("campaign.label_studio.source.PAGE_SIZE", 2)
        monkeypatch.setattr("campaign.label_studio.source.PAGE_BYTES", None)
        own = region("box", "rectanglelabels", box(4, 4, 20, 16), "dirt")
        client = label_studio_client
        project, tasks = make_project(
            client,
            "Source: goes on",
            [{"data": {"image": f"{web}/im{n}.png?v={n}"}, "annotations": annotation(own)} for n in range(3)]
            + [{"data": {"image": f"{web}/im{n}.png?v={n}"}} for n in (0, 1, 2, 4)],
        )
        read: list[int] = []
        fails_at: int | None = 2
        ask = client.request

        def request(method: str, path: str, **options: Any) -> Any:
            answer = ask(method, path, **options)
            if "annotations" in (options.get("params") or {}).get("include", ""):
                read.append(len(answer["tasks"]))
                if len(read) == fails_at:
                    raise LabelStudioUnavailable("Label Studio", "an answer", "none")
            return answer

        monkeypatch.setattr(client, "request", request)
        with pytest.raises(LabelStudioUnavailable):
            read_source(client, project, tmp_path / "cache")
        with closing(TaskNotes(tmp_path / "cache" / NOTES_FILE, "another project")) as others:
            assert not others.count()
        read.clear()
        fails_at = 2
        with pytest.raises(LabelStudioUnavailable):
            read_source(client, project, tmp_path / "cache")
        read.clear()
        fails_at = None
        monkeypatch.setattr("campaign.label_studio.source.OVERLAP", timedelta(0))
        whole = read_source(client, project, tmp_path / "cache")
        assert read[:3] == [2, 2, 1]  # of seven, two were noted before
        assert [image.id for image in whole.labelled.images] == tasks[:3]
        assert [image.id for image in whole.pool.images] == tasks[3:]
        client.request("DELETE", f"api/tasks/{tasks[0]}/")
        client.request("POST", f"api/tasks/{tasks[3]}/annotations/", body={"result": [own]})
        (late,) = client.request(
            "POST", f"api/projects/{project}/import", params={"return_task_ids": "true"},
            body=[{"data": {"image": f"{web}/im3.png"}}],
        )["task_ids"]  # fmt: skip
        read.clear()
        again = read_source(client, project, tmp_path / "cache")
        assert sum(read) <= 4
        assert [image.id for image in again.labelled.images] == tasks[1:4]
        assert [a.image_id for a in again.labelled.annotations] == tasks[1:4]
        assert [image.id for image in again.pool.images] == [*tasks[4:], late]
        fresh = read_source(client, project, tmp_path / "other")
        assert fresh.labelled.annotations == again.labelled.annotations

    def test_nothing_half_written_is_kept(self, label_studio_client: Client, web: str, tmp_path: Path) -> None:
        with pytest.raises(InputError):
            download(label_studio_client, {1: f"{web}/im0.png", 2: f"{web}/none.png"}, tmp_path / "cache")
        left = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
        assert [p.stat().st_size for p in left] == [p.stat().st_size for p in left if p.suffix == ".png"]
        assert len(left) <= 1


@pytest.mark.label_studio
def test_unreachable_and_unauthorized(label_studio: LabelStudioServer, tmp_path: Path) -> None:
    gone = Client("http://127.0.0.1:9", "t" * 40, retry_delays=(0.01,))
    with pytest.raises(LabelStudioUnavailable, match=r"http://127\.0\.0\.1:9: expected a running Label Studio, got"):
        read_source(gone, 1, tmp_path)
    with pytest.raises(LabelStudioUnauthorized, match="expected a token that Label Studio accepts, got 401"):
        read_source(Client(label_studio.url, "t" * 40), 1, tmp_path)
