import json

import numpy as np
import pytest
from pycocotools import mask as mask_util

from campaign.simulation.clicks import (
    MOST_CLICKS,
    Course,
    courses,
    drawn_cases,
    from_box,
    from_mask,
    from_nothing,
    mean_iou,
    round_of_clicks,
    with_starts,
)
from campaign.simulation.clickstudy import ClickStudy, simulate_clicks
from ml_backend.errors import InputError
from ml_backend.interactive.annotators import Annotator, Place
from ml_backend.interactive.encodings import ClickEncoding
from ml_backend.interactive.segmenter import Proposal
from tests.ml_backend.detectors.drawn import draw


class Obedient:
    """A segmenter that fills a box, and then paints the pixel of every click."""

    version = "obedient-1"

    def encode(self, image):
        return image.shape[:2]

    def segment(self, encoding, prompt):
        mask = np.zeros(encoding, bool) if prompt.previous is None else prompt.previous.copy()
        if prompt.box is not None and prompt.previous is None:
            x0, y0, x1, y1 = (round(v) for v in prompt.box)
            mask[y0:y1, x0:x1] = True
        for click in prompt.clicks[-1:]:
            x, y = int(click.x), int(click.y)
            mask[y, x] = click.positive
        return Proposal(mask, 0.5, 1.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("drawn") / "images", images=4, seed=1)


def run(data, begin, plan=(1,) * 9, **further):
    cases = further.pop("cases", None) or drawn_cases(data, 12, seed=0)
    return list(courses(Obedient(), cases, begin, Annotator(noise=0.0), plan, 0, **further))


def test_objects_are_drawn_by_chance_image_by_image(data):
    cases = drawn_cases(data, 7, seed=0)
    assert len(cases) == 7 and cases == drawn_cases(data, 7, seed=0) != drawn_cases(data, 7, seed=1)
    assert [c.image.id for c in cases] == sorted(c.image.id for c in cases)
    assert len(drawn_cases(data, 1000, seed=0)) == len(data.annotations)


def test_clicks_raise_iou_and_the_same_seed_gives_the_same_course(data):
    done = run(data, from_box)
    curve = mean_iou(done, 9)
    assert len(curve) == 10 and curve == sorted(curve) and curve[9] > curve[0] + 0.01
    assert [c.iou for c in done] == [c.iou for c in run(data, from_box)]
    assert all(len(c.table) == len(c.iou) == len(c.clicks) + 1 for c in done)


def test_from_nothing_the_first_click_counts(data):
    done = run(data, from_nothing(Annotator(noise=0.0)))
    assert all(c.iou[0] == 0 and c.clicks[0] == 1 and c.iou[1] > 0 for c in done)


def test_from_a_mask_nobody_is_asked_before_the_first_click(data):
    annotations = [a for a in data.annotations if a.id % 2]
    cases = with_starts(drawn_cases(data, 100, seed=0), annotations, 0.5)
    assert len(cases) == len(annotations)
    done = run(data, from_mask, cases=cases)
    assert all(c.iou == [1.0] and c.clicks_to(0.9) == 0 for c in done)


def test_who_is_good_enough_is_left(data):
    assert all(max(c.iou[:-1], default=0) < 0.7 for c in run(data, from_box, enough=0.7))


@pytest.mark.parametrize(
    ("iou", "clicks", "expected"),
    [([0.9], [], 0), ([0.1, 0.86], [3], 3), ([0.0, 0.1, 0.9], [1, 1], 2), ([0.1, 0.2], [1], MOST_CLICKS)],
)
def test_clicks_to_a_goal(iou, clicks, expected):
    assert Course(iou, clicks).clicks_to(0.85) == expected


def test_who_is_done_early_stays_where_they_are():
    assert mean_iou([Course([0.5, 0.9]), Course([0.1, 0.2, 0.3])], 3) == [0.3, 0.55, 0.6, 0.6]


