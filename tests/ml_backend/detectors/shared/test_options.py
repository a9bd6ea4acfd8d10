import numpy as np
import pytest

from ml_backend.detectors.pointrend.config import PointRendOptions
from ml_backend.detectors.shared.options import PRESETS, DetectorOptions
from ml_backend.errors import InputError
from ml_backend.learning.checkpoints import digest
from tests.ml_backend.builders import squares


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("sides", "enlarged"), [([10, 16, 20], 16), ([60, 64, 80], 64), ([300, 320, 350], 320)])
def test_the_median_object_gets_the_size_that_suits_the_network(preset, sides, enlarged):
    options = DetectorOptions.create({"preset": preset}).resolve(squares(*sides))
    assert options.scale == pytest.approx(np.clip(options.object_size / enlarged, 0.25, 3))
    assert 0 < options.min_area < sides[0] ** 2
    levels = [level[0] for level in options.anchors]
    assert levels == sorted(levels)


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
    ("kind", "name"), [(DetectorOptions, "a9dd4e7cb6c97055"), (PointRendOptions, "0054e7a9df5e0408")]
)
def test_a_run_begun_before_is_known_again(kind, name):
    """The names were made before the last options came; with another name a run would begin anew."""
    options = kind.create({"steps": 7, "minutes": None, "patience": None}).resolve(squares(16, 20))
    assert digest(options.identity()) == name
    assert digest(options.model_copy(update={"evaluate_every": 3}).identity()) != name
    assert digest(options.model_copy(update={"patience": 2}).identity()) != name
    assert digest(options.model_copy(update={"device": "cuda", "min_score": 0.9}).identity()) == name
