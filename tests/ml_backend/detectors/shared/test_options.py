import numpy as np
import pytest
from pycocotools import mask as mask_util

from ml_backend.detectors.pointrend.config import PointRendOptions
from ml_backend.detectors.shared.options import PRESETS, DetectorOptions, is_upright, spread_anchors
from ml_backend.errors import InputError
from ml_backend.learning.checkpoints import digest
from ml_backend.masks.coco import Annotation
from tests.ml_backend.builders import squares


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("sides", "enlarged"), [([10, 16, 20], 16), ([60, 64, 80], 64), ([300, 320, 350], 320)])
def test_the_median_object_gets_the_size_that_suits_the_network(preset, sides, enlarged):
    options = DetectorOptions.create({"preset": preset}).resolve(squares(*sides))
    assert options.scale == pytest.approx(np.clip(options.object_size / enlarged, 0.25, 3))
    assert 0 < options.min_area < sides[0] ** 2
    levels = [level[0] for level in options.anchors]
    assert levels == sorted(levels)


@pytest.mark.parametrize(
    ("sides", "levels", "several", "shape"),
    [
        ((16, 20), 3, 3, (3, 1)),
        ((15, 90), 3, 3, (3, 2)),
        ((12, 150), 3, 3, (3, 2)),
        ((8, 500), 3, 3, (3, 3)),
        ((12, 150), 3, 1, (3, 1)),
        ((12, 150), 5, 3, (5, 1)),
    ],
)
def test_anchors_leave_no_octave_out(sides, levels, several, shape):
    anchors = spread_anchors(np.geomspace(*sides, 100), levels, several)
    assert np.shape(anchors) == shape
    sizes = np.ravel(anchors)
    assert (np.diff(sizes) > 0).all()
    assert several == 1 or (sizes[1:] / sizes[:-1]).max() <= 2


@pytest.mark.parametrize(
    ("wide", "tall", "upright"),
    [(200, 200, False), (300, 100, True), (100, 300, True), (4, 0, False), (12, 8, False), (0, 0, False)],
    ids=["all directions", "wide", "tall", "few", "hardly more", "none"],
)
def test_images_whose_objects_are_wide_or_tall_have_an_up_and_a_down(wide, tall, upright):
    data = squares()
    for number, (height, width) in enumerate([(20, 40)] * wide + [(40, 20)] * tall, 1):
        mask = np.zeros((400, 400), np.uint8, order="F")
        mask[:height, :width] = 1
        data.annotations.append(Annotation(number, 1, 1, mask_util.encode(mask)))
    assert is_upright(data) is upright
    if wide + tall:
        assert DetectorOptions.create({"upright": True}).resolve(data).upright
        assert DetectorOptions.create().resolve(data).upright is upright


def test_what_is_said_stays():
    said = {"scale": 1.25, "anchors": ((10.0,), (20.0,), (40.0,)), "min_area": 7.0}
    options = DetectorOptions.create(said).resolve(squares(16))
    assert {k: getattr(options, k) for k in said} == said


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "huge"}, "detector option preset: expected one of tiny or resnet50, got huge"),
        ({"steps": 0}, "detector option steps"),
        ({"stepps": 5}, "detector option stepps: expected one of preset, "),
        ({"learning_rate": "fast"}, "detector option learning_rate"),
        ({"crop": 100}, "detector option crop: .*multiple of 32"),
    ],
)
def test_bad_options(values, message):
    with pytest.raises(InputError, match=message):
        DetectorOptions.create(values)


def test_nothing_labelled():
    with pytest.raises(InputError, match="labelled set: expected at least one annotated object, got none"):
        DetectorOptions.create().resolve(squares())


def test_every_option_is_described():
    assert [n for n, f in DetectorOptions.model_fields.items() if not f.description] == []


@pytest.mark.parametrize(
    ("kind", "former", "name"),
    [(DetectorOptions, {"evaluate_images": 100}, "a9dd4e7cb6c97055"), (PointRendOptions, {}, "0054e7a9df5e0408")],
)
def test_a_run_begun_before_is_known_again(kind, former, name):
    """The names were made before the last options came; with another name a run would begin anew."""
    values = {"steps": 7, "minutes": None, "patience": None, **former}
    options = kind.create(values).resolve(squares(16, 20))
    assert digest(options.identity()) == name
    assert digest(options.model_copy(update={"evaluate_every": 3}).identity()) != name
    assert digest(options.model_copy(update={"patience": 2}).identity()) != name
    assert digest(options.model_copy(update={"device": "cuda", "min_score": 0.9}).identity()) == name
