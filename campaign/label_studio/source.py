"""A team's own project, read and never written: its masks, its images and what is still to be annotated."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import parse_qs, unquote, urlparse

import numpy as np
from pycocotools import mask as mask_util

from campaign.label_studio.annotations import Unknown, is_id, is_time, sound_regions, task_number
from campaign.label_studio.changes import OVERLAP, changed_since, newest_change, parsed, stated
from campaign.label_studio.client import Client, LabelStudioError
from campaign.label_studio.controls import MaskControls, mask_controls
from campaign.label_studio.task_notes import Region, TaskNote, TaskNotes, images_noted, own_name
from ml_backend.errors import InputError, Unavailable
from ml_backend.masks.brush import decode_brush
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord, SourceFields
from ml_backend.masks.fetched import file_of, is_fetched
from ml_backend.masks.images import image_size
from ml_backend.masks.limits import MAX_PIXELS, MAX_POINTS, check_size
from ml_backend.masks.polygons import fill
from ml_backend.server.image_files import ImageFiles, bucket_url

_Made = TypeVar("_Made")

logger = logging.getLogger(__name__)

# Label Studio applies the same list to a task and to its annotations.
FIELDS = "id,data,annotations,result,was_cancelled,ground_truth,updated_at"
# Annotated tasks with brush masks are large; a page costs Label Studio a quarter of a second whatever is on it.
PAGE_SIZE, PAGE_BYTES = 100, 8 << 20
DOWNLOADS = 8
NOTES_FILE = "tasks.sqlite"
SINCE = "since"  # the time from which on changes are not noted yet
# Bytes: a campaign needs all its images, so none is dropped for another.
NO_LIMIT = 1 << 62
FARTHEST = 10.0  # times the image's extent, of the corners of polygons and rectangles
UPLOAD_PREFIX = re.compile(r"^[0-9a-f]{8}-")


@dataclass(frozen=True)
class SourceImages:
    """The images of the tasks without annotations, as a stream from what was noted of them."""

    notes: Path
    about: str
    classes: dict[int, str]
    fields: SourceFields = field(default_factory=SourceFields, compare=False)

    @property
    def images(self) -> Iterator[ImageRecord]:
        """The images, by id."""
        return images_noted(self.notes, self.about)

    def rows(self) -> Iterator[tuple[ImageRecord, dict[str, Any]]]:
        """Each image, of which a task says nothing further."""
        return ((image, {}) for image in self.images)


@dataclass
class SourceProject:
    """What a source project holds. An image's id is its task's id.

    `labelled` and `heldout` are the annotated tasks, `pool` the others, without annotations. `left_out` counts
    regions that are no masks, by what they are.
    """

    classes: dict[int, str]
    labelled: CocoDataset
    heldout: CocoDataset
    pool: SourceImages
    left_out: dict[str, int] = field(default_factory=dict)


def read_source(
    client: Client,
    project_id: int,
    cache: str | Path,
    *,
    heldout_share: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SourceProject:
    """The project's tasks, with their images downloaded below `cache`; those that are there already are kept.

    Images in buckets of $CAMPAIGN_IMAGE_BUCKETS stay there, and are fetched as they are read, by whoever reads them.

    What was read is noted below `cache` too: called again, also after it was killed, it reads what changed since. A
    task counts as annotated where an annotation was not skipped: the ground truth, else the latest. Of the
    annotated tasks the share `heldout_share` (0 to 1) is held out, chosen by `seed` and task id alone. `progress` is
    called with (images done, images). Regions that are malformed are counted and left out. Raises InputError where the
    config takes no masks, a task has no image, an image cannot be had or read, or a mask is not of its image's size;
    LabelStudioError as a client does.
    """
    if not 0 <= heldout_share < 1:
        raise InputError("held-out share", "a number from 0 to below 1", heldout_share)
    config = client.project(project_id)["label_config"]
    controls = mask_controls(config)
    digest = hashlib.blake2b(config.encode(), digest_size=16).hexdigest()
    path, about = Path(cache) / NOTES_FILE, f"{client.url} {project_id} {digest}"
    with closing(TaskNotes(path, about)) as notes:
        _read_tasks(client, project_id, controls, notes)
        if not notes.count():
            raise InputError(f"project {project_id}", "at least one task", "none")
        left_out = notes.left_out()
        for what, count in sorted(left_out.items()):
            logger.warning("project %d: left out %d %s", project_id, count, what)
        classes = class_names(controls, notes.labels())
        _fetch_images(client, notes, Path(cache), progress)
        annotated = notes.annotated()
        held = held_out(annotated, heldout_share, seed)
        labelled, heldout = (_dataset(notes, classes, part) for part in (set(annotated) - held, held))
    return SourceProject(classes, labelled, heldout, SourceImages(path, about, classes), dict(left_out))


def _read_tasks(client: Client, project_id: int, controls: MaskControls, notes: TaskNotes) -> None:
    """Notes the tasks that are not noted yet, and anew those that were changed since they were."""
    newest = newest_change(client, project_id).at
    since = notes.get(SINCE) or newest
    if since is not None:
        notes.keep((), **{SINCE: since})
        changed = [changed_since(stated(parsed(since) - OVERLAP))]
        for filters, after in (([], notes.newest()), (changed, 0)):
            for page in _ahead(task_pages(client, project_id, FIELDS, after, filters)):
                notes.keep(_note(task, controls) for task in page)
        notes.keep((), **{SINCE: max(since, newest or since)})
    if newest_change(client, project_id).tasks != notes.count():
        notes.remove_others({task_number(task) for task in client.tasks(project_id, "id")})


def task_pages(
    client: Client, project_id: int, include: str, after: int = 0, filters: list[dict[str, Any]] | None = None
) -> Iterator[list[dict[str, Any]]]:
    """Annotated tasks, see `Client.task_pages`: in pages that are long where tasks are small."""
    return client.task_pages(
        project_id, include, after=after, filters=filters, annotations=True, page_size=PAGE_SIZE, page_bytes=PAGE_BYTES
    )


def _ahead(pages: Iterator[list[dict[str, Any]]]) -> Iterator[list[dict[str, Any]]]:
    """The same pages; while one is worked on, Label Studio makes the next."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, pages, None)
        while (page := coming.result()) is not None:
            coming = pool.submit(next, pages, None)
            yield page