def test_a_round_of_clicks_is_on_different_errors():
    truth = np.zeros((60, 60), bool)
    truth[5:15, 5:15] = truth[30:40, 5:15] = truth[5:15, 40:50] = True
    annotator = Annotator(Place.CENTRE, noise=0.0, least_region=0.0)
    clicks = round_of_clicks(annotator, np.zeros_like(truth), truth, 3, np.random.default_rng(0))
    assert len({(c.x > 25, c.y > 25) for c in clicks}) == 3
    # More than there are errors begin anew.
    assert len(round_of_clicks(annotator, np.zeros_like(truth), truth, 5, np.random.default_rng(0))) == 5
    assert round_of_clicks(annotator, truth, truth, 3, np.random.default_rng(0)) == ()


def study(data, folder, **further):
    root = data.images[0].path.parent.parent
    for name in ("labelled", "heldout"):
        data.save(root / f"{name}.json")
    training = {"steps": 3, "crop": 64, "grid": 32, "regions": 1, "objects": 2, "threads": 1}
    values = {"data": root, "train": "labelled.json", "test": "heldout.json", "out": folder, "training": training}
    return ClickStudy(**values | {"objects": 10} | further)


def test_the_whole_study(data, tmp_path):
    steps = set()
    result = simulate_clicks(study(data, tmp_path), lambda name, *_: steps.add(name))
    assert len(result["miou_by_clicks"]) == 16
    assert {"noc85_from_nothing", "noc85_from_mask", "ranked_top70_gain", "seconds_per_click_p95"} <= result.keys()
    assert result["masks_from"] == "true masks, spoilt" and result["masks_found"] == 10
    assert result["ranked_top70_gain"] is None  # of ten objects nothing can be learnt
    assert {"train", "clicks after a box", "clicks from nothing", "clicks after a mask"} <= steps
    json.dumps(result, allow_nan=False)
    again = simulate_clicks(study(data, tmp_path))
    same = ("miou_by_clicks", "noc85_from_nothing", "noc85_from_mask", "version")
    assert [again[key] for key in same] == [result[key] for key in same]


def test_the_studies_change_one_thing_at_a_time(data, tmp_path):
    studies = simulate_clicks(study(data, tmp_path, objects=4, studies=True))["studies"]
    assert set(studies["rounds"]) == {"1x9", "3x3", "4x2", "5x2"} and studies["noise"]["3"] == studies["rounds"]["3x3"]
    assert set(studies["encoding"]) == {e.value for e in ClickEncoding} and set(studies["clicks"]) == {
        "region",
        "boundary",
    }
    assert studies["encoding"]["disc"] == studies["rounds"]["3x3"]  # the same model, found again
    assert {p.name for p in tmp_path.iterdir()} >= {"click", "gaussian", "distance", "boundary"}


def test_masks_of_coco_results_are_corrected(data, tmp_path):
    results = [
        {"image_id": a.image_id, "category_id": 1, "score": 0.5, "segmentation": _shifted(a.rle)}
        for a in data.annotations
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(results))
    result = simulate_clicks(study(data, tmp_path, detections=path))
    assert result["masks_from"] == "detections in results.json"
    assert 0.5 < result["start_iou"] < 1
    path.write_text("{}")
    with pytest.raises(InputError, match=r"results\.json"):
        simulate_clicks(study(data, tmp_path, detections=path))


def test_a_test_file_without_objects(data, tmp_path):
    chosen = study(data, tmp_path)
    type(data)(data.images, data.classes, []).save(chosen.data / "heldout.json")
    with pytest.raises(InputError, match=r"heldout\.json: expected at least one annotated object, got none"):
        simulate_clicks(chosen)


def _shifted(rle):
    moved = mask_util.encode(np.asfortranarray(np.roll(mask_util.decode(rle), 2, 1)))
    return {"size": moved["size"], "counts": moved["counts"].decode()}
