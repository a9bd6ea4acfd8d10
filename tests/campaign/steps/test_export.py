"""The export in every form: exact, bound to its set, whole or in parts, and read by the tools it is for."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from campaign.certification.promise import digest_of
from campaign.dataset import listed
from campaign.dataset.choice import Choice, Division, Parts
from campaign.derived.dataset import final_masks
from campaign.settings import CampaignSettings
from campaign.steps import export_files
from campaign.steps.export import Exported, export_campaign
from campaign.steps.export_files import Form, Format
from campaign.store import Store
from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset, SourceFields
from tests.campaign.target_builders import Truth, finish, target_store

DIVISION = Division.parse("0.5/0.25/0.25", "0")
PARTS = ("train", "val", "test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    store = target_store(tmp_path_factory.mktemp("export") / "a")
    finish(store, Truth())
    store.engine.dispose()
    return store.folder


@pytest.fixture
def store(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "campaign")
    return Store.open(tmp_path / "campaign")


def read(path):
    return json.loads(Path(path).read_text(encoding="utf-8"))


def by_id(store):
    masks = final_masks(store)
    return dict(zip(masks.mask_id.tolist(), masks.rles(), strict=True))


def test_the_whole_carries_its_promise_and_a_part_does_not(store, tmp_path):
    whole = export_campaign(store, tmp_path / "whole.json")
    info = read(tmp_path / "whole.json")["info"]
    assert info["promise"]["digest"] == info["masks_digest"] == digest_of(whole.masks.mask_id) and whole.left_out == 0
    part = export_campaign(store, tmp_path / "part.json", Choice(classes=("cell",)))
    content = read(tmp_path / "part.json")
    assert part.left_out > 0 and len(content["annotations"]) == len(part.masks)
    assert not {"promise", "certificate", "recall"} & content["info"].keys()
    assert content["info"]["chosen"] == {
        "classes": ["cell"], "masks": len(part.masks), "of": len(whole.masks),
        "note": "a part of the data set: what is promised or certified of the whole does not speak of it",
    }  # fmt: skip
    assert content["info"]["masks_digest"] == digest_of(part.masks.mask_id) != info["masks_digest"]
    assert [c["name"] for c in content["categories"]] == ["cell"]
    # A choice that leaves nothing out is the exact set.
    all_of_it = export_campaign(store, tmp_path / "all.json", Choice(min_score=0.0))
    assert all_of_it.left_out == 0 and "promise" in read(tmp_path / "all.json")["info"]


def test_verified_masks_alone(store, tmp_path):
    export_campaign(store, tmp_path / "v.json", Choice(verified_only=True))
    sources = {a["attributes"]["source"] for a in read(tmp_path / "v.json")["annotations"]}
    assert sources == {"voted yes"}


def test_parts_hold_every_image_once_and_no_promise_of_their_own(store, tmp_path):
    written = export_campaign(store, tmp_path / "e.json", form=Form(division=DIVISION))
    files = [read(f) for f in written.files]
    assert [f.name for f in written.files] == ["e-train.json", "e-val.json", "e-test.json"]
    names = [i["file_name"] for f in files for i in f["images"]]
    assert sorted(names) == sorted(i.file_name for i in store.images.records("pool"))
    assert sum(len(f["annotations"]) for f in files) == len(written.masks) == sum(written.parts.values())
    for part, content in zip(PARTS, files, strict=True):
        assert {DIVISION.part_of(i["file_name"]) for i in content["images"]} <= {part}
        assert "promise" not in content["info"]
        assert content["info"]["split"]["part"] == part
        assert content["info"]["split"]["of_all_parts_together"]["promise"]["masks"] == len(written.masks)


def parts_of(files):
    return [a["attributes"]["mask_id"] for f in files for a in f["annotations"]]


@pytest.mark.parametrize("together", [1, 256])
def test_a_file_for_each_class(store, tmp_path, monkeypatch, together):
    monkeypatch.setattr(export_files, "OPEN", together)
    whole = export_campaign(store, tmp_path / "whole.json")
    written = export_campaign(store, tmp_path / "e.json", form=Form(parts=Parts.parse("class")))
    assert [f.name for f in written.files] == ["e-1-cell.json", "e-2-dot.json"]
    files = [read(f) for f in written.files]
    assert sorted(parts_of(files)) == whole.masks.mask_id.tolist() and sum(written.parts.values()) == len(whole.masks)
    everything = {a["attributes"]["mask_id"]: a for a in read(tmp_path / "whole.json")["annotations"]}
    for file, name in zip(files, ("cell", "dot"), strict=True):
        assert [c["name"] for c in file["categories"]] == [name]
        assert {i["id"] for i in file["images"]} == {a["image_id"] for a in file["annotations"]}
        assert [a["id"] for a in file["annotations"]] == list(range(1, len(file["annotations"]) + 1))
        for a in file["annotations"]:
            assert a | {"id": 0} == everything[a["attributes"]["mask_id"]] | {"id": 0}
        info = file["info"]
        assert info["masks_digest"] == digest_of(np.array(parts_of([file]))) and "promise" not in info
        assert info["parts"]["by"] == "class" and info["parts"]["of"] == 2
        assert info["parts"]["of_all_parts_together"]["promise"]["masks"] == len(whole.masks)


def test_a_file_for_every_so_many_images(store, tmp_path):
    pool = [i.file_name for i in store.images.records("pool")]
    length = len(pool) // 2 + 1
    written = export_campaign(store, tmp_path / "e.json", form=Form(parts=Parts.parse(str(length))))
    assert [f.name for f in written.files] == ["e-00001.json", "e-00002.json"]
    files = [read(f) for f in written.files]
    assert [[i["file_name"] for i in f["images"]] for f in files] == [pool[:length], pool[length:]]
    assert sorted(parts_of(files)) == written.masks.mask_id.tolist()
    assert [f["info"]["parts"]["part"] for f in files] == list(written.parts) == ["00001", "00002"]
    for file in files:
        assert {a["image_id"] for a in file["annotations"]} <= {i["id"] for i in file["images"]}


def test_parts_of_another_export_are_not_mixed_with(store, tmp_path):
    export_campaign(store, tmp_path / "e.json", form=Form(parts=Parts(7)))
    before = {p.name: p.read_bytes() for p in tmp_path.glob("*.json")}
    (tmp_path / "e-00001.parquet").touch()  # of another format
    for parts in (Parts(), Parts(1000)):
        with pytest.raises(InputError, match=r"expected no parts of another export beside these, got e-0000"):
            export_campaign(store, tmp_path / "e.json", form=Form(parts=parts))
    assert {p.name: p.read_bytes() for p in tmp_path.glob("*.json")} == before
    export_campaign(store, tmp_path / "e.json", form=Form(parts=Parts(7)))  # the same once more


@pytest.mark.parametrize("parts", ["class", "7"])
def test_parts_in_parquet_hold_what_one_file_holds(store, tmp_path, monkeypatch, parts):
    import pyarrow.parquet as pq

    monkeypatch.setattr(listed, "PIECE", 5)
    monkeypatch.setattr(export_files, "PIECE", 5)
    monkeypatch.setattr(export_files, "GROUP", 8)
    export_campaign(store, tmp_path / "e.parquet", form=Form(Format.PARQUET))
    written = export_campaign(store, tmp_path / "e.parquet", form=Form(Format.PARQUET, parts=Parts.parse(parts)))
    rows = [row for file in written.files for row in pq.ParquetFile(file).read().to_pylist()]
    whole = pq.ParquetFile(tmp_path / "e.parquet")
    assert sorted(rows, key=lambda row: row["mask_id"]) == whole.read().to_pylist()
    groups = [whole.metadata.row_group(n).num_rows for n in range(whole.num_row_groups)]
    assert set(groups[:-1]) <= {8} and sum(groups) == len(written.masks)
    assert all("parts" in json.loads(pq.ParquetFile(f).schema_arrow.metadata[b"info"]) for f in written.files)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (Form(Format.YOLO, parts=Parts()), "parts: expected the format coco or parquet, got yolo"),
        (Form(division=DIVISION, parts=Parts(3)), "parts: expected no split with them, got 0.5/0.25/0.25"),
    ],
)
def test_parts_that_do_not_go_with_the_rest(store, tmp_path, form, message):
    with pytest.raises(InputError, match=message):
        export_campaign(store, tmp_path / "e.json", form=form)
    assert [p.name for p in tmp_path.iterdir()] == ["campaign"]


@pytest.mark.parametrize("text", ["0", "-3", "half", ""])
def test_parts_are_classes_or_numbers_of_images(text):
    with pytest.raises(InputError, match="parts: expected class, or a number of images such as 100000, got"):
        Parts.parse(text)


@pytest.mark.parametrize("form", [Format.COCO, Format.PARQUET])
def test_pieces_make_the_same_file(store, tmp_path, monkeypatch, form):
    export_campaign(store, tmp_path / "whole", form=Form(form))
    for module in (listed, export_files):
        monkeypatch.setattr(module, "PIECE", 7)
    export_campaign(store, tmp_path / "pieces", form=Form(form))
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "pieces").read_bytes()


def test_polygons_say_what_they_lose(store, tmp_path):
    written = export_campaign(store, tmp_path / "p.json", form=Form(polygons=True))
    content, exact = read(tmp_path / "p.json"), by_id(store)
    said = content["info"]["polygons"]
    ious = []
    for a in content["annotations"]:
        height, width = exact[a["attributes"]["mask_id"]]["size"]
        drawn = mask_util.merge(mask_util.frPyObjects(a["segmentation"], height, width))
        ious.append(mask_util.iou([drawn], [exact[a["attributes"]["mask_id"]]], [0])[0, 0])
    assert said["polygons"] == len(ious) == len(written.masks) and said["no_polygon"] == []
    assert (said["mean_iou"], said["least_iou"]) == pytest.approx((np.mean(ious), min(ious)), abs=1e-6)
    with pytest.raises(InputError, match="polygons: expected the format coco, got yolo"):
        export_campaign(store, tmp_path / "y", form=Form(Format.YOLO, polygons=True))


def test_yolo_has_a_polygon_for_each_mask(store, tmp_path):
    out = tmp_path / "yolo"
    written = export_campaign(store, out, form=Form(Format.YOLO, division=DIVISION, copy_images=True))
    exact = by_id(store)
    count, best = 0, []
    sizes = {i.file_name: (i.height, i.width) for i in store.images.records("pool")}
    for row in written.images:
        part = DIVISION.part_of(row["file_name"])
        assert (out / "images" / part / row["file_name"]).is_file()
        lines = (out / "labels" / part / row["file_name"]).with_suffix(".txt").read_text().splitlines()
        own = [exact[int(m)] for m in written.masks.mask_id[written.masks.image_id == row["id"]]]
        height, width = sizes[row["file_name"]]
        for line, rle in zip(lines, own, strict=True):
            points = np.array(line.split()[1:], float).reshape(-1, 2) * (width, height)
            drawn = mask_util.merge(mask_util.frPyObjects([points.reshape(-1).tolist()], height, width))
            best.append(mask_util.iou([drawn], [rle], [0])[0, 0])
        count += len(lines)
    assert count == len(written.masks) and min(best) > 0.95
    head = (out / "data.yaml").read_text()
    assert 'train: images/train\nval: images/val\ntest: images/test\nnames:\n  0: "cell"\n  1: "dot"\n' in head
    # Again: what was there is exchanged, images are kept; another's folder is not touched.
    before = (out / "images").stat().st_ino
    export_campaign(store, out, form=Form(Format.YOLO, division=DIVISION))
    assert (out / "images").stat().st_ino == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    with pytest.raises(InputError, match="other: expected a new or empty folder, or an earlier export"):
        export_campaign(store, tmp_path / "other", form=Form(Format.YOLO))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["campaign", "other", "yolo"]


def test_parquet_has_what_coco_has(store, tmp_path):
    import pyarrow.parquet as pq

    export_campaign(store, tmp_path / "e.parquet", form=Form(Format.PARQUET))
    export_campaign(store, tmp_path / "e.json")
    table, coco = pq.read_table(tmp_path / "e.parquet"), read(tmp_path / "e.json")
    rows = table.to_pylist()
    assert len(rows) == len(coco["annotations"])
    names = {i["id"]: i["file_name"] for i in coco["images"]}
    for row, a in zip(rows, coco["annotations"], strict=True):
        said = a["attributes"]
        assert (row["rle"], [row["height"], row["width"]]) == tuple(a["segmentation"].values())[::-1]
        assert (row["file_name"], row["class_id"]) == (names[a["image_id"]], a["category_id"])
        assert (row["area"], row["bbox"]) == (a["area"], a["bbox"])
        assert {k: row[k] for k in ("mask_id", "round", "cluster", "rule", "source")} == {
            k: said[k] for k in ("mask_id", "round", "cluster", "rule", "source")
        }
    assert json.loads(table.schema.metadata[b"info"])["promise"] == coco["info"]["promise"]


def test_fields_of_the_input_file_are_kept(tmp_path, store):
    image = store.images.records("pool")[0]
    licence = {"id": 3, "name": "CC BY", "url": "https://example.com"}
    coco = {
        "info": {"contributor": "a museum"}, "licenses": [licence],
        "images": [{"id": 9, "file_name": Path(image.path).name, "width": image.width, "height": image.height,
                    "license": 3, "date_captured": "2026-01-01"}],
        "categories": [{"id": 1, "name": "cell", "supercategory": "tissue"}],
    }  # fmt: skip
    (tmp_path / "pool.json").write_text(json.dumps(coco))
    data = CocoDataset.load(tmp_path / "pool.json", Path(image.path).parent)
    assert data.fields == SourceFields(
        coco["info"], [licence], {9: {"license": 3, "date_captured": "2026-01-01"}}, {1: {"supercategory": "tissue"}}
    )
    made = Store.create(tmp_path / "made", CampaignSettings(name="m"), {"pool": data})
    export_campaign(made, tmp_path / "e.json", form=Form(copy_images=True))
    content = read(tmp_path / "e.json")
    assert content["licenses"] == [licence] and content["info"]["source"] == {"contributor": "a museum"}
    assert content["images"] == [{k: v for k, v in coco["images"][0].items()}]
    assert content["categories"] == coco["categories"]
    assert (tmp_path / "images" / Path(image.path).name).read_bytes() == Path(image.path).read_bytes()


@pytest.fixture
def exported(store, tmp_path) -> Exported:
    return export_campaign(store, tmp_path / "e.json", form=Form(copy_images=True))


def test_pycocotools_reads_it(exported):
    coco = COCO(str(exported.files[0]))
    masks = [coco.annToMask(a) for a in coco.anns.values()]
    assert len(masks) == len(exported.masks)
    for mask, rle in zip(masks, exported.masks.read().rles(), strict=True):
        assert np.array_equal(mask, mask_util.decode(rle))


@pytest.mark.parametrize("polygons", [False, True])
def test_supervision_reads_it(store, tmp_path, polygons):
    sv = pytest.importorskip("supervision", reason="needs the package supervision")
    written = export_campaign(store, tmp_path / "e.json", form=Form(polygons=polygons, copy_images=True))
    data = sv.DetectionDataset.from_coco(str(tmp_path / "images"), str(tmp_path / "e.json"), force_masks=True)
    assert sum(len(d) for d in data.annotations.values()) == len(written.masks)
    assert data.classes == ["cell", "dot"]
    exact = by_id(store)
    row = next(iter(written.images))
    own = written.masks.mask_id[written.masks.image_id == row["id"]]
    found = next(d for path, d in data.annotations.items() if Path(path).name == row["file_name"])
    for mask, mask_id in zip(found.mask, own.tolist(), strict=True):
        true = mask_util.decode(exact[mask_id]).astype(bool)
        assert (mask & true).sum() / (mask | true).sum() > (0.8 if polygons else 0.999)


def test_supervision_reads_yolo(store, tmp_path):
    sv = pytest.importorskip("supervision", reason="needs the package supervision")
    out = tmp_path / "yolo"
    written = export_campaign(store, out, form=Form(Format.YOLO, copy_images=True))
    data = sv.DetectionDataset.from_yolo(
        str(out / "images" / "train"), str(out / "labels" / "train"), str(out / "data.yaml"), force_masks=True
    )
    assert sum(len(d) for d in data.annotations.values()) == len(written.masks)


def test_datumaro_reads_it(store, tmp_path):
    """What CVAT imports COCO with."""
    dm = pytest.importorskip("datumaro", reason="needs the package datumaro")
    folder = tmp_path / "coco"
    (folder / "annotations").mkdir(parents=True)
    shutil.copytree(Path(store.images.records("pool")[0].path).parent, folder / "images" / "default")
    written = export_campaign(store, folder / "annotations" / "instances_default.json")
    data = dm.Dataset.import_from(str(folder), "coco_instances")
    masks = [a for item in data for a in item.annotations if a.type == dm.AnnotationType.mask]
    assert len(masks) == len(written.masks)
    exact = sorted(int(mask_util.area(rle)) for rle in written.masks.read().rles())
    assert sorted(int(np.asarray(m.image).sum()) for m in masks) == exact


@pytest.mark.parametrize("polygons", [False, True])
def test_fiftyone_reads_it(store, tmp_path, polygons):
    """By its importer, which needs no MongoDB."""
    pytest.importorskip("fiftyone", reason="needs the package fiftyone")
    from fiftyone.utils.coco import COCODetectionDatasetImporter

    written = export_campaign(store, tmp_path / "e.json", form=Form(polygons=polygons, copy_images=True))
    found = []
    with COCODetectionDatasetImporter(
        data_path=str(tmp_path / "images"), labels_path=str(tmp_path / "e.json"), label_types=["segmentations"]
    ) as importer:
        for _path, _metadata, label in importer:
            found += label.detections if label else []
    assert len(found) == len(written.masks) and {d.label for d in found} == {"cell", "dot"}


def test_label_studios_importer_reads_polygons(store, tmp_path):
    from label_studio_sdk.converter.imports.coco import convert_coco_to_ls

    written = export_campaign(store, tmp_path / "p.json", form=Form(polygons=True))
    convert_coco_to_ls(str(tmp_path / "p.json"), str(tmp_path / "tasks.json"), use_super_categories=False)
    tasks = read(tmp_path / "tasks.json")
    regions = [r for t in tasks for r in t["annotations"][0]["result"] if r["type"] == "polygonlabels"]
    assert len(regions) == len(written.masks)


def test_a_missing_image_is_named(store, tmp_path):
    image = store.images.records("pool")[0]
    image.path.unlink()
    with pytest.raises(InputError, match=f"image {image.path}: expected an image file"):
        export_campaign(store, tmp_path / "e.json", form=Form(copy_images=True))


def test_ids_of_the_pools_file_are_kept(store, tmp_path):
    exported = export_campaign(store, tmp_path / "e.json")
    ids = {r.id: r.coco_id for r in store.images.rows("pool")}
    whole = replace(final_masks(store))
    assert [ids[i] for i in whole.image_id.tolist()] == exported.masks.image_id.tolist()
