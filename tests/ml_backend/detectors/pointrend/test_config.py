import numpy as np
import pytest

from ml_backend.detectors.pointrend.config import PRESETS, PointRendOptions, fit_edges
from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.errors import InputError
from tests.ml_backend.builders import squares


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"preset": "small", "schedule": "short", "weights": "none", "optimiser": "adamw", "standardise": True}),
        (
            {"preset": "r50"},
            {"weights": "zoo", "schedule": "published", "optimiser": "sgd", "steps": 270_000, "batch": 16}
            | {"learning_rate": 0.02, "weight_decay": 1e-4, "warmup": 1000, "standardise": False},
        ),
        (
            {"preset": "r101", "schedule": "short"},
            {"weights": "zoo", "steps": 6000, "minutes": 120, "optimiser": "adamw"},
        ),
        ({"preset": "r50", "schedule": "short", "steps": 7, "weights": "none"}, {"steps": 7, "weights": "none"}),
        ({"preset": "small", "schedule": "published"}, {"steps": 270_000, "minutes": None, "weights": "none"}),
    ],
)
def test_presets_and_schedules(values, expected):
    options = PointRendOptions.create(values)
    assert {name: getattr(options, name) for name in expected} == expected


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("sides", "middle"), [((10, 16, 20), 16), ((60, 64, 80), 64), ((300, 320, 350), 320)])
def test_the_median_object_gets_the_size_that_suits_the_network(preset, sides, middle):
    options = PointRendOptions.create({"preset": preset, "schedule": "short"}).resolve(squares(*sides))
    assert options.zoom(400, 400) == pytest.approx(np.clip(options.object_size / middle, 0.25, 3))
    assert 0 < options.min_area < sides[0] ** 2
    levels = [level[0] for level in options.anchors]
    assert levels == sorted(levels)
    assert len(levels) == (3 if preset == "small" else 5)


@pytest.mark.parametrize(
    ("sides", "least"), [((10, 16, 20), 70), ((300, 320, 350), 1000)], ids=["small objects", "large objects"]
)
def test_the_published_schedule_resizes_by_the_short_side(sides, least):
    options = PointRendOptions.create({"preset": "r50"}).resolve(squares(*sides))
    assert options.anchors == ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    assert options.zoom(400, 400) == 2
    assert options.min_area == pytest.approx(least, rel=0.1)


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(400, 400, 2), (400, 600, 2), (600, 1200, 1333 / 1200), (3000, 4000, 800 / 3000)]
)
def test_edges(height, width, expected):
    assert fit_edges(height, width, 800, 1333) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("values", "norm"),
    [
        ({}, "group"),
        ({"preset": "r50"}, "frozen"),
        ({"preset": "r50", "weights": "none"}, "group"),
        ({"preset": "r50", "weights": "none", "norm": "frozen"}, "frozen"),
    ],
)
def test_normalisation_goes_with_the_weights(values, norm):
    assert PointRendOptions.create(values).resolve(squares(20)).norm == norm


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "tiny"}, "detector option preset: expected one of small, r50 or r101, got tiny"),
        ({"schedule": "long"}, "detector option schedule"),
        ({"steps": 0}, "detector option steps"),
        ({"stepps": 5}, "detector option stepps: expected one of preset, "),
        ({"short_edges": []}, "detector option short_edges"),
        ({"crop": 100}, "detector option crop: .*multiple of 32"),
    ],
)
def test_bad_options(values, message):
    with pytest.raises(InputError, match=message):
        PointRendOptions.create(values)


def test_nothing_labelled():
    with pytest.raises(InputError, match="labelled set: expected at least one annotated object, got none"):
        PointRendOptions.create().resolve(squares())


def test_options_of_both_detectors_mean_the_same():
    fields = PointRendOptions.model_fields
    assert [n for n, f in fields.items() if not f.description] == []
    assert set(DetectorOptions.model_fields) <= set(fields)
