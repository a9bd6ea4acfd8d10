"""The pictures that the web server shows: crops, parts and images, to whoever has a valid address."""

import io
import time

import pytest
from PIL import Image

from ml_backend.errors import InputError
from ml_backend.server.app import MaskView, create_app
from ml_backend.server.signing import crop_url, image_url, part_url
from tests.ml_backend.bright_objects import draw_spots
from tests.ml_backend.server.folder import SECRET, Folder


@pytest.fixture(autouse=True)
def hosts(monkeypatch):
    """Images lie on this machine, and no Label Studio there is known."""
    monkeypatch.setenv("CAMPAIGN_IMAGE_HOSTS", "127.0.0.1")


@pytest.fixture
def folder(tmp_path):
    return Folder(draw_spots(tmp_path / "a.png"))


def path_of(url: str) -> str:
    return url.removeprefix("http://h")


def crop(mask_id: int = 1, seconds: float = 86400) -> str:
    return path_of(crop_url("http://h", SECRET, mask_id, time.time() + seconds))


@pytest.mark.parametrize(
    ("query", "size", "kind"),
    [
        ("", (256, 256), "JPEG"),
        ("?size=64", (64, 64), "JPEG"),
        ("?size=999999", (2048, 2048), "JPEG"),
        ("?size=x", (256, 256), "JPEG"),
        ("?fill=0", (256, 256), "JPEG"),
        ("?view=image", (1200, 960), "JPEG"),
        ("?view=edit", (63, 55), "PNG"),
    ],
)
def test_a_crop_is_shown_in_every_view(folder, query, size, kind):
    answer = create_app(folder, secret=SECRET).test_client().get(crop() + query)
    picture = Image.open(io.BytesIO(answer.data))
    assert answer.status_code == 200 and (picture.size, picture.format) == (size, kind)
    assert answer.headers["Access-Control-Allow-Origin"] == "*" and "max-age" in answer.headers["Cache-Control"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (crop(seconds=-1), 403),
        (crop(7), 404),
        (crop(2), 404),  # the mask is not of the image's size
        (crop()[:-8] + "x.jpg", 403),
        ("/crops/nothing.jpg", 403),
        ("/images/" + crop()[7:-4], 403),  # signed for a crop
        (path_of(image_url("http://h", "other", 1, time.time() + 86400)), 403),
        (path_of(image_url("http://h", SECRET, 2, time.time() + 86400)), 404),
        (path_of(image_url("http://h", SECRET, 9, time.time() + 86400)), 404),
        ("/nothing", 404),
    ],
    ids=range(10),  # addresses differ from process to process
)
def test_what_may_not_or_cannot_be_shown_is_refused_briefly(folder, path, status):
    answer = create_app(folder, secret=SECRET).test_client().get(path)
    assert answer.status_code == status
    assert str(folder.path.parent) not in answer.text and "Traceback" not in answer.text and len(answer.text) < 200


@pytest.mark.parametrize(
    ("number", "status", "size"), [(1, 200, (1200, 960)), (2, 404, None), (3, 200, (480, 480)), (4, 404, None)]
)
def test_a_part_of_an_image_is_shown_with_its_masks(folder, number, status, size):
    client = create_app(folder, secret=SECRET).test_client()
    answer = client.get(path_of(part_url("http://h", SECRET, number, time.time() + 86400)))
    assert answer.status_code == status
    if size:
        assert Image.open(io.BytesIO(answer.data)).size == size and answer.mimetype == "image/jpeg"
        assert answer.headers["Content-Security-Policy"] == "sandbox"
    assert client.get(path_of(part_url("http://h", SECRET, number, time.time() - 1))).status_code == 403


def test_an_image_is_shown_as_it_is_or_brightened(folder):
    client = create_app(folder, secret=SECRET).test_client()
    path = path_of(image_url("http://h", SECRET, 1, time.time() + 86400))
    assert client.get(path).data == folder.path.read_bytes()
    assert Image.open(io.BytesIO(client.get(path + "?bright=1").data)).size == (100, 80)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"GIF89a/*\x00\x00\x00\x00\x00*/<script>alert(1)</script>", "application/octet-stream"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "application/octet-stream"),
        (b"<script>alert(1)</script>", "application/octet-stream"),
    ],
)
def test_an_image_is_never_a_page_on_this_origin(folder, content, kind):
    """Whatever its file is called: names come with tasks."""
    path = folder.path.with_name("abc__x.html")
    path.write_bytes(content)
    client = create_app(Folder(path), secret=SECRET).test_client()
    answer = client.get(path_of(image_url("http://h", SECRET, 1, time.time() + 86400)))
    assert answer.data == content and answer.mimetype == kind


@pytest.mark.parametrize(
    "path",
    [crop(), crop() + "?view=edit", path_of(image_url("http://h", SECRET, 1, 4e9))],
    ids=["crop", "edit", "image"],
)
@pytest.mark.parametrize("query", ["", "bright=1"])
def test_pictures_are_nothing_but_pictures(folder, path, query):
    answer = create_app(folder, secret=SECRET).test_client().get(path + ("&" if "?" in path else "?") + query)
    assert answer.status_code == 200
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == "sandbox"


def test_a_truncated_image_is_named_in_the_log_only(folder, caplog):
    folder.path.write_bytes(folder.path.read_bytes()[:60])
    answer = create_app(folder, secret=SECRET).test_client().get(crop())
    assert answer.status_code == 404 and answer.json == {"error": "the image cannot be shown"}
    assert "a.png" in caplog.text


def test_crops_need_a_secret(folder):
    with pytest.raises(InputError, match="secret"):
        create_app(folder, secret="")


class Counting(Folder):
    """The same, with pages, which notes what is looked up."""

    def __init__(self, path):
        super().__init__(path)
        self.asked: list[int] = []

    def page(self, number: int) -> list[int]:
        return {5: [1, 2]}.get(number, [])

    def mask(self, mask_id: int) -> MaskView:
        self.asked.append(mask_id)
        return super().mask(mask_id)


@pytest.mark.parametrize("first", [1, 2])
def test_the_crops_of_a_page_are_drawn_together_whichever_is_asked_for_first(folder, first):
    source = Counting(folder.path)
    client = create_app(source, secret=SECRET).test_client()
    paths = {i: path_of(crop_url("http://h", SECRET, i, time.time() + 9, page=5)) for i in (1, 2, 3)}
    statuses = {i: client.get(paths[i]).status_code for i in (first, 3 - first, 3)}
    assert statuses == {1: 200, 2: 404, 3: 404}, "the second is not of its image's size, the third not on the page"
    assert source.asked == [1, 2]
    # A size of one's own is drawn like any other, and a view of one alone after the others.
    for query in ("?size=257", "?size=300", "?size=512"):
        assert client.get(paths[first] + query).status_code == statuses[first]
    assert source.asked == [1, 2] * 2
    client.get(paths[first] + "?view=edit")
    assert source.asked[:4] == [1, 2] * 2 and source.asked[4:] in ([], [1], [2])
