"""Images of tasks: fetched once, kept within the limit, refused in one line."""

import os

import pytest

from ml_backend.errors import FetchError, InputError
from ml_backend.masks.fetched import place_of
from ml_backend.server.image_files import ImageFiles, bucket_url
from tests.ml_backend.file_server import serve_folder, serve_status
from tests.object_store import check_credentials


@pytest.fixture(autouse=True)
def hosts(monkeypatch):
    """Images lie on this machine, and no Label Studio there is known."""
    monkeypatch.setenv("CAMPAIGN_IMAGE_HOSTS", "127.0.0.1")


@pytest.fixture
def web(tmp_path):
    folder = tmp_path / "web"
    (folder / "data" / "upload" / "1").mkdir(parents=True)
    for i in range(5):
        (folder / f"{i}.png").write_bytes(bytes([i]) * 1000)
    (folder / "data" / "upload" / "1" / "a.png").write_bytes(b"upload")
    return folder


def test_an_image_is_fetched_once(web, tmp_path):
    with serve_folder(web) as (url, asked):
        files = ImageFiles(tmp_path / "cache")
        first, second = files.get(f"{url}/1.png"), files.get(f"{url}/1.png")
    assert first == second and first.read_bytes() == bytes([1]) * 1000 and asked == ["/1.png"]


def test_an_upload_is_fetched_with_the_token_of_its_label_studio(web, tmp_path):
    with serve_folder(web, token="t0k3n") as (url, _):
        files = ImageFiles(tmp_path / "cache")
        path = files.get("/data/upload/1/a.png", hostname=url, token="t0k3n")
        assert path.read_bytes() == b"upload"
        with pytest.raises(InputError, match="an answer, got 401"):
            files.get("/data/upload/1/a.png?again", hostname=url, token="other")


def test_a_token_is_not_sent_to_other_hosts(web, tmp_path):
    with serve_folder(web, token="t0k3n") as (url, _), pytest.raises(InputError, match="401"):
        ImageFiles(tmp_path / "cache").get(f"{url}/1.png", hostname="http://label-studio", token="t0k3n")


def test_the_longest_unused_images_go_when_the_limit_is_passed(web, tmp_path):
    with serve_folder(web) as (url, asked):
        files = ImageFiles(tmp_path / "cache", limit=3500)
        for i in (0, 1, 2):
            path = files.get(f"{url}/{i}.png")
            os.utime(path.parent, (i, i))
        files.get(f"{url}/0.png")  # used again, so 1 is now the longest unused
        files.get(f"{url}/3.png")
        files.get(f"{url}/0.png")
        assert asked == ["/0.png", "/1.png", "/2.png", "/3.png"]
        files.get(f"{url}/1.png")
        assert asked[-1] == "/1.png"
    assert sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*.png")) <= 3500


@pytest.mark.parametrize(
    ("path", "kind"),
    [("401", FetchError), ("403", FetchError), ("404", InputError), ("429", FetchError), ("503", FetchError)],
)
def test_only_what_tells_of_the_image_is_held_against_it(tmp_path, path, kind):
    with serve_status() as url, pytest.raises(InputError, match=path) as caught:
        ImageFiles(tmp_path / "cache").get(f"{url}/{path}")
    assert type(caught.value) is kind


def test_a_server_that_drips_is_given_up(tmp_path):
    with serve_status() as url, pytest.raises(FetchError, match="Timeout"):
        ImageFiles(tmp_path / "cache").get(f"{url}/drip", seconds=0.5)
    assert list((tmp_path / "cache").iterdir()) == []


def test_images_of_this_machine_are_for_a_label_studio_on_it(web, tmp_path, monkeypatch):
    monkeypatch.delenv("CAMPAIGN_IMAGE_HOSTS")
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    with serve_folder(web) as (url, asked):
        for hostname in ("", "http://192.168.0.1"):
            with pytest.raises(FetchError, match="image host"):
                ImageFiles(tmp_path / "cache").get(f"{url}/1.png", hostname=hostname, token="t")
        assert asked == []
        assert ImageFiles(tmp_path / "cache").get(f"{url}/1.png", hostname="http://127.0.0.1:8080", token="t").exists()


