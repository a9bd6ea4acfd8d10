import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as mask_util

from ml_backend.detector import Detector, load_detector_class
from ml_backend.detectors import results_index
from ml_backend.detectors.coco_results import CocoResults
from ml_backend.errors import InputError
from ml_backend.learning.checkpoints import digest
from ml_backend.learning.evaluation import predict_all, true_iou
from ml_backend.masks.coco import annotation_json
from tests.ml_backend.detectors.drawn import CLASSES, draw


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("images"), 3, seed=1)


def results(data, **extra):
    rows = []
    for n, annotation in enumerate(data.annotations):
        row = annotation_json(annotation)
        keys = ("image_id", "category_id", "segmentation")
        rows.append({**{k: row[k] for k in keys}, "score": round(0.3 + n * 0.01, 2), **extra})
    return rows


def written(path, rows):
    path.write_text(json.dumps(rows))
    return path


def test_masks_and_scores_are_those_of_the_file(data, tmp_path):
    path = written(tmp_path / "results.json", results(data))
    found = predict_all(CocoResults.load(path, classes=CLASSES, device="cpu"), data.images)
    assert len(found) == len(data.annotations)
    assert (true_iou(found, data) == 1).all()
    assert sorted(found.confidence.tolist()) == pytest.approx([r["score"] for r in results(data)])
    assert (found.predicted_iou == 1).all()
    assert found.features.shape == (len(found), 512)
    for part in CocoResults.load(path).predict(data.images):
        assert (np.diff(part.score) <= 0).all()


def test_polygons_and_plain_run_lengths(data, tmp_path):
    image = data.images[0]
    mask = np.zeros((image.height, image.width), np.uint8, order="F")
    mask[10:30, 20:50] = 1
    edges = np.flatnonzero(np.diff(np.r_[0, mask.flatten(order="F"), 0]))
    runs = np.diff(np.r_[0, edges, mask.size]).tolist()
    forms = [[[20, 10, 50, 10, 50, 30, 20, 30]], {"size": [image.height, image.width], "counts": runs}]
    rows = [{"image_id": image.id, "category_id": 3, "score": 0.5, "segmentation": f} for f in forms]
    found = next(CocoResults.load(written(tmp_path / "results.json", rows)).predict([image]))
    assert [mask_util.area(r) for r in found.rles()] == [600, 600]
    assert found.box.tolist() == [[20, 10, 30, 20]] * 2


def as_parquet(path, rows):
    """Run lengths in columns of their own, as `campaign export --format parquet` has them, and as JSON."""
    shapes = [row["segmentation"] for row in rows]
    columns = {
        "image_id": [row["image_id"] for row in rows], "class_id": [row["category_id"] for row in rows],
        "score": [row["score"] for row in rows], "rle": [shape["counts"] for shape in shapes],
        "height": [shape["size"][0] for shape in shapes], "width": [shape["size"][1] for shape in shapes],
        "features": [row.get("features") for row in rows], "other": ["" for _ in rows],
    }  # fmt: skip
    pq.write_table(pa.table(columns), path)