def _note(task: dict[str, Any], controls: MaskControls) -> TaskNote:
    address, left_out = _address(task, controls), Counter[str]()
    chosen = standing_annotation(task)
    regions = None if chosen is None else parse_regions(chosen["result"], controls, left_out)
    return TaskNote(task_number(task), address, original_name(address), regions, left_out)


def standing_annotation(task: dict[str, Any]) -> dict[str, Any] | None:
    """The annotation that counts for a task: of those not skipped the ground truth, else the latest; or None."""
    listed = task.get("annotations")
    made = [
        a
        for a in (listed if isinstance(listed, list) else [])
        if isinstance(a, dict) and is_id(a.get("id")) and is_time(a.get("updated_at")) and not a.get("was_cancelled")
        and isinstance(a.get("result"), list)
    ]  # fmt: skip
    return max(made, key=lambda a: (a.get("ground_truth") is True, a["updated_at"], a["id"]), default=None)


def parse_regions(result: list[Any], controls: MaskControls, left_out: Counter[str] | None = None) -> list[Region]:
    """The masks in an annotation's result: brush, polygon, rectangle and ellipse regions with a class.

    Other regions, and those that are malformed, are counted in `left_out`.
    """
    left_out, unknown = Counter() if left_out is None else left_out, Unknown()
    parts: dict[str, list[dict[str, Any]]] = {}
    for number, part in enumerate(sound_regions(result, unknown)):
        if part["from_name"] in controls.controls:
            # A region of Labels and a plain Brush comes in two parts of one id.
            parts.setdefault(str(part.get("id", number)), []).append(part)
        else:
            left_out[f"{_kind(part)} regions"] += 1
    if unknown:
        left_out[MALFORMED] += unknown.total()
    regions = []
    for members in parts.values():
        region = _region(members)
        if isinstance(region, Region):
            regions.append(region)
        else:
            left_out[region] += 1
    return regions


MALFORMED = "malformed regions"


def _kind(part: dict[str, Any]) -> str:
    """The type of a region, where it is one of a word."""
    kind = str(part.get("type", "unknown"))
    return kind if re.fullmatch(r"[a-z]{1,30}", kind) else "unknown"


def _region(members: list[dict[str, Any]]) -> Region | str:
    """The region that the parts of one id make, or what it is instead of a mask with a class."""
    value: dict[str, Any] = {}
    for member in members:
        value |= member["value"]
    named = [m["value"].get(str(m.get("type")).lower(), []) for m in members]
    if not all(isinstance(own, list) and all(isinstance(label, str) for label in own) for own in named):
        return MALFORMED
    labels = tuple(dict.fromkeys(label for own in named for label in own))
    if not labels:
        return "regions without a class"
    if any(m.get("image_rotation") for m in members):
        return "regions on a turned image"
    width, height = members[0].get("original_width"), members[0].get("original_height")
    if not (type(width) is int and type(height) is int and width > 0 and height > 0 and width * height <= MAX_PIXELS):
        return MALFORMED
    try:
        rle = _mask(value, width, height)
    except (ValueError, TypeError, KeyError, OverflowError):
        return MALFORMED
    if rle is None:
        return "regions that are no mask"
    if not mask_util.area(rle):
        return "empty masks"
    return Region(labels, rle, width, height)


