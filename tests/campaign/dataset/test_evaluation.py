"""Evaluation of COCO files, against a slow scorer written apart from it, pycocotools, and known cases."""

import contextlib
import importlib.util
import io
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from campaign.dataset.evaluation import boundary_iou, evaluate
from campaign.dataset.mask_file import base_name, read_masks
from ml_backend.errors import InputError

SCORER = Path(__file__).resolve().parents[4] / "shared" / "tools" / "score_export.py"
SIDE = 60


def box_mask(x, y, w, h, side=SIDE):
    mask = np.zeros((side, side), np.uint8, order="F")
    mask[y : y + h, x : x + w] = 1
    return mask


def segmentation(mask):
    rle = mask_util.encode(np.asfortranarray(mask))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def write(path, masks, images=("a.png", "b.png"), classes=("cell", "dot"), side=SIDE):
    """Masks are (image number, class number, mask) and may go on with a score."""
    rows = []
    for n, (image, class_number, mask, *score) in enumerate(masks, 1):
        row = {
            "id": n,
            "image_id": 10 + image,
            "category_id": 1 + class_number,
            "segmentation": segmentation(mask),
            "area": int(mask.sum()),
            "bbox": mask_util.toBbox(mask_util.encode(mask)).tolist(),
            "iscrowd": 0,
        }
        rows.append(row | ({"attributes": {"score": score[0]}} if score else {}))
    coco = {
        "info": {"description": "x"},
        "images": [{"id": 10 + n, "file_name": f, "width": side, "height": side} for n, f in enumerate(images)],
        "categories": [{"id": 1 + n, "name": name} for n, name in enumerate(classes)],
        "annotations": rows,
    }
    path.write_text(json.dumps(coco))
    return path


def drawn(seed, n=40):
    """True masks, and predictions of them that are shifted, doubled, of another class, or of nothing."""
    rng = np.random.default_rng(seed)
    true, found = [], []
    for _ in range(n):
        image, class_number = (int(v) for v in rng.integers(0, 2, 2))
        x, y, w, h = (int(v) for v in (*rng.integers(0, 40, 2), *rng.integers(4, 18, 2)))
        true.append((image, class_number, box_mask(x, y, w, h)))
        for _ in range(int(rng.integers(0, 3))):
            dx, dy = (int(v) for v in rng.integers(-2, 3, 2))
            other = class_number if rng.random() < 0.9 else 1 - class_number
            shifted = box_mask(max(x + dx, 0), max(y + dy, 0), w, h)
            found.append((image, other, shifted, round(float(rng.random()), 6)))
    return true, found


