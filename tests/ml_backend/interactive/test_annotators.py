import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.interactive.annotators import Annotator, Place, box_overlap, error_regions, noisy_box
from ml_backend.interactive.segmenter import Click

EXACT = {"noise": 0.0, "reference": 1.0}
masks = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).random((2, 12, 17)) < 0.4)


def part(rows, columns, shape=(40, 60)):
    mask = np.zeros(shape, bool)
    mask[rows, columns] = True
    return mask


@given(masks)
def test_error_regions_are_just_the_errors(pair):
    mask, truth = pair
    lacking, too_much = np.zeros_like(mask), np.zeros_like(mask)
    for region in error_regions(mask, truth):
        h, w = region.window.shape
        assert region.area == region.window.sum()
        target = lacking if region.positive else too_much
        target[region.top : region.top + h, region.left : region.left + w] |= region.window
    assert (lacking == (truth & ~mask)).all()
    assert (too_much == (mask & ~truth)).all()


@given(masks, st.sampled_from(list(Place)), st.booleans(), st.integers(0, 1000))
def test_a_click_without_noise_is_in_an_error_of_its_sign(pair, place, largest, seed):
    mask, truth = pair
    clicks = Annotator(place, largest, least_region=0, **EXACT).click(mask, truth, np.random.default_rng(seed))
    if (mask == truth).all():
        assert clicks == ()
        return
    (click,) = clicks
    row, column = int(click.y), int(click.x)
    assert mask[row, column] != truth[row, column]
    assert click.positive == truth[row, column]


def test_the_middle_of_the_largest_region():
    truth = part(slice(10, 31), slice(20, 41))
    mask = truth | part(slice(0, 3), slice(0, 3))
    annotator = Annotator(Place.CENTRE, True, least_region=0, **EXACT)
    rng = np.random.default_rng(0)
    assert annotator.click(np.zeros_like(truth), truth, rng) == (Click(30.5, 20.5, True),)
    assert annotator.click(mask, truth, rng) == (Click(1.5, 1.5, False),)


def test_regions_are_chosen_in_proportion_to_their_area():
    truth = part(slice(0, 10), slice(0, 30)) | part(slice(20, 30), slice(0, 10))
    rng = np.random.default_rng(0)
    annotator = Annotator(Place.RANDOM, least_region=0, **EXACT)
    upper = [annotator.click(np.zeros_like(truth), truth, rng)[0].y < 15 for _ in range(400)]
    assert 0.68 < np.mean(upper) < 0.82


def test_lengths_shrink_with_small_objects():
    annotator = Annotator(Place.CENTRE, noise=0.0)
    small, large = part(slice(0, 20), slice(0, 20)), part(slice(0, 200), slice(0, 200), (300, 300))
    assert annotator.scale(small) == pytest.approx(0.2)
    assert annotator.scale(large) == 1
    rng = np.random.default_rng(0)
    # An error of 2x2 pixels is 1 % of the small object's box; of 9x9 pixels it is less than 10² on the large one.
    assert annotator.click(small | part(slice(30, 32), slice(30, 32)), small, rng)
    assert not annotator.click(small | part(slice(30, 31), slice(30, 32)), small, rng)
    assert not annotator.click(large | part(slice(250, 259), slice(250, 259), (300, 300)), large, rng)
    assert annotator.click(large | part(slice(250, 260), slice(250, 260), (300, 300)), large, rng)


def test_noise_has_the_deviation_that_was_asked_for():
    truth = part(slice(100, 300), slice(100, 300), (400, 400))
    rng = np.random.default_rng(0)
    annotator = Annotator(Place.CENTRE, noise=3.0)
    places = np.array([(c.x, c.y) for _ in range(300) for c in annotator.first(truth, rng)])
    assert places.std(0) == pytest.approx([3, 3], rel=0.15)
    assert places.mean(0) == pytest.approx([199.5, 199.5], abs=1.0)


def test_spread_clicks_are_off_the_middle_and_away_from_the_edge():
    truth = part(slice(100, 300), slice(100, 300), (400, 400))
    rng = np.random.default_rng(0)

    def depth(place):
        clicks = [Annotator(place, noise=0).first(truth, rng)[0] for _ in range(200)]
        return np.mean([min(c.x - 100, 300 - c.x, c.y - 100, 300 - c.y) for c in clicks])

    assert depth(Place.RANDOM) < 40 < depth(Place.SPREAD) < 70 < depth(Place.CENTRE)


def test_a_boundary_click_is_of_both_signs_on_the_true_outline():
    truth = part(slice(10, 30), slice(10, 50))
    mask = part(slice(10, 30), slice(10, 20))
    clicks = Annotator(boundary=True, least_region=0, **EXACT).click(mask, truth, np.random.default_rng(0))
    assert [c.positive for c in clicks] == [True, False]
    assert (clicks[0].x, clicks[0].y) == (clicks[1].x, clicks[1].y)
    assert clicks[0].x == 49.5


def test_the_same_seed_gives_the_same_clicks():
    truth, mask = part(slice(5, 35), slice(5, 45)), part(slice(15, 39), slice(9, 58))
    first, again = (Annotator().click(mask, truth, np.random.default_rng(4)) for _ in range(2))
    assert first == again


@given(st.integers(0, 2**32 - 1), st.floats(2, 500), st.floats(2, 500))
def test_noisy_boxes_overlap_the_true_one(seed, width, height):
    box = (3.0, 4.0, 3.0 + width, 4.0 + height)
    noisy = noisy_box(box, np.random.default_rng(seed))
    assert noisy != box
    assert box_overlap(box, noisy) >= 0.7


@pytest.mark.parametrize(
    ("other", "expected"),
    [((0, 0, 10, 10), 1.0), ((5, 0, 15, 10), 1 / 3), ((20, 0, 30, 10), 0.0), ((10, 0, 20, 10), 0.0)],
)
def test_box_overlap(other, expected):
    assert box_overlap((0, 0, 10, 10), other) == pytest.approx(expected)