def held_out(task_ids: list[int], share: float, seed: int) -> set[int]:
    """The share of the tasks (rounded, but at least one to either side where there are two) that is held out.

    A task's place follows from `seed` and its id alone.
    """
    if not share or len(task_ids) < 2:
        return set()
    count = min(max(round(share * len(task_ids)), 1), len(task_ids) - 1)
    return set(sorted(task_ids, key=lambda t: hashlib.sha256(f"{seed} {t}".encode()).digest())[:count])


def file_names(addresses: dict[int, str]) -> dict[int, str]:
    """A file name for each task's image: as it was called before it was uploaded where that is unique."""
    names = {task_id: original_name(address) for task_id, address in addresses.items()}
    often = Counter(names.values())
    return {t: name if often[name] == 1 else own_name(t, name) for t, name in names.items()}


def original_name(address: str) -> str:
    """What the image at an address was called: the path below the storage, or the last part of the address."""
    parsed = urlparse(address)
    below = parse_qs(parsed.query).get("d")
    if below and "/data/" in parsed.path:
        parts = [p for p in PurePosixPath(below[-1]).parts if p not in ("/", "..", ".")]
        return "/".join(parts) or "image"
    name = PurePosixPath(unquote(parsed.path)).name or "image"
    return UPLOAD_PREFIX.sub("", name) if "/upload/" in parsed.path else name


def download(
    client: Client, addresses: Mapping[int, str], cache: Path, progress: Callable[[int, int], None] | None = None
) -> dict[int, Path]:
    """The image of each task as a file below `cache`. Raises InputError naming the task whose image cannot be had."""
    paths: dict[int, Path] = {}
    files = ImageFiles(cache, NO_LIMIT)
    for task, path in _several(addresses, lambda task, address: _download(client, files, task, address)):
        paths[task] = path
        if progress:
            progress(len(paths), len(addresses))
    return paths


def _several(addresses: Mapping[int, str], work: Callable[[int, str], _Made]) -> Iterator[tuple[int, _Made]]:
    """(task, what work makes of it and its image's address), several at a time."""
    pool = ThreadPoolExecutor(DOWNLOADS)
    try:
        jobs = {task: pool.submit(work, task, address) for task, address in addresses.items()}
        for task, job in jobs.items():
            yield task, job.result()
    finally:
        # After a failure nobody waits for the thousands that are still to come.
        pool.shutdown(cancel_futures=True)


def _fetch_images(client: Client, notes: TaskNotes, cache: Path, progress: Callable[[int, int], None] | None) -> None:
    """Fetches the images that are not there yet, and notes where they lie and how large they are."""
    files, done, total = ImageFiles(cache, NO_LIMIT), 0, notes.count()

    def work(task: int, address: str) -> tuple[int, Path, int, int]:
        path = _download(client, files, task, address)
        return (task, path, *_size(path, task, address))

    for portion in notes.addresses():
        missing = {t: address for t, (address, path) in portion.items() if path is None or not _is_kept(path)}
        done += len(portion) - len(missing)
        images: list[tuple[int, Path, int, int]] = []
        try:
            for _, image in _several(missing, work):
                images.append(image)
                done += 1
                if progress:
                    progress(done, total)
        finally:
            notes.keep_images(images)
        if progress and not missing:
            progress(done, total)


def _is_kept(path: Path) -> bool:
    """Whether an image is where it was noted; one in a bucket is fetched again where it is no longer here."""
    return is_fetched(path) or path.exists()


def _download(client: Client, files: ImageFiles, task_id: int, address: str) -> Path:
    try:
        if (url := bucket_url(address)) is not None:
            return file_of(url)
        return files.get(address, hostname=client.url, token=client.access_token(), task_id=task_id)
    except LabelStudioError:
        raise
    except InputError as error:
        raise InputError(f"image of task {task_id} ({address})", error.expected, error.got) from None


def _address(task: dict[str, Any], controls: MaskControls) -> str:
    address = (task.get("data") or {}).get(controls.data_key)
    if not isinstance(address, str) or not address:
        raise InputError(f"task {task['id']}", f"an image's address under {controls.data_key!r}", repr(address)[:60])
    return address


