"""Pages of crops in one picture: drawn whole, kept under a limit of bytes, ready before they are opened."""

import io
import threading
import time

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from ml_backend.masks.rendering import GROUND, CropStyle, ImageCache
from ml_backend.server.app import Limits, create_app
from ml_backend.server.sheets import MaskView, Sheets
from ml_backend.server.signing import crop_url, sheet_url

SECRET = "s3cr3t"
MASKS = 7


class Pages:
    """Pages from 1 on of seven masks each, page 9 of one whose fourth cannot be drawn; it notes which are looked up."""

    def __init__(self, path):
        self.path, self.asked = path, []
        self.lock = threading.Lock()

    def page(self, number: int) -> list[int]:
        with self.lock:
            self.asked.append(number)
        return [100 * number + k for k in range(MASKS)] if number < 50 else []

    def mask(self, mask_id: int) -> MaskView:
        if mask_id == 903:
            raise KeyError(mask_id)
        place = mask_id % 100
        mask = np.zeros((80, 400), np.uint8, order="F")
        mask[30:50, 20 + 50 * place : 40 + 50 * place] = 1
        return MaskView(self.path, (20 + 50 * place, 30, 20, 20), mask_util.encode(mask))

    def following(self, number, count):
        start = 1 if number is None else number + 1
        return list(range(start, start + count))

    def drawn(self) -> list[int]:
        with self.lock:
            return sorted(self.asked)


@pytest.fixture
def pages(tmp_path):
    picture = np.full((80, 400, 3), 200, np.uint8)
    picture[:, :, 0] = np.arange(400) // 2  # so that every crop differs
    Image.fromarray(picture).save(tmp_path / "a.png")
    return Pages(tmp_path / "a.png")


def path(page: int, seconds: float = 99.0) -> str:
    return sheet_url("", SECRET, page, time.time() + seconds)


def wait_for(condition) -> None:
    until = time.monotonic() + 60
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    assert condition()


def test_a_sheet_shows_each_crop_at_its_place(pages):
    client = create_app(pages, secret=SECRET).test_client()
    answer = client.get(path(3))
    sheet = np.asarray(Image.open(io.BytesIO(answer.data))).astype(int)
    assert answer.mimetype == "image/jpeg" and sheet.shape == (512, 1280, 3)
    assert "max-age" in answer.headers["Cache-Control"]
    for k in range(MASKS):
        alone = client.get(crop_url("", SECRET, 300 + k, time.time() + 99, 3)).data
        crop = cv2.imdecode(np.frombuffer(alone, np.uint8), cv2.IMREAD_COLOR_RGB).astype(int)
        y, x = (256 * n for n in divmod(k, 5))
        assert np.abs(sheet[y : y + 256, x : x + 256] - crop).mean() < 2
    assert (np.abs(sheet[260:, 520:] - GROUND) < 3).all(), "where there is no mask it is grey"


def test_a_mask_that_cannot_be_shown_leaves_its_place_grey(pages):
    sheet = np.asarray(Image.open(io.BytesIO(create_app(pages, secret=SECRET).test_client().get(path(9)).data)))
    assert (np.abs(sheet[8:248, 776:1016].astype(int) - GROUND) < 3).all() and sheet[:256, :768].std() > 10


def test_outlines_alone_and_what_is_refused(pages):
    client = create_app(pages, secret=SECRET).test_client()
    assert client.get(path(1) + "?fill=0").data != client.get(path(1)).data
    assert client.get(path(1, -1)).status_code == 403 and client.get(path(60)).status_code == 404
    foreign = crop_url("", SECRET, 1, time.time() + 99, 1).replace("crops", "sheets")
    assert client.get(foreign).status_code == 403, "an address of a crop opens no sheet"


def test_pages_are_ready_before_they_are_opened(pages):
    client = create_app(pages, secret=SECRET, limits=Limits(ahead=2)).test_client()
    wait_for(lambda: pages.drawn() == [1, 2])
    assert client.get(path(1)).status_code == 200
    wait_for(lambda: pages.drawn() == [1, 2, 3])
    assert client.get(path(3)).status_code == 200
    wait_for(lambda: pages.drawn() == [1, 2, 3, 4, 5])


def test_kept_pictures_stay_under_their_limit_and_the_least_recently_used_go(pages):
    sheets = Sheets(pages, ImageCache())
    size = len(sheets.sheet(1, CropStyle()))
    sheets = Sheets(pages, ImageCache(), limit=int(2.5 * size))
    pages.asked.clear()
    for page in (1, 2, 1, 3, 1, 2):
        sheets.sheet(page, CropStyle())
    assert pages.asked == [1, 2, 3, 2], "the second was dropped for the third, the first was not"


def test_several_who_open_a_page_at_once_draw_it_once(pages):
    sheets = Sheets(pages, ImageCache())
    threads = [threading.Thread(target=sheets.sheet, args=(4, CropStyle())) for _ in range(15)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pages.asked == [4]


def test_where_pages_cannot_be_looked_up_they_are_drawn_when_asked_for(pages, caplog):
    pages.following = lambda *_: 1 / 0
    client = create_app(pages, secret=SECRET, limits=Limits(ahead=2)).test_client()
    wait_for(lambda: "pages are not drawn ahead" in caplog.text)
    assert client.get(path(1)).status_code == 200
