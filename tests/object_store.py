"""Object stores for tests: moto's S3 server where it is installed, and what fsspec has by itself."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

ACCESS = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
_numbers = count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server for all tests of a run."""
    pytest.importorskip("s3fs", reason="needs s3fs (the extra s3)")
    server_of = pytest.importorskip("moto.server", reason="needs moto, for an S3 server")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_of.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The URL of an empty bucket, with credentials in the environment, and nothing of this machine's own."""
    import fsspec

    for name, value in (ACCESS | {"AWS_ENDPOINT_URL": s3_server, "AWS_EC2_METADATA_DISABLED": "true"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    fsspec.filesystem("s3").clear_instance_cache()
    name = f"bucket-{next(_numbers)}"
    fsspec.filesystem("s3", use_listings_cache=False).mkdir(name)
    yield f"s3://{name}"
    check_credentials(s3_server, False)
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture(params=["memory", "file", "s3"])
def bucket_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a place without objects, in each kind of store."""
    if request.param == "s3":
        return f"{request.getfixturevalue('s3')}/campaigns/mine"
    if request.param == "file":
        return f"file://{tmp_path / 'bucket'}/mine"
    return f"memory://bucket-{next(_numbers)}/mine"


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machines:
    """Makes this process go on as if on another machine."""
    return Machines(monkeypatch, tmp_path)


class Machines:
    """Machines with a cache each. `machines("a")` is this process from then on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path):
        self._monkeypatch, self._folder = monkeypatch, folder

    def __call__(self, name: str) -> Path:
        """The folder of that machine."""
        own = self._folder / "machines" / name
        own.mkdir(parents=True, exist_ok=True)
        self._monkeypatch.setenv("CAMPAIGN_CACHE", str(own / "campaigns"))
        self._monkeypatch.setenv("CAMPAIGN_IMAGE_CACHE", str(own / "images"))
        self._monkeypatch.setenv("HOME", str(own))
        return own


def check_credentials(server: str, wanted: bool) -> None:
    """Has moto look at credentials, of which it knows none, or take all."""
    plain = {"Content-Type": "text/plain"}
    with urlopen(Request(f"{server}/moto-api/reset-auth", b"0" if wanted else b"inf", plain)):
        pass
