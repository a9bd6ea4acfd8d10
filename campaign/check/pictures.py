"""Whether the images of a source project can be had from here, and are shown by annotators' browsers."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterator
from itertools import islice
from urllib.parse import urljoin, urlparse

import requests

from campaign.check.lines import Line, ok, unknown, wrong
from campaign.label_studio.client import Client, is_local
from campaign.label_studio.controls import mask_controls
from ml_backend.errors import InputError
from ml_backend.masks.images import image_size
from ml_backend.server.image_files import ImageFiles

LOOKED_AT = 200  # tasks, of which one of each kind of address is tried
CLOUDS = {"s3": "S3", "gs": "Google Cloud", "azure-blob": "Azure"}
_MEND = {
    "local files": "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and ..._DOCUMENT_ROOT where Label Studio runs, and a "
    "local storage of the project that covers the folder",
    "uploads": "a token of a member who sees the project; LABEL_STUDIO_HOST must be Label Studio's address",
    "web": "name its host in CAMPAIGN_IMAGE_HOSTS where it lies in a private network, or open it to this machine",
    "cloud": "connect the storage to the project with credentials that may read it, or name its bucket in "
    "CAMPAIGN_IMAGE_BUCKETS where this machine's credentials may",
}


def pictures(client: Client, project_id: int) -> Iterator[Line]:
    """What there is to say of the project and of the images that its tasks name."""
    thing = f"project {project_id}"
    try:
        controls = mask_controls(client.project(project_id)["label_config"])
        tasks = list(islice(client.tasks(project_id, "id,data", page_size=LOOKED_AT), LOOKED_AT))
    except InputError as error:
        yield wrong(
            thing, error, "another project, or a labeling config with an Image and brush, polygons or rectangles"
        )
        return
    if not tasks:
        yield wrong(thing, "no tasks", "import images, and annotate some of them")
        return
    yield ok(
        thing, f"{len(tasks)}{' or more' if len(tasks) == LOOKED_AT else ''} tasks, {len(controls.classes)} classes"
    )
    first: dict[str, tuple[int, str]] = {}
    for task in tasks:
        address = (task.get("data") or {}).get(controls.data_key)
        if isinstance(address, str) and address:
            first.setdefault(kind_of_address(address, client.url), (int(task["id"]), address))
    if not first:
        yield wrong(thing, f"no task has an image under {controls.data_key!r}", "name the data key in the Image tag")
    for kind, (task_id, address) in first.items():
        yield _from_here(client, kind, task_id, address)
        yield _from_browsers(client, kind, task_id, address)


def kind_of_address(address: str, url: str) -> str:
    """uploads, local files, S3, Google Cloud, Azure or web: how Label Studio has an image.

    >>> kind_of_address("/labels/data/local-files/?d=a.png", "https://host/labels")
    'local files'
    >>> kind_of_address("s3://bucket/a.png", "https://host")
    'S3'
    """
    parsed = urlparse(address)
    if parsed.scheme in CLOUDS:
        return CLOUDS[parsed.scheme]
    if "/data/local-files/" in parsed.path:
        return "local files"
    inside = not parsed.scheme or parsed.hostname == urlparse(url).hostname
    return "uploads" if inside and "/data/upload/" in parsed.path else "web"


def _from_here(client: Client, kind: str, task_id: int, address: str) -> Line:
    thing = f"images ({kind}), from here"
    try:
        with tempfile.TemporaryDirectory(prefix="campaign-check-") as folder:
            path = ImageFiles(folder).get(
                address, hostname=client.url, token=client.access_token(), task_id=task_id, seconds=30
            )
            width, height = image_size(path)
    except InputError as error:
        return wrong(thing, f"task {task_id}: {error}", _MEND["cloud" if kind in CLOUDS.values() else kind])
    return ok(thing, f"task {task_id}, {width}x{height}")


def _from_browsers(client: Client, kind: str, task_id: int, address: str) -> Line:
    """Whether a browser with Label Studio's page open would load the image, as far as can be seen from here."""
    thing = f"images ({kind}), in browsers"
    target, page = _asked_by_browsers(client, kind, task_id, address), urlparse(client.url)
    parsed = urlparse(target)
    if is_local(target) and not is_local(client.url):
        hint = f"set LABEL_STUDIO_HOST={client.url} where Label Studio runs, and sync the storage again"
        return wrong(thing, f"{parsed.hostname} is another machine for each annotator", hint)
    if page.scheme == "https" and parsed.scheme == "http":
        return wrong(thing, f"browsers block {parsed.hostname} by http in a page of https", "serve the images by https")
    try:
        answer = _asked(client, target, f"{page.scheme}://{page.netloc}")
    except (requests.RequestException, InputError) as error:
        return unknown(thing, f"no answer from {parsed.hostname}: {type(error).__name__}")
    with answer:
        if not answer.ok:
            hint = _MEND["cloud" if kind in CLOUDS.values() else kind]
            return wrong(thing, f"{answer.status_code} from {urlparse(answer.url).hostname}", hint)
        host = urlparse(answer.url)
        if (host.hostname, host.port) == (page.hostname, page.port):
            return ok(thing, "from Label Studio itself")
        if answer.headers.get("Access-Control-Allow-Origin"):
            return ok(thing, f"from {host.hostname}, which allows other pages to read them (CORS)")
    said = f"{host.hostname} sends no Access-Control-Allow-Origin: images are shown, and tools that read pixels fail"
    return unknown(thing, said, f"allow {page.scheme}://{page.netloc} in its CORS rules")


def _asked_by_browsers(client: Client, kind: str, task_id: int, address: str) -> str:
    """The address that Label Studio's page asks for."""
    if kind in CLOUDS.values():
        name = base64.urlsafe_b64encode(address.encode()).decode()
        return f"{client.url}/tasks/{task_id}/resolve/?fileuri={name}"
    return urljoin(client.url + "/", address)


def _asked(client: Client, target: str, origin: str) -> requests.Response:
    """What a browser would be answered: Label Studio's own files by its session, for which our token stands."""
    session = requests.Session()
    session.trust_env = not is_local(target)
    headers = {"Origin": origin, "Range": "bytes=0-0"}
    if urlparse(target).netloc == urlparse(client.url).netloc:
        token = client.access_token()
        headers["Authorization"] = f"{'Bearer' if '.' in token else 'Token'} {token}"
    return session.get(target, headers=headers, timeout=20, stream=True)