FORMS = {
    "list": ("r.json", lambda path, rows: path.write_text(json.dumps(rows, indent=1))),
    "lines": ("r.jsonl", lambda path, rows: path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")),
    "parquet": ("r.parquet", as_parquet),
}


@pytest.mark.parametrize(("name", "write"), FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("portion", [2, 2000])
def test_every_form_of_a_file_says_the_same(name, write, portion, data, tmp_path, monkeypatch):
    monkeypatch.setattr(results_index, "PORTION", portion)
    rows = results(data, features=[1.0, 0.5])
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]  # not by image
    write(tmp_path / name, rows)
    found = predict_all(CocoResults.load(tmp_path / name), data.images)
    want = predict_all(CocoResults.load(written(tmp_path / "want.json", rows)), data.images)
    for column in ("image_id", "class_id", "score", "features", "rle"):
        assert np.array_equal(getattr(found, column), getattr(want, column)), column


def test_a_file_is_named_by_its_content_and_read_again_when_it_changes(data, tmp_path):
    path = written(tmp_path / "results.json", results(data))
    assert CocoResults.load(path).version == f"results-{digest(path.read_bytes())}"
    first = CocoResults.load(path).version
    written(path, results(data)[:2])
    assert CocoResults.load(path).version != first
    assert sum(len(part) for part in CocoResults.load(path).predict(data.images)) == 2


def test_results_that_are_not_whole_leave_no_index(data, tmp_path):
    source = written(tmp_path / "mine.json", [*results(data), {"image_id": 1}])
    with pytest.raises(InputError, match=f"result {len(data.annotations) + 1}: expected image_id"):
        CocoResults.train(data, None, tmp_path / "round", options={"results": str(source)})
    assert not [p for p in (tmp_path / "round").rglob("*") if p.is_file()]


def test_like_shapes_have_like_features(data, tmp_path):
    path = written(tmp_path / "results.json", results(data))
    found = predict_all(CocoResults.load(path), data.images)
    features = found.features.astype(np.float32)
    distance = np.linalg.norm(features[:, None] - features[None], axis=2)
    same = found.class_id[:, None] == found.class_id[None]
    apart = ~np.eye(len(found), dtype=bool)
    assert distance[same & apart].mean() < 0.8 * distance[~same].mean()


def test_given_features_and_predicted_iou_are_kept(data, tmp_path):
    path = written(tmp_path / "results.json", results(data, features=[1.0, 2.0, 3.5], predicted_iou=0.5))
    found = predict_all(CocoResults.load(path), data.images)
    assert found.features.tolist() == [[1.0, 2.0, 3.5]] * len(found)
    assert (found.predicted_iou == 0.5).all()


def test_an_image_without_results(data, tmp_path):
    path = written(tmp_path / "results.json", results(data)[:1])
    parts = list(CocoResults.load(path).predict(data.images))
    assert [len(p) for p in parts] == [1, 0, 0]
    assert parts[1].features.shape == (0, 512)


def test_training_copies_the_results(data, tmp_path):
    source = written(tmp_path / "mine.json", results(data))
    first = CocoResults.train(data, None, tmp_path / "round-1", options={"results": str(source)})
    source.unlink()
    second = CocoResults.train(data, None, tmp_path / "round-2", options={}, start_from=first)
    assert CocoResults.load(first).version == CocoResults.load(second).version
    with pytest.raises(InputError, match="detector option results: expected a COCO results file, got nothing"):
        CocoResults.train(data, None, tmp_path / "round-3", options={})


def test_the_file_that_a_campaign_of_before_kept_goes_on(data, tmp_path):
    old = written(tmp_path / "results.json", results(data))
    after = CocoResults.train(data, None, tmp_path / "round-2", options={}, start_from=old)
    found, want = (predict_all(CocoResults.load(path), data.images) for path in (after, old))
    assert np.array_equal(found.rle, want.rle) and CocoResults.load(after).version == CocoResults.load(old).version


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"annotations": []}, "expected a list of results, got dict"),
        ([{"image_id": 1}], "result 1: expected image_id, category_id, score and segmentation"),
        ([{"image_id": 1, "category_id": 3, "score": 3, "segmentation": []}], "result 1 score: expected a number"),
        ([{"image_id": 1, "category_id": 9, "score": 1, "segmentation": []}], r"category_id: expected one of \[3, 7\]"),
    ],
)
def test_bad_results(rows, message, tmp_path):
    with pytest.raises(InputError, match=message):
        CocoResults.load(written(tmp_path / "results.json", rows), classes=CLASSES)


def test_features_of_several_lengths(data, tmp_path):
    rows = results(data)
    rows[0]["features"], rows[1]["features"] = [1.0], [1.0, 2.0]
    with pytest.raises(InputError, match="features: expected one length in all results"):
        CocoResults.load(written(tmp_path / "results.json", rows))


def test_a_mask_of_another_size(data, tmp_path):
    rows = results(data)[:1]
    rows[0]["segmentation"]["size"] = [5, 5]
    detector = CocoResults.load(written(tmp_path / "results.json", rows))
    with pytest.raises(InputError, match="segmentation of image"):
        list(detector.predict(data.images))


def test_missing_and_broken_files(tmp_path):
    with pytest.raises(InputError, match="expected a COCO results file, got no such file"):
        CocoResults.load(tmp_path / "none.json")
    (tmp_path / "half.json").write_text("[{")
    with pytest.raises(InputError, match="expected JSON"):
        CocoResults.load(tmp_path / "half.json")


def test_it_is_the_registered_detector(data, tmp_path):
    assert load_detector_class("coco-results") is CocoResults
    assert isinstance(CocoResults.load(written(tmp_path / "results.json", results(data))), Detector)


def test_image_ids_are_those_of_the_file_that_images_come_from(data, tmp_path):
    path = written(tmp_path / "results.json", results(data))
    renumbered = [replace(image, id=image.id + 1000, coco_id=image.id) for image in data.images]
    parts = list(CocoResults.load(path).predict(renumbered))
    assert [len(part) for part in parts] == [len(part) for part in CocoResults.load(path).predict(data.images)]
    assert all(set(part.image_id.tolist()) == {image.id} for part, image in zip(parts, renumbered, strict=True))


def test_files_that_share_ids_are_told_apart_by_names(data, tmp_path):
    names = {image.id: image.file_name for image in data.images}
    rows = [row | {"file_name": names[row["image_id"]]} for row in results(data)]
    detector = CocoResults.load(written(tmp_path / "results.json", rows))
    assert len(predict_all(detector, data.images)) == len(data.annotations)
    others = [replace(image, file_name=f"another-{image.file_name}") for image in data.images]
    assert [len(part) for part in detector.predict(others)] == [0] * len(others)
    with pytest.raises(InputError, match="file_name: expected text"):
        CocoResults.load(written(tmp_path / "bad.json", [rows[0] | {"file_name": 3}]))
