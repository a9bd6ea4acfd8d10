"""Crops: the right part of the image, the mask's edge where it is, whatever the size and place."""

import io
import threading

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from ml_backend.errors import InputError
from ml_backend.masks import rendering
from ml_backend.masks.rendering import CropStyle, ImageCache, crop_window, render_crop, render_part, render_whole

STYLE = CropStyle(quality=95)


def encode(mask: np.ndarray) -> dict:
    return mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))


def draw(image: np.ndarray, mask: np.ndarray, style: CropStyle = STYLE) -> np.ndarray:
    rle = encode(mask)
    return np.asarray(Image.open(io.BytesIO(render_crop(image, mask_util.toBbox(rle), rle, style))))


def yellow(picture: np.ndarray) -> np.ndarray:
    red, green, blue = (picture[..., i].astype(int) for i in range(3))
    return (red > 190) & (green > 160) & (blue < 120)


@pytest.mark.parametrize(
    ("box", "size", "window"),
    [
        ((400, 300, 100, 50), (1000, 800), (360, 235, 540, 415)),  # 40 % of the longer side on each side
        ((0, 0, 100, 100), (1000, 800), (0, 0, 180, 180)),  # moved inside at a corner
        ((900, 700, 100, 100), (1000, 800), (820, 620, 1000, 800)),
        ((50, 60, 2, 2), (1000, 800), (40, 50, 62, 72)),  # a tiny object is enlarged 12 times at most
        ((10, 0, 60, 60), (80, 60), (-14, -24, 94, 84)),  # larger than the image: centred, grey around it
    ],
)
def test_the_window_holds_the_box_with_its_context(box, size, window):
    assert crop_window(box, *size, STYLE) == window


@pytest.mark.parametrize("at", [(0, 0), (70, 100), (110, 180)])
@pytest.mark.parametrize("extent", [(3, 2), (20, 9)])
def test_the_outline_goes_around_the_mask(at, extent):
    image = np.full((120, 200, 3), 255, np.uint8)
    mask = np.zeros((120, 200), bool)
    mask[at[0] : at[0] + extent[0], at[1] : at[1] + extent[1]] = True
    picture = draw(image, mask, CropStyle(fill=0, quality=95))
    assert picture.shape == (256, 256, 3)
    ys, xs = np.nonzero(yellow(picture))
    x0, y0, x1, _ = crop_window(
        (at[1], at[0], min(extent[1], 200 - at[1]), min(extent[0], 120 - at[0])), 200, 120, STYLE
    )
    scale = 256 / (x1 - x0)
    left, right = (at[1] - x0) * scale, (at[1] + min(extent[1], 200 - at[1]) - x0) * scale
    top, bottom = (at[0] - y0) * scale, (at[0] + min(extent[0], 120 - at[0]) - y0) * scale
    for line, edge in ((xs.min(), left), (xs.max(), right), (ys.min(), top), (ys.max(), bottom)):
        assert 0 <= edge <= 256 and abs(line - edge) <= 5


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_the_outline_is_seen_on_any_ground(ground):
    image = np.full((100, 100, 3), ground, np.uint8)
    mask = np.zeros((100, 100), bool)
    mask[30:70, 30:70] = True
    picture = draw(image, mask).astype(int)
    row = picture[128]
    outer = row[:110].reshape(-1, 3)
    steps = np.abs(np.diff(outer.sum(1)))
    assert yellow(picture[128:129, :110]).any() and steps.max() > 200


def test_a_hole_has_an_outline_of_its_own_and_no_fill():
    image = np.full((100, 100, 3), 200, np.uint8)
    mask = np.zeros((100, 100), bool)
    mask[20:80, 20:80] = True
    mask[40:60, 40:60] = False
    picture = draw(image, mask, CropStyle(fill=0.5, quality=95))
    assert abs(int(picture[128, 128, 2]) - 200) < 12
    assert picture[128, 60, 2] < 140
    assert yellow(picture)[128, 100:156].any()


def test_the_object_is_not_covered_without_fill():
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    style = CropStyle(size=58, fill=0, quality=100)  # one pixel of the image is one of the crop
    picture = draw(image, mask, style).astype(int)
    x0, y0, x1, y1 = crop_window((16, 16, 32, 32), 64, 64, style)
    assert (x1 - x0, y1 - y0) == (58, 58)
    # Where the edge pixels were painted over, they would be yellow and not the image's.
    inner = picture[17 - y0 : 47 - y0, 17 - x0 : 47 - x0] - image[17:47, 17:47]
    assert np.abs(inner).mean() < 12


