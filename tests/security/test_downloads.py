"""The downloader under attack: addresses of clouds' metadata, and what Label Studio's token is sent to."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from ml_backend.errors import FetchError, InputError
from ml_backend.server.addresses import ImageHosts, kind_of
from ml_backend.server.downloads import LimitedSession, is_file_route
from ml_backend.server.image_files import ImageFiles

METADATA = [
    "169.254.169.254", "169.254.170.2", "168.63.129.16", "192.0.0.192", "100.100.100.200", "fd00:ec2::254",
    "fd00:ec2::23", "fd20:ce::254", "::ffff:168.63.129.16", "64:ff9b::6464:64c8", "fe80::a9fe:a9fe",
]  # fmt: skip


@pytest.mark.parametrize("address", METADATA)
@pytest.mark.parametrize("named", ["", "images.example"])
@pytest.mark.parametrize("own", ["http://10.0.0.5", "http://images.example", "http://[fd00::5]"])
def test_metadata_of_clouds_is_never_asked(monkeypatch, address, named, own):
    monkeypatch.setenv("CAMPAIGN_IMAGE_HOSTS", named)
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, port, *_, **__: [
            (2, 1, 6, "", ({"images.example": address}.get(host, host), port)),
        ],
    )
    assert kind_of(address) == "metadata"
    for host in ("images.example", address):
        with pytest.raises(FetchError):
            ImageHosts(own).resolve(host, 80)


class Recorder(BaseHTTPRequestHandler):
    """Remembers who asked for what with which token; sends on where the path says so."""

    seen: list
    to = ""

    def do_GET(self):
        self.seen.append((self.path, self.headers.get("Authorization")))
        if "redirect" in self.path:
            self.send_response(302)
            self.send_header("Location", self.to)
            self.end_headers()
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"image")

    def log_message(self, *_):
        pass


@pytest.fixture
def label_studio():
    handler = type("H", (Recorder,), {"seen": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.handler, server.url = handler, f"http://127.0.0.1:{server.server_port}"
    yield server
    server.shutdown()


@pytest.mark.parametrize(
    ("address", "token"),
    [
        ("/data/upload/1/a.png", True),
        ("{url}/data/upload/1/a.png", True),
        ("/data/local-files/?d=a/b.png", True),
        ("/storage-data/uploaded/?filepath=upload/1/a.png", True),
        ("s3://bucket/a.png", True),
        ("{url}/api/current-user/reset-token", False),
        ("{url}/api/projects/1/export?d=x", False),
        ("{url}/user/account", False),
        ("{url}/data/upload/../../api/users/", False),
        ("{url}/data/upload/1/%2e%2e/%2e%2e/%2e%2e/api/users/", False),
        ("{url}/data/upload/1/%252e%252e", False),
        ("{url}/tasks/1/presignx/", False),
        ("{url}/data/upload/١/a.png", False),
    ],
)
def test_the_token_goes_to_files_only(label_studio, tmp_path, address, token):
    files = ImageFiles(tmp_path)
    files.get(address.format(url=label_studio.url), hostname=label_studio.url, token="secret-token", task_id=7)
    assert label_studio.handler.seen
    assert all((given == "Token secret-token") == token for _, given in label_studio.handler.seen)


@pytest.mark.parametrize(
    "address",
    [
        "/data/../api/users/?d=a", "/data/upload/../../api/users/", "/data/%2e%2e/api/users/?d=a", "upload/../x",
        "/data/upload/1/..%2f..%2fapi", "/storage-data/uploaded/../../api/?filepath=a", "/data/\\..\\api?d=a",
    ],
)  # fmt: skip
def test_a_path_that_leads_upwards_is_no_image(label_studio, tmp_path, address):
    with pytest.raises(InputError):
        ImageFiles(tmp_path).get(address, hostname=label_studio.url, token="secret-token", task_id=7)
    assert label_studio.handler.seen == []


def test_a_redirect_takes_the_token_to_no_other_route(label_studio, tmp_path):
    label_studio.handler.to = "/api/users/"
    ImageFiles(tmp_path).get("/data/local-files/?d=redirect.png", hostname=label_studio.url, token="t", task_id=7)
    assert [given for _, given in label_studio.handler.seen] == ["Token t", None]


@pytest.mark.parametrize(
    ("url", "own", "is_one"),
    [
        ("http://ls/data/upload/1/a.png", "http://ls", True),
        ("http://ls/sub/data/upload/1/a.png", "http://ls/sub/", True),
        ("http://ls/data/upload/1/a.png", "http://ls/sub/", False),
        ("http://ls/data/upload/1/a.png", "https://ls", False),
        ("http://ls:81/data/upload/1/a.png", "http://ls", False),
        ("http://ls@evil/data/upload/1/a.png", "http://ls", False),
        ("http://u@ls/data/upload/1/a.png", "http://ls", False),
        ("http://ls:x/data/upload/1/a.png", "http://ls", False),
        ("http://ls/data/upload/1/a.png", "", False),
    ],
)
def test_routes_of_files(url, own, is_one):
    assert is_file_route(url, own) == is_one


def test_a_redirect_leads_to_no_metadata(label_studio):
    label_studio.handler.to = "http://168.63.129.16/metadata"
    with (
        LimitedSession(1000, 5, ImageHosts(label_studio.url)) as session,
        pytest.raises(FetchError, match="metadata"),
    ):
        session.get(f"{label_studio.url}/redirect")