def test_too_large_an_image_is_refused_and_leaves_nothing(web, tmp_path):
    with serve_folder(web) as (url, _), pytest.raises(InputError, match="at most 999 bytes"):
        ImageFiles(tmp_path / "cache", max_bytes=999).get(f"{url}/1.png")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "expected an address"),
        (None, "expected an address"),
        ("/etc/passwd", "expected an address in Label Studio"),
        ("file:///etc/passwd", "expected an address in Label Studio"),
        ("../../etc/passwd", "expected an address in Label Studio"),
        ("/data/upload/1/a.png", "expected an image that can be fetched"),  # and no Label Studio is known
        ("/data/upload/../../../../etc/passwd", "expected an address in Label Studio without steps upwards"),
        ("/data/local-files/?d=../../../etc/passwd", "expected an image that can be fetched"),
        ("http://127.0.0.1:9/a.png?sig=secret", "expected an answer, got ConnectionError"),
        ("s3://bucket/a.png", "expected an image that can be fetched"),
        ("http://[::1", "expected an address"),
        ("http://\ud800/a.png", "expected"),
        ("http://127.0.0.1:9/" + "a" * 5000, "expected an answer"),
    ],
)
def test_errors_name_an_image_without_its_secrets(tmp_path, url, message, monkeypatch):
    monkeypatch.delenv("LABEL_STUDIO_URL", raising=False)
    with pytest.raises(InputError, match=message) as caught:
        ImageFiles(tmp_path / "cache").get(url, task_id=1)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.fixture
def bucket(s3, tmp_path, monkeypatch):
    """The URL of a bucket with a picture and a large object, read directly by this machine."""
    import fsspec

    files = fsspec.filesystem("s3")
    for name, content in (("cells/a b.png", b"picture"), ("cells/large.png", b"x" * 2000), ("other/a.png", b"other")):
        files.pipe_file(f"{s3}/{name}", content)
    monkeypatch.setenv("CAMPAIGN_IMAGE_CACHE", str(tmp_path / "by-url"))
    monkeypatch.setenv("CAMPAIGN_IMAGE_BUCKETS", f"gs://more, {s3}/cells")
    return s3


def test_an_image_in_a_bucket_that_is_named_is_read_there(bucket, tmp_path):
    files = ImageFiles(tmp_path / "cache", max_bytes=1000)
    path = files.get(f"{bucket}/cells/a b.png")
    assert path.read_bytes() == b"picture" and place_of(path) == f"{bucket}/cells/a b.png"
    assert files.get(f"{bucket}/cells/a b.png") == path and list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cells/none.png", "expected an image file, got no such object"),
        ("cells/large.png", "expected at most 1000 bytes, got 2000 bytes"),
        ("cells/../other/a.png", "expected the plain name of an object"),
        ("cells/a.png::file:///etc/passwd", "expected the plain name of an object"),
        ("cells/" + "ü" * 60, "expected the plain name of an object"),
        ("cells/", "expected the plain name of an object"),
    ],
)
def test_what_is_refused_of_such_a_bucket(bucket, tmp_path, name, message):
    with pytest.raises(InputError, match=message) as caught:
        ImageFiles(tmp_path / "cache", max_bytes=1000).get(f"{bucket}/{name}")
    assert "\n" not in str(caught.value) and type(caught.value) is InputError


def test_other_buckets_are_asked_of_label_studio(bucket, tmp_path, web):
    with serve_folder(web) as (url, asked), pytest.raises(InputError):
        ImageFiles(tmp_path / "cache").get(f"{bucket}/other/a.png", hostname=url, token="t", task_id=7)
    assert [path.split("?")[0] for path in asked] == ["/tasks/7/presign/"]
    for address in (f"{bucket}-2/cells/a.png", f"{bucket}/cells-2/a.png", "https://host/cells/a.png"):
        assert bucket_url(address) is None
    assert bucket_url("gs://more/a.png") == "gs://more/a.png"


def test_an_azure_address_is_the_one_of_fsspec(monkeypatch):
    monkeypatch.setenv("CAMPAIGN_IMAGE_BUCKETS", "azure-blob://scans")
    assert bucket_url("azure-blob://scans/a/b.png") == bucket_url("az://scans/a/b.png") == "az://scans/a/b.png"


def test_a_store_that_takes_no_credentials_says_nothing_of_the_image(bucket, s3_server, tmp_path):
    check_credentials(s3_server, True)
    with pytest.raises(FetchError, match="credentials in the environment"):
        ImageFiles(tmp_path / "cache").get(f"{bucket}/cells/a b.png")