def test_a_dark_crop_is_brightened_and_a_bright_one_is_not():
    mask = np.zeros((60, 60), bool)
    mask[20:40, 20:40] = True
    shown = [int(draw(np.full((60, 60, 3), level, np.uint8), mask)[2, 2, 0]) for level in (40, 150)]
    assert shown[0] > 100 and abs(shown[1] - 150) < 4


def test_a_mask_of_one_pixel_in_a_large_image_is_still_drawn():
    image = np.full((1500, 2000, 3), 90, np.uint8)
    mask = np.zeros((1500, 2000), bool)
    mask[700, 900] = True
    assert yellow(draw(image, mask)).any()
    rle = encode(mask)
    whole = np.asarray(Image.open(io.BytesIO(render_whole(image, mask_util.toBbox(rle), rle, CropStyle(size=400)))))
    assert whole.shape == (300, 400, 3)
    ys, xs = np.nonzero(yellow(whole))
    assert abs((xs.min() + xs.max()) / 2 - 180) < 4 and abs((ys.min() + ys.max()) / 2 - 140) < 4


def test_an_empty_mask_gives_a_crop_without_outline():
    picture = draw(np.full((50, 50, 3), 120, np.uint8), np.zeros((50, 50), bool))
    assert not yellow(picture).any()


def test_images_are_decoded_once_and_dropped_beyond_the_limit(tmp_path, monkeypatch):
    paths = [tmp_path / f"{i}.png" for i in range(4)]
    for path in paths:
        Image.new("RGB", (100, 100)).save(path)
    read = []
    monkeypatch.setattr(rendering, "read_rgb", lambda p, real=rendering.read_rgb: (read.append(p), real(p))[1])
    cache = ImageCache(limit=70_000)  # two of them
    threads = [threading.Thread(target=cache.get, args=(paths[0],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [paths[0]]
    for path in (paths[1], paths[2], paths[0]):
        cache.get(path)
    assert read == [paths[0], paths[1], paths[2], paths[0]]


def test_a_changed_file_is_read_again_and_a_missing_one_is_an_error(tmp_path):
    path, cache = tmp_path / "a.png", ImageCache()
    Image.new("RGB", (4, 4), (0, 0, 0)).save(path)
    assert cache.get(path).max() == 0
    Image.new("RGB", (4, 4), (9, 9, 9)).save(path)
    import os

    os.utime(path, ns=(1, 1))
    assert cache.get(path).max() == 9
    with pytest.raises(InputError, match="no such file"):
        cache.get(tmp_path / "none.png")


@pytest.mark.parametrize(("window", "size"), [((0, 0, 120, 90), (1200, 900)), ((20, 30, 60, 70), (480, 480))])
def test_a_part_shows_every_mask_in_its_colour_and_leaves_the_rest_as_it_is(window, size):
    image = np.full((90, 120, 3), 200, np.uint8)
    masks = [np.zeros((90, 120), bool) for _ in range(3)]
    masks[0][35:45, 25:35] = masks[1][50:60, 40:50] = masks[2][5:9, 110:115] = True
    colours = [(0, 0, 255), (255, 0, 0), (0, 255, 0)]  # blue, green, red
    drawn = [(encode(mask), colour) for mask, colour in zip(masks, colours, strict=True)]
    picture = np.asarray(Image.open(io.BytesIO(render_part(image, window, drawn))).convert("RGB")).astype(int)
    assert picture.shape == (size[1], size[0], 3)
    scale = size[0] // (window[2] - window[0])
    red, blue = picture[..., 0] - picture[..., 2] > 150, picture[..., 2] - picture[..., 0] > 150
    for strong, (y, x) in ((red, (35, 25)), (blue, (50, 40))):
        ys, xs = np.nonzero(strong)
        assert abs(xs.min() - (x - window[0]) * scale) <= 5 and abs(ys.max() - (y + 10 - window[1]) * scale) <= 5
    assert np.abs(picture[2, 2] - 200).max() < 8


def test_a_large_part_is_not_made_larger():
    image = np.zeros((1024, 900, 3), np.uint8)
    assert Image.open(io.BytesIO(render_part(image, (0, 0, 900, 1024), []))).size == (900, 1024)
