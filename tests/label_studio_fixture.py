"""A real Label Studio for the tests, started once per session on 127.0.0.1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from campaign.label_studio.client import Client
from campaign.label_studio.server import LabelStudioServer, find_command
from ml_backend.errors import InputError


@pytest.fixture(scope="session")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudioServer]:
    """The running server. Its `files` folder may be read by projects as local files."""
    try:
        find_command()
    except InputError as error:
        pytest.skip(str(error))
    folder: Path = tmp_path_factory.mktemp("label-studio")
    (folder / "files").mkdir()
    server = LabelStudioServer(folder / "server", files=folder / "files")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def label_studio_client(label_studio: LabelStudioServer) -> Client:
    """A client that speaks to it as its admin."""
    return Client(label_studio.url, label_studio.token)
