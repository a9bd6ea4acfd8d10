"""`campaign check` against the real Label Studio: as it is, under a path, with wrong tokens, with webhooks refused."""

import io
import json
import secrets
import socket
import threading
from dataclasses import replace

import pytest
import requests
from PIL import Image
from werkzeug.serving import make_server

from campaign.check import reach
from campaign.check.examination import Subject, examine
from campaign.check.lines import State
from campaign.check.server import label_studio as asked_of
from campaign.label_studio.client import Client
from campaign.label_studio.inquiry import release_of
from campaign.label_studio.server import LabelStudioServer, log_in
from campaign.label_studio.source import read_source
from campaign.pages.publishing import publish_missing
from campaign.store import Store
from campaign.web.serving import build_app
from tests.campaign.builders import turn, verify_store
from tests.prefix_proxy import prefix_proxy

pytestmark = pytest.mark.label_studio

CONFIG = (
    '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="cell"/></BrushLabels></View>'
)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def seen(subject):
    return {line.thing: line for line in examine(subject)}


def personal_token(server):
    """A personal token of a member who has none yet: Label Studio keeps one for each."""
    email, password = f"{secrets.token_hex(4)}@example.com", secrets.token_urlsafe(9)
    server.add_user(email, password)
    session = log_in(server.url, email, password)
    headers = {"X-CSRFToken": session.cookies["csrftoken"], "Referer": server.url}
    return session.post(f"{server.url}/api/token/", headers=headers, timeout=30).json()["token"]


def with_upload(client, token):
    """A project whose one task is an uploaded image."""
    project = client.request("POST", "api/projects/", body={"title": "checked", "label_config": CONFIG})["id"]
    content = io.BytesIO()
    Image.new("RGB", (32, 24)).save(content, "PNG")
    upload = {"file": ("x.png", content.getvalue())}
    address = f"{client.url}/api/projects/{project}/import"
    requests.post(address, headers={"Authorization": f"Token {token}"}, files=upload).raise_for_status()
    return project


@pytest.mark.parametrize("kind", ["legacy", "personal"])
def test_all_is_well(label_studio, label_studio_client, kind, monkeypatch):
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    token = label_studio.token if kind == "legacy" else personal_token(label_studio)
    project = with_upload(label_studio_client, label_studio.token)
    before = label_studio_client.request("GET", "api/projects/")["count"]
    subject = Subject(url=label_studio.url, token=token, project=project, public_url=f"http://127.0.0.1:{free_port()}")
    lines = seen(subject)
    assert not [line for line in lines.values() if line.state == State.WRONG]
    assert lines["token"].text.startswith(kind)
    for thing in ("Label Studio", "address", "webhooks", "crops", "images (uploads), from here"):
        assert lines[thing].state == State.OK, lines[thing]
    assert lines["images (uploads), in browsers"].text == "from Label Studio itself"
    assert label_studio_client.request("GET", "api/projects/")["count"] == before


def test_images_that_cannot_be_had_or_shown(label_studio, label_studio_client):
    client = label_studio_client
    project = client.request("POST", "api/projects/", body={"title": "away", "label_config": CONFIG})["id"]
    tasks = [{"image": "/data/local-files/?d=gone/a.png"}, {"image": "http://127.0.0.1:9/a.png"}]
    client.request("POST", f"api/projects/{project}/import", body=[{"data": data} for data in tasks])
    lines = seen(Subject(url=client.url, token=label_studio.token, project=project, hooks=False))
    for kind, hint in (("local files", "LOCAL_FILES_SERVING_ENABLED"), ("web", "CAMPAIGN_IMAGE_HOSTS")):
        line = lines[f"images ({kind}), from here"]
        assert line.state == State.WRONG and hint in line.mend
    assert lines["images (local files), in browsers"].state == State.WRONG
    assert lines["images (web), in browsers"].state == State.UNKNOWN
    none = seen(Subject(url=client.url, token=label_studio.token, project=10**6, hooks=False))
    assert none[f"project {10**6}"].state == State.WRONG and "webhooks" in none


def test_tokens_that_are_none(label_studio, label_studio_client):
    access = Client(label_studio.url, personal_token(label_studio)).access_token()
    for token, said in (("0" * 40, "Invalid token"), (access, "short-lived"), ("nonsense", "unknown")):
        line = list(asked_of(label_studio.url, token))[-1]
        assert (line.thing, line.state) == ("token", State.WRONG) and said in line.text and "make another" in line.mend
    assert list(asked_of(label_studio.url, None))[-1].state == State.UNKNOWN


