"""Simulated visits of which the ranking model learns."""

from itertools import pairwise

import numpy as np
import pytest

from ml_backend.interactive.ranking import NAMES
from ml_backend.interactive.visits import visits
from tests.ml_backend.interactive.colour_segmenter import ColourSegmenter


@pytest.fixture
def square():
    """(encoding, true mask) of a white square with a grey part, on black."""
    truth = np.zeros((60, 80), bool)
    truth[20:40, 30:60] = True
    image = np.where(truth, 255, 0).astype(np.uint8)
    image[20:40, 50:60] = 128
    return ColourSegmenter().encode(np.dstack([image] * 3)), truth


def test_each_visit_begins_where_the_one_before_ended_until_nothing_is_wrong(square):
    encoding, truth = square
    start = truth.copy()
    start[:, 40:] = False
    ended = visits(ColourSegmenter(), encoding, start, truth, (1, 1, 1, 1), np.random.default_rng(0))
    rows = [dict(zip(NAMES, e.features.tolist(), strict=True)) for e in ended]
    assert [r["clicks"] for r in rows] == [1] * len(rows)
    assert [r["round"] for r in rows] == list(range(1, len(rows) + 1))
    assert len(ended) < 4 and ended[-1].iou == 1.0
    assert all(a.iou <= b.iou for a, b in pairwise(ended))
    # As much as the visit changed: nearer to what was there, the higher.
    assert rows[0]["change"] == pytest.approx(200 / (400 if ended[0].iou < 1 else 600))


def test_several_clicks_of_a_visit_are_one_row(square):
    encoding, truth = square
    ended = visits(ColourSegmenter(), encoding, np.zeros_like(truth), truth, (4,), np.random.default_rng(1))
    assert len(ended) == 1 and ended[0].iou == 1.0
    assert 2 <= ended[0].features[NAMES.index("clicks")] <= 4


def test_what_lies_beyond_the_picture_is_missing(square):
    encoding, truth = square
    (ended,) = visits(ColourSegmenter(), encoding, ~truth, truth, (4,), np.random.default_rng(1), outside=600)[:1]
    (whole,) = visits(ColourSegmenter(), encoding, ~truth, truth, (4,), np.random.default_rng(1))[:1]
    assert ended.iou < whole.iou and (ended.features == whole.features).all()


def test_a_mask_without_an_error_is_left(square):
    encoding, truth = square
    assert visits(ColourSegmenter(), encoding, truth, truth, (4, 4), np.random.default_rng(0)) == []
