from __future__ import annotations

import functools
import http.server
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from campaign.label_studio.client import Client
from campaign.label_studio.verification import create_project


@pytest.fixture
def verification_project(label_studio_client: Client) -> Callable[[], int]:
    """Makes a fresh verification project and returns its id. A title names a project, so no two are alike."""
    return lambda: create_project(label_studio_client, f"Verify [{uuid.uuid4().hex[:12]}]")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of six grey images, im0.png to im5.png, of 64x48 pixels."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        pixels = np.full((48, 64, 3), 40 * i, np.uint8)
        Image.fromarray(pixels).save(folder / f"im{i}.png")
    return folder


@pytest.fixture
def web(images: Path) -> Iterator[str]:
    """The address at which these images are served."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=images)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