def slow_score(found, true, k_iou):
    """The same matching as slowly and plainly as it can be: the best of all free pairs, over and over."""
    pairs, free, free_true = [], list(range(len(found))), list(range(len(true)))
    while True:
        best = (0.0, None, None)
        for i in free:
            for j in free_true:
                if found[i][:2] == true[j][:2]:
                    both = int((found[i][2] & true[j][2]).sum())
                    iou = both / int((found[i][2] | true[j][2]).sum())
                    if iou > best[0]:
                        best = (iou, i, j)
        if best[0] < 0.5:
            break
        pairs.append(best[0])
        free.remove(best[1])
        free_true.remove(best[2])
    good = sum(p >= k_iou for p in pairs)
    return good / len(found), good / len(true), sum(pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_a_slow_scorer(tmp_path, seed):
    true, found = drawn(seed)
    export, truth = write(tmp_path / "e.json", found), write(tmp_path / "t.json", true)
    result = evaluate(read_masks(export), read_masks(truth))
    assert (result.total.precision, result.total.recall, result.total.sq) == pytest.approx(
        slow_score(found, true, 0.75), abs=1e-9
    )
    for number, name in enumerate(("cell", "dot")):
        of = [[m for m in masks if m[1] == number] for masks in (found, true)]
        figures = result.classes[name]
        assert (figures.precision, figures.recall, figures.sq) == pytest.approx(slow_score(*of, 0.75), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_figures_are_those_of_the_independent_scorer(tmp_path, seed):
    if not SCORER.exists():
        pytest.skip(f"needs {SCORER}")
    spec = importlib.util.spec_from_file_location("score_export", SCORER)
    scorer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scorer)
    true, found = drawn(seed)
    export, truth = write(tmp_path / "e.json", found), write(tmp_path / "t.json", true)
    pairs, duplicates = [], 0
    exported, known = scorer.load(export), scorer.load(truth)
    for key, masks in exported.items():
        more, doubled = scorer.match(masks, known.get(key, []))
        pairs += more
        duplicates += doubled
    total = evaluate(read_masks(export), read_masks(truth)).total
    assert total.sq == pytest.approx(np.mean(pairs), abs=1e-4)
    assert total.precision == pytest.approx(sum(p >= 0.75 for p in pairs) / len(found), abs=1e-4)
    assert total.recall == pytest.approx(sum(p >= 0.75 for p in pairs) / len(true), abs=1e-4)
    assert total.duplicates == duplicates


@pytest.mark.parametrize("seed", range(3))
def test_average_precision_is_that_of_pycocotools(tmp_path, seed):
    true, found = drawn(seed)
    export, truth = write(tmp_path / "e.json", found), write(tmp_path / "t.json", true)
    rows = json.loads(export.read_text())["annotations"]
    for row in rows:
        row["score"] = row.pop("attributes")["score"]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        run = COCOeval(coco, coco.loadRes(rows), "segm")
        run.evaluate()
        run.accumulate()
        run.summarize()
    total = evaluate(read_masks(export), read_masks(truth)).total
    assert [total.ap, total.ap50, total.ap75] == pytest.approx(run.stats[:3].tolist(), abs=1e-4)
    # The same masks as a results file, on the images and classes of the truth.
    (tmp_path / "r.json").write_text(json.dumps(rows))
    results = evaluate(read_masks(tmp_path / "r.json", of=read_masks(truth)), read_masks(truth)).total
    assert results == total


def test_without_scores_there_is_no_average_precision(tmp_path):
    masks = [(0, 0, box_mask(5, 5, 10, 10))]
    total = evaluate(*(read_masks(write(tmp_path / f"{n}.json", masks)) for n in "et")).total
    assert (total.precision, total.recall, total.sq, total.boundary_iou, total.ap) == (1, 1, 1, 1, None)


def test_duplicates_and_what_is_worst(tmp_path):
    true = [(0, 0, box_mask(5, 5, 10, 10)), (1, 1, box_mask(30, 30, 8, 8))]
    found = [
        (0, 0, box_mask(5, 5, 10, 9), 0.9),
        (0, 0, box_mask(5, 5, 10, 8), 0.8),
        (0, 0, box_mask(40, 40, 5, 5), 0.3),
        (0, 1, box_mask(5, 5, 10, 10), 0.7),
    ]
    result = evaluate(*(read_masks(write(tmp_path / f"{n}.json", m)) for n, m in (("e", found), ("t", true))))
    assert (result.total.correct, result.total.duplicates) == (1, 1)
    assert result.worst(50) == [1, 3, 2]  # highest score first
    assert result.missed(5) == [1]
    assert result.as_dict()["classes"]["dot"]["precision"] == 0


def test_images_are_told_apart_by_name(tmp_path):
    masks = [(0, 0, box_mask(5, 5, 10, 10)), (1, 0, box_mask(5, 5, 10, 10))]
    truth = read_masks(write(tmp_path / "t.json", masks, ("x/a.png", "y/b.png")))
    same = read_masks(write(tmp_path / "e.json", masks[::-1], ("z/a.png", "b.png")))
    assert evaluate(same, truth).total.precision == 1
    beyond = read_masks(write(tmp_path / "f.json", masks, ("a.png", "c.png")))
    figures = evaluate(beyond, truth).as_dict()
    assert (figures["precision"], figures["recall"], figures["images_without_truth"]) == (0.5, 0.5, 1)
    twice = read_masks(write(tmp_path / "g.json", masks, ("u/a.png", "v/a.png")))
    with pytest.raises(InputError, match=r"u/a.png: expected a base name that one image of .*t.json has, got several"):
        evaluate(twice, truth)
    large = read_masks(write(tmp_path / "h.json", [], ("a.png",), side=61))
    with pytest.raises(InputError, match=r"expected 60x60 as in .*, got 61x61"):
        evaluate(large, truth)


def test_boundaries_are_compared_near_the_contour_alone():
    large = 200
    true, ours = box_mask(50, 50, 100, 100, large), box_mask(52, 50, 100, 100, large)
    rles = [mask_util.encode(m) for m in (true, ours)]
    both = int((true & ours).sum()) / int((true | ours).sum())
    assert boundary_iou(*rles) < both

    # Slowly: what is within 6 pixels (2 % of the diagonal, 283) of the outside.
    def edge(mask):
        y, x = np.nonzero(mask)
        inner = np.zeros_like(mask)
        inner[y.min() + 6 : y.max() - 5, x.min() + 6 : x.max() - 5] = 1
        return mask & ~inner

    a, b = edge(true), edge(ours)
    assert boundary_iou(*rles) == pytest.approx(int((a & b).sum()) / int((a | b).sum()))
    whole = mask_util.encode(np.ones((large, large), np.uint8, order="F"))
    assert boundary_iou(whole, whole) == 1


def test_base_names():
    assert [base_name(n) for n in ("a.png", "x/a.png", "x\\a.png")] == ["a.png"] * 3
