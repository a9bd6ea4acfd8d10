"""Gaussian mixtures over feature, score and IoU."""

from __future__ import annotations

import numpy as np
import pytest

from campaign.simulation.mixtures import Mixture, Triplets, default_mixture, fit_mixture
from ml_backend.errors import InputError


def test_sample_has_the_shapes_and_ranges_of_masks():
    drawn = default_mixture(3, dim=8).sample(500, np.random.default_rng(0))
    assert drawn.features.shape == (500, 8) and len(drawn) == 500
    for column in (drawn.score, drawn.iou):
        assert column.dtype == np.float32 and column.min() >= 0 and column.max() <= 1


def test_made_up_classes_differ_and_repeat():
    assert np.array_equal(default_mixture(1).mean, default_mixture(1).mean)
    assert not np.array_equal(default_mixture(1).mean, default_mixture(2).mean)


def test_fit_recovers_what_it_was_drawn_from():
    known = default_mixture(5, components=4, dim=6)
    drawn = known.sample(4000, np.random.default_rng(1))
    again = fit_mixture(drawn, components=6, dim=6).sample(4000, np.random.default_rng(2))
    for name in ("score", "iou"):
        a, b = getattr(drawn, name), getattr(again, name)
        assert np.quantile(b, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(a, [0.1, 0.5, 0.9]), abs=0.06)
    assert np.mean(again.iou >= 0.75) == pytest.approx(np.mean(drawn.iou >= 0.75), abs=0.05)
    assert np.corrcoef(again.score, again.iou)[0, 1] == pytest.approx(
        np.corrcoef(drawn.score, drawn.iou)[0, 1], abs=0.1
    )


def test_save_and_load(tmp_path):
    mixture = default_mixture(1, components=3, dim=4)
    mixture.save(tmp_path / "m.json")
    loaded = Mixture.load(tmp_path / "m.json")
    assert np.allclose(loaded.mean, mixture.mean, atol=1e-5) and loaded.dim == 4
    assert loaded.weight.sum() == pytest.approx(1)


@pytest.mark.parametrize("text", ["", "[]", '{"weight": [1], "mean": [[1, 2, 3]], "factor": [[1]]}', '{"weight": [1]}'])
def test_load_of_something_else(tmp_path, text):
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(InputError, match=r"m\.json"):
        Mixture.load(tmp_path / "m.json")


def test_bad_triplets():
    with pytest.raises(InputError, match="features, score and iou: expected shapes"):
        Triplets(np.zeros((3, 2)), np.zeros(2), np.zeros(3))
    with pytest.raises(InputError, match="masks to fit a mixture to: expected at least 10, got 2"):
        fit_mixture(Triplets(np.zeros((2, 2)), np.zeros(2), np.zeros(2)))