def _size(path: Path, task_id: int, address: str) -> tuple[int, int]:
    try:
        return image_size(path)
    except Unavailable:
        raise
    except InputError as error:
        raise InputError(f"image of task {task_id} ({address})", error.expected, error.got) from None


def class_ids(controls: MaskControls, regions: dict[int, list[Region]]) -> dict[int, str]:
    """`class_names` with the labels of these regions."""
    of_all = (region for of_task in regions.values() for region in of_task)
    return class_names(controls, {label for region in of_all for label in region.labels})


def class_names(controls: MaskControls, used: Collection[str]) -> dict[int, str]:
    """Class ids from 1 on, in the config's order; labels that only annotations have (dynamic ones) by name after it."""
    names = [*controls.classes, *sorted(set(used) - set(controls.classes))]
    if not names:
        raise InputError("labeling config", "at least one label", "none")
    return dict(enumerate(names, 1))


def _dataset(notes: TaskNotes, classes: dict[int, str], tasks: Collection[int]) -> CocoDataset:
    """Those of the annotated tasks, with their masks."""
    ids = {name: class_id for class_id, name in classes.items()}
    images = {image.id: image for image in notes.images(annotated=True) if image.id in tasks}
    annotations: list[Annotation] = []
    for task, regions in notes.annotations():
        if (image := images.get(task)) is None:
            continue
        for region in regions:
            size, own = f"{image.width}x{image.height}", f"{region.width}x{region.height}"
            if size != own:
                raise InputError(f"task {task}", f"masks of {size}", own)
            for label in region.labels:
                annotations.append(Annotation(len(annotations) + 1, task, ids[label], region.rle))
    return CocoDataset(list(images.values()), dict(classes), annotations)


def _mask(value: dict[str, Any], width: int, height: int) -> dict[str, Any] | None:
    """The mask of a region's value; None where it is no brush, polygon, rectangle or ellipse."""
    check_size(height, width)
    if "rle" in value:
        mask = decode_brush(value["rle"], height, width)
        return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    if "points" in value:
        return fill([_polygon(value["points"], width, height)], height, width)
    if {"x", "y", "radiusX", "radiusY"} <= value.keys():
        return _ellipse(value, width, height)
    if {"x", "y", "width", "height"} <= value.keys():
        return fill([_corners(value, width, height)], height, width)
    return None


def _polygon(points: Any, width: int, height: int) -> list[float]:
    """The points of a polygon, which are in percent of the image, in pixels."""
    if not isinstance(points, list) or len(points) > MAX_POINTS:
        raise ValueError(f"at most {MAX_POINTS} points")
    if not all(isinstance(point, list) and len(point) == 2 for point in points):
        raise ValueError("points of two numbers each")
    return [c for x, y in points for c in (_number(x) * width / 100, _number(y) * height / 100)]


def _ellipse(value: dict[str, Any], width: int, height: int) -> dict[str, Any]:
    """The pixels whose centres lie in an ellipse, which turns clockwise about its centre."""
    x, y = _number(value["x"]) * width / 100, _number(value["y"]) * height / 100
    a, b = _number(value["radiusX"]) * width / 100, _number(value["radiusY"]) * height / 100
    angle = math.radians(_number(value.get("rotation") or 0))
    down, across = np.mgrid[:height, :width] + 0.5
    along = (across - x) * math.cos(angle) + (down - y) * math.sin(angle)
    beside = (down - y) * math.cos(angle) - (across - x) * math.sin(angle)
    return mask_util.encode(np.asfortranarray((along * b) ** 2 + (beside * a) ** 2 <= (a * b) ** 2, dtype=np.uint8))


def _corners(value: dict[str, Any], width: int, height: int) -> list[float]:
    """The corners of a rectangle, which turns clockwise about its upper left one, in pixels."""
    x, y = _number(value["x"]) * width / 100, _number(value["y"]) * height / 100
    across, down = _number(value["width"]) * width / 100, _number(value["height"]) * height / 100
    angle = math.radians(_number(value.get("rotation") or 0))
    cos, sin = math.cos(angle), math.sin(angle)
    ends = [(0.0, 0.0), (across, 0.0), (across, down), (0.0, down)]
    return [c for a, d in ends for c in (x + a * cos - d * sin, y + a * sin + d * cos)]


def _number(value: Any) -> float:
    """A number as regions have them, in percent or degrees. Raises ValueError where it is none, or far too large."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 100 * FARTHEST:
        raise ValueError("expected a number near the image")
    return float(value)