class NoEvents:
    """A firewall: the campaign's server behind it, and no webhook gets through."""

    def __init__(self, app):
        self.app = app
        self.blocked = False

    def __call__(self, environ, start_response):
        if self.blocked and environ["PATH_INFO"] == "/webhook":
            start_response("502 Bad Gateway", [("Content-Length", "0")])
            return [b""]
        return self.app(environ, start_response)


def test_a_running_campaign_and_a_blocked_webhook(label_studio, label_studio_client, tmp_path, monkeypatch):
    monkeypatch.setattr(reach, "PATIENCE", 3.0)
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.token)
    port = free_port()
    store = verify_store(tmp_path / "c", label_studio={"url": label_studio.url})
    turn(store)
    content = json.loads((store.folder / "campaign.json").read_text())
    content["settings"]["page"] = {"public_url": f"http://127.0.0.1:{port}"}
    (store.folder / "campaign.json").write_text(json.dumps(content))
    store = Store.open(store.folder)
    publish_missing(store, label_studio_client)
    gate = NoEvents(build_app(store.folder))
    server = make_server("127.0.0.1", port, gate, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        lines = seen(Subject(store.folder))
        assert not [line for line in lines.values() if line.state == State.WRONG]
        assert "one of a published page" in lines["crops"].text
        assert "arrive at" in lines["webhooks"].text
        assert sum(thing.startswith("webhook of project") for thing in lines) == 1
        gate.blocked = True
        blocked = seen(Subject(store.folder))["webhooks"]
        assert blocked.state == State.WRONG and "nothing arrived" in blocked.text and "open the way" in blocked.mend
    finally:
        server.shutdown()
    moved = seen(Subject(store.folder, public_url=f"http://127.0.0.1:{free_port()}", hooks=False))
    (line,) = [line for thing, line in moved.items() if thing.startswith("webhook of project")]
    assert line.state == State.WRONG and line.mend == "campaign publish --again"


@pytest.fixture(scope="module")
def under_a_path(tmp_path_factory):
    """(address, address without the path, server) of a Label Studio under /labels that refuses local webhooks."""
    port, outer = free_port(), free_port()
    with prefix_proxy("/labels", f"http://127.0.0.1:{port}", outer) as url:
        settings = {"LABEL_STUDIO_HOST": url, "LABEL_STUDIO_SSRF_PROTECTION_ENABLED": "true"}
        with LabelStudioServer(tmp_path_factory.mktemp("under"), port=port, settings=settings) as server:
            yield url, server.url, server


def test_under_a_path(under_a_path, tmp_path):
    url, _, server = under_a_path
    client = Client(url, server.token)
    project = with_upload(client, server.token)
    subject = Subject(
        url=url,
        token=Client(url, server.token).request("POST", "api/token/")["token"],
        project=project,
        public_url="http://127.0.0.1:1",
    )
    lines = seen(replace(subject, public_url=f"http://127.0.0.1:{free_port()}"))
    assert lines["address"].text.endswith("/labels") and lines["token"].state == State.OK
    assert lines["images (uploads), from here"].state == lines["images (uploads), in browsers"].state == State.OK
    assert [image.file_name for image in read_source(client, project, tmp_path).pool.images] == ["x.png"]
    hook = lines["webhooks"]
    if tuple(map(int, release_of(url).split(".")[:3])) <= (1, 23, 0):  # which refuses no address
        assert hook.state == State.OK
    else:
        assert hook.state == State.WRONG and "LABEL_STUDIO_SSRF_PROTECTION_ENABLED=false" in hook.text


def test_a_path_that_only_one_side_knows(under_a_path, label_studio):
    url, origin, server = under_a_path
    inner = {line.thing: line for line in asked_of(origin, server.token)}
    assert inner["address"].state == State.WRONG and "sends browsers to /labels" in inner["address"].text
    (outside,) = asked_of(url.removesuffix("/labels"), server.token)
    assert outside.state == State.WRONG and "with its path" in outside.mend
    with prefix_proxy("/annotate", label_studio.url) as unknown:
        lines = {line.thing: line for line in asked_of(unknown, label_studio.token)}
    assert lines["address"].state == State.WRONG and f"LABEL_STUDIO_HOST={unknown}" in lines["address"].mend
