import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ml_backend.interactive.encodings import ClickEncoding, box_channel, drawn, nearest
from ml_backend.interactive.windows import (
    Window,
    extent_of,
    in_picture,
    joined,
    mask_on_grid,
    pixels_in,
    seen,
    window_around,
)


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(1, 200), st.integers(8, 64))
def test_points_go_to_the_grid_and_back(x0, y0, side, grid):
    points = np.array([[0.0, 0.0], [12.5, -3.0], [80.0, 41.0]])
    window = Window(x0, y0, side)
    assert window.in_picture(window.on_grid(points, grid), grid) == pytest.approx(points, abs=1e-6)


def test_extents():
    assert extent_of(np.zeros((3, 3), bool)) is None
    assert joined([None, (1, 2, 3, 4), (0, 3, 2, 9)]) == (0, 2, 3, 9)
    window = window_around((10, 10, 11, 11), margin=1.5)
    assert window.side == 8 and window.x0 == 6.5


def test_a_window_shows_the_pixels_under_it_and_nothing_outside():
    picture = torch.arange(64.0).reshape(1, 8, 8)
    shown = seen(picture, [Window(2, 2, 4), Window(-40, -40, 8)], 4)
    assert torch.allclose(shown[0, 0], picture[0, 2:6, 2:6])
    assert not shown[1].any()
    assert torch.allclose(
        seen(picture, [Window(0, 0, 8)], 2)[0, 0], picture[0].reshape(2, 4, 2, 4).mean((1, 3)), atol=1e-4
    )


@pytest.mark.parametrize("window", [Window(2.0, 3.0, 32.0), Window(-9.5, 4.0, 40.0), Window(20.0, 30.0, 33.3)])
def test_a_mask_goes_to_a_window_and_comes_back(window):
    mask = np.zeros((50, 60), bool)
    mask[10:30, 8:30] = True
    mask[15:22, 12:18] = False
    shares = mask_on_grid(mask, window, 64)
    part, rows, columns = in_picture(shares, window, 50, 60)
    assert ((part > 0.5) == mask[rows, columns]).mean() > 0.99


@pytest.mark.parametrize(
    "window", [Window(2.0, 3.0, 32.0), Window(-9.5, 4.2, 70.0), Window(20.3, 30.0, 5.7), Window(-300.0, -200.0, 700.0)]
)
def test_pixels_and_masks_are_seen_alike_where_windows_are_many_and_where_one_is(window):
    rng = np.random.default_rng(0)
    pixels, mean, deviation = rng.integers(0, 256, (50, 60, 3)).astype(np.uint8), np.array([90.0, 100.0, 130.0]), 40.0
    normal = torch.from_numpy(((pixels - mean) / deviation).astype(np.float32).transpose(2, 0, 1).copy())
    shown = pixels_in(pixels, mean, deviation, window, 16)
    torch.testing.assert_close(shown, seen(normal, [window], 16), atol=1e-4, rtol=1e-4)
    mask = rng.random((50, 60)) < 0.5
    expected = seen(torch.from_numpy(mask.astype(np.float32))[None], [window], 16)[0, 0]
    torch.testing.assert_close(torch.from_numpy(mask_on_grid(mask, window, 16)), expected, atol=1e-4, rtol=1e-4)


def test_a_window_far_from_the_mask_shows_none():
    assert not mask_on_grid(np.ones((5, 5), bool), Window(-90, -90, 10), 8).any()


@pytest.mark.parametrize("encoding", ClickEncoding)
def test_clicks_are_drawn_where_they_are(encoding):
    points = np.array([[3.5, 2.5], [20.0, 9.0]])
    channel = drawn(points, 16, 32, encoding, 3.0)
    assert channel.shape == (16, 32)
    assert channel[2, 3] == 1
    assert channel.min() >= 0 and channel.max() <= 1
    assert channel[15, 31] < channel[9, 20]
    assert not drawn(np.zeros((0, 2)), 16, 32, encoding, 3.0).any()


def test_many_points_have_the_same_distances_as_few():
    points = np.random.default_rng(0).uniform(0, 20, (200, 2))
    best = np.min([nearest(p[None], 20, 20) for p in points], axis=0)
    assert nearest(points, 20, 20) == pytest.approx(best)


def test_a_box_covers_shares_of_cells():
    channel = box_channel(np.array([1.0, 0.5, 2.5, 9.0]), 2, 4)
    assert channel.tolist() == [[0, 0.5, 0.25, 0], [0, 1, 0.5, 0]]
    assert not box_channel(None, 2, 4).any()
